/* page_file.h - memory in a checkpoint directory: "pagemap..." says which pages there are, a pages-N.img of its own
 * has them one behind the other.
 */
#ifndef PHAUL_PAGE_FILE_H
#define PHAUL_PAGE_FILE_H

#include "image.h"

#define PAGES_AT_ONCE 64u	/* that are read, or written, by one call */

struct page_writer {
	int directory;
	struct image_set *images;
	uint32_t last_id;		/* of pages-N.img: counts through the checkpoint */
	const char *base;		/* of the image that is being written */
	int64_t id;
	int file;
	uint8_t *buffer;		/* PAGES_AT_ONCE pages */
	uint64_t pages;			/* written, of all */
};

int page_writer_open(int directory, struct image_set *images, struct page_writer *ret);
void page_writer_close(struct page_writer *w);

/* Gets `size` bytes of what is written, from `at` on. */
typedef int page_read_fn(void *ctx, uint64_t at, uint8_t *to, size_t size);

/* Between begin and end: ranges, ascending, of "pagemap-ID" or "pagemap-shmem-ID". */
int page_writer_begin(struct page_writer *w, const char *base, int64_t id);
int page_writer_put(struct page_writer *w, uint64_t at, uint64_t pages, page_read_fn *read, void *ctx);
int page_writer_end(struct page_writer *w);

/* Takes `pages` pages that belong at `at`. */
typedef int page_place_fn(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err);

/* Reads what one such image tells of. */
int page_file_read(const struct image_set *images, int directory, const char *base, int64_t id, page_place_fn *place,
		   void *ctx, struct phaul_error *err);

#endif
