/* page_dedup.c - pages of the checkpoints before one that it has newer ones of take no place on the disk any more: holes are
 * punched into their pages-N.img. Nothing else changes, so that those checkpoints are good for this one only.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "inventory.h"
#include "page_image.h"

#define PAGE 4096ull

struct dedup {
	struct chain chain;
	struct page_image image;
	uint64_t pages;
	struct phaul_error *err;
};

static int punch(struct dedup *d, size_t level, uint64_t first, uint64_t pages)
{
	char name[CHAIN_PREFIX_SIZE + 64];

	d->pages += pages;
	if (!fallocate(d->image.levels[level].file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first * PAGE, pages * PAGE))
		return 0;
	return phaul_fail(d->err, -errno, "dedup", "punching a hole into %s", page_image_name(&d->image, level, true, name));
}

/* What is not known in one is nobody's concern before it, as criu has it. */
static int replace(struct dedup *d, size_t level, uint64_t at, uint64_t end)
{
	const struct page_run *run;
	int code = 0;

	while (!code && level < d->image.count && at < end && (run = page_level_find(&d->image.levels[level], at)) && run->at < end) {
		uint64_t from = run->at > at ? run->at : at, run_end = run->at + run->pages * PAGE, until = run_end < end ? run_end : end;

		if (!run->in_parent)
			code = punch(d, level, run->first + (from - run->at) / PAGE, (until - from) / PAGE);
		code = code ?: replace(d, level + 1, from, until);
		at = until;
	}
	return code;
}

static int dedup_image(struct dedup *d, const char *base, int64_t id)
{
	int code = page_image_open(&d->chain, 0, base, id, true, &d->image, d->err);

	for (size_t i = 0; !code && i < d->image.levels[0].count; i++) {
		const struct page_run *run = &d->image.levels[0].runs[i];

		if (!run->in_parent)
			code = replace(d, 1, run->at, run->at + run->pages * PAGE);
	}
	page_image_close(&d->image);
	return code;
}

static int dedup_all(struct dedup *d, const struct image_set *images)
{
	const char *base;
	int64_t id;
	int code = 0;

	for (size_t i = 0; !code && image_set_name(images, i); i++)
		if (page_image_is(image_set_name(images, i), &base, &id))
			code = dedup_image(d, base, id);
	return code;
}

int phaul_dedup(int directory, uint64_t *ret_pages, struct phaul_error *err)
{
	struct dedup d = { .err = err };
	struct image_set *images = NULL;
	int code = image_set_load(directory, &images, err) ?: inventory_check(images, directory, err) ?: chain_open(directory, images, &d.chain, err);

	if (!code && d.chain.count < 2)
		code = phaul_fail(err, -ENOENT, "dedup", "there is no link \"parent\" to a checkpoint before this one");
	code = code ?: dedup_all(&d, images);
	*ret_pages = d.pages;
	chain_close(&d.chain);
	image_set_free(images);
	return code;
}
