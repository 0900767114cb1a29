/* page_file.h - memory into a checkpoint's directory, and out of one: "pagemap..." says which pages there are, a pages-N.img of
 * its own has them one behind the other, but for those that the checkpoint before has the same.
 */
#ifndef PHAUL_PAGE_FILE_H
#define PHAUL_PAGE_FILE_H

#include "image_sink.h"
#include "pages_before.h"

#define PAGES_AT_ONCE 64u	/* that are read, or written, by one call */

enum { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };	/* CRIU's */

struct page_writer {
	const struct chain *chain;	/* the directory, and those before it */
	const struct pages_elsewhere *elsewhere;	/* NULL: it is here */
	struct image_set *images;
	struct image_sink *sink;
	uint32_t last_id;		/* of pages-N.img: counts through the checkpoint */
	char name[32];
	const char *base;		/* of the image that is being written */
	int64_t id;
	bool is_open;
	struct pages_before before;	/* what the one before has of it */
	uint8_t *buffer;		/* PAGES_AT_ONCE pages */
	struct page_run run;		/* that is not in the image yet */
	uint64_t pages, written;	/* of all images: with those that the one before has */
};

/* What fails is told in sink->err, if it is the images' fault. */
int page_writer_open(const struct chain *chain, const struct pages_elsewhere *elsewhere, struct image_set *images,
		     struct image_sink *sink, struct page_writer *ret);
void page_writer_close(struct page_writer *w);

/* Gets `size` bytes of what is written, from `at` on. */
typedef int page_read_fn(void *ctx, uint64_t at, uint8_t *to, size_t size);

/* Between begin and end: ranges, ascending, of "pagemap-ID" or "pagemap-shmem-ID". Pages are compared with those of the
 * checkpoint before: which are equal is known without any help of the kernel, and whatever has happened meanwhile. A tracker that
 * knows which ranges were not written since would spare that. */
int page_writer_begin(struct page_writer *w, const char *base, int64_t id);
int page_writer_put(struct page_writer *w, uint64_t at, uint64_t pages, page_read_fn *read, void *ctx);
int page_writer_end(struct page_writer *w);

/* Takes `pages` pages that belong at `at`. */
typedef int page_place_fn(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err);

/* Reads what one such image tells of. -EPROTO if that isn't what was dumped, which is known when all of a run were placed. */
int page_file_read(const struct chain *chain, const char *base, int64_t id, page_place_fn *place, void *ctx,
		   struct phaul_error *err);

/* `pages` pages from `at` on of such an image, checked as above. -ENOENT: it, or some of them, are not there. */
int page_file_read_some(const struct chain *chain, const char *base, int64_t id, uint64_t at, uint64_t pages, uint8_t *to,
			struct phaul_error *err);

#endif
