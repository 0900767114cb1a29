/* page_image.h - the pages of one process, or of one piece of memory that processes share, in a checkpoint's directory and in
 * those before it: "pagemap..." says which there are, pages-N.img of the same directory has those that aren't in the one
 * before.
 */
#ifndef PHAUL_PAGE_IMAGE_H
#define PHAUL_PAGE_IMAGE_H

#include "chain.h"

struct page_run {
	uint64_t at, pages;
	uint64_t first;		/* in pages-N.img, counted in pages, if it is there */
	bool in_parent, has_sum;
	uint64_t sum;		/* of all its pages: page_sum() */
};

/* In one directory. */
struct page_level {
	struct page_run *runs;	/* ascending */
	size_t count;
	uint32_t pages_id;
	int file;		/* pages-N.img */
};

struct page_image {
	const struct chain *chain;
	size_t from;		/* the link of levels[0] */
	const char *base;
	int64_t id;
	struct page_level *levels;	/* as far as each directory has such an image */
	size_t count;
};

/* In the directory of `from` and those before it. `to_change`: pages-N.img of those before are opened to be written. -ENOENT:
 * there is none of this name, which err doesn't tell. */
int page_image_open(const struct chain *chain, size_t from, const char *base, int64_t id, bool to_change, struct page_image *ret,
		    struct phaul_error *err);
void page_image_close(struct page_image *image);

/* The run of this level that has `at`, or the next one behind it; NULL: there is none any more. */
const struct page_run *page_level_find(const struct page_level *level, uint64_t at);

/* Some pages that lie together. */
struct page_place {
	size_t level;
	uint64_t first, pages;
};

/* Where `pages` pages from `at` on are, or the first of them. -ENOENT: the first aren't anywhere, of which ret->level should have
 * had them, and ret->pages says how many. */
int page_image_find(const struct page_image *image, size_t level, uint64_t at, uint64_t pages, struct page_place *ret);
int page_image_read(const struct page_image *image, const struct page_place *place, uint8_t *to, struct phaul_error *err);

/* Is an image of this name one of those? */
bool page_image_is(const char *name, const char **ret_base, int64_t *ret_id);
/* The error for pages that page_image_find() has not found. */
int page_image_missing(const struct page_image *image, uint64_t at, const struct page_place *place, struct phaul_error *err);

/* The path of its pagemap, or pages, below the checkpoint's directory. */
const char *page_image_name(const struct page_image *image, size_t level, bool pages, char ret[CHAIN_PREFIX_SIZE + 64]);

#endif
