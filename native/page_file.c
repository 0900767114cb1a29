#include "page_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"

#define PAGE 4096ul

/* ---- writing ---- */

int page_writer_open(const struct chain *chain, struct image_set *images, struct page_writer *ret, struct phaul_error *err)
{
	*ret = (struct page_writer){
		.chain = chain, .images = images, .file = -1, .buffer = malloc(PAGES_AT_ONCE * PAGE), .old = malloc(PAGES_AT_ONCE * PAGE),
		.err = err,
	};
	return ret->buffer && ret->old ? 0 : -ENOMEM;
}

void page_writer_close(struct page_writer *w)
{
	if (w->file >= 0)
		close(w->file);
	w->file = -1;
	page_image_close(&w->before);
	free(w->buffer);
	free(w->old);
	w->buffer = w->old = NULL;
}

int page_writer_begin(struct page_writer *w, const char *base, int64_t id)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	char name[32];
	int code = page_image_open(w->chain, 1, base, id, false, &w->before, w->err);

	if (code && code != -ENOENT)
		return code;
	w->base = base;
	w->id = id;
	w->run = (struct page_run){0};
	head.pages_id = ++w->last_id;
	snprintf(name, sizeof(name), "pages-%u.img", head.pages_id);
	w->file = openat(w->chain->at[0].directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return w->file < 0 ? -errno : image_put(w->images, base, id, &head.base);
}

static int write_all(int fd, const uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t put = write(fd, bytes, size);

		if (put < 0 && errno != EINTR)
			return -errno;
		bytes += put > 0 ? put : 0;
		size -= put > 0 ? put : 0;
	}
	return 0;
}

static int put_run(struct page_writer *w)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;

	if (!w->run.pages)
		return 0;
	entry.vaddr = w->run.at;
	entry.compat_nr_pages = w->run.pages;
	entry.has_nr_pages = entry.has_flags = entry.has_phaul_sum = true;
	entry.nr_pages = w->run.pages;
	entry.flags = w->run.in_parent ? PE_PARENT : PE_PRESENT;
	entry.phaul_sum = w->run.sum;
	return image_put(w->images, w->base, w->id, &entry.base);
}

/* Some pages that are all in the one before, or all not. */
static int put_pages(struct page_writer *w, uint64_t at, uint64_t pages, const uint8_t *bytes, bool in_parent)
{
	int err = in_parent ? 0 : write_all(w->file, bytes, pages * PAGE);

	if (!err && (w->run.at + w->run.pages * PAGE != at || w->run.in_parent != in_parent)) {
		err = put_run(w);
		w->run = (struct page_run){ .at = at, .in_parent = in_parent };
	}
	w->run.pages += pages;
	for (uint64_t i = 0; i < pages; i++)
		w->run.sum += page_sum(at + i * PAGE, (const uint64_t *)(bytes + i * PAGE));
	w->pages += pages;
	w->written += in_parent ? 0 : pages;
	return err;
}

/* `w->old` has what the one before has for them. */
static int put_compared(struct page_writer *w, uint64_t at, uint64_t pages, const uint8_t *bytes)
{
	int err = 0;

	for (uint64_t from = 0, until; from < pages && !err; from = until) {
		bool same = !memcmp(bytes + from * PAGE, w->old + from * PAGE, PAGE);

		for (until = from + 1; until < pages && same == !memcmp(bytes + until * PAGE, w->old + until * PAGE, PAGE); )
			until++;
		err = put_pages(w, at + from * PAGE, until - from, bytes + from * PAGE, same);
	}
	return err;
}

/* `w->buffer` has them. */
static int put_some(struct page_writer *w, uint64_t at, uint64_t pages)
{
	struct page_place place;
	int err = 0;

	for (uint64_t done = 0; done < pages && !err; done += place.pages) {
		const uint8_t *bytes = w->buffer + done * PAGE;

		if (page_image_find(&w->before, 0, at + done * PAGE, pages - done, &place))
			err = put_pages(w, at + done * PAGE, place.pages, bytes, false);
		else
			err = page_image_read(&w->before, &place, w->old, w->err) ?: put_compared(w, at + done * PAGE, place.pages, bytes);
	}
	return err;
}

int page_writer_put(struct page_writer *w, uint64_t at, uint64_t pages, page_read_fn *read, void *ctx)
{
	int err = 0;

	for (uint64_t done = 0; done < pages && !err; done += PAGES_AT_ONCE) {
		uint64_t n = pages - done < PAGES_AT_ONCE ? pages - done : PAGES_AT_ONCE;

		err = read(ctx, at + done * PAGE, w->buffer, n * PAGE) ?: put_some(w, at + done * PAGE, n);
	}
	return err;
}

int page_writer_end(struct page_writer *w)
{
	int err = put_run(w);

	if (fsync(w->file) < 0 && !err)
		err = -errno;
	if (close(w->file) < 0 && !err)
		err = -errno;
	w->file = -1;
	page_image_close(&w->before);
	return err;
}

/* ---- reading ---- */

struct page_reader {
	struct page_image image;
	uint8_t *buffer;
	page_place_fn *place;
	void *ctx;
	struct phaul_error *err;
};

static int refuse_place(const struct page_reader *r, uint64_t at, const struct page_place *place)
{
	char pagemap[CHAIN_PREFIX_SIZE + 64], name[CHAIN_PREFIX_SIZE + 64], prefix[CHAIN_PREFIX_SIZE];

	page_image_name(&r->image, place->level - 1, false, pagemap);
	if (place->level < r->image.count)
		return phaul_fail(r->err, -EPROTO, "images", "%s says that page %llx is in its parent (flags), where %s tells of none: is it the "
				  "parent of this checkpoint?", pagemap, (unsigned long long)at,
				  page_image_name(&r->image, place->level, false, name));
	if (place->level < r->image.chain->count)
		return phaul_fail(r->err, -EPROTO, "images", "%s says that page %llx is in its parent (flags), and %s%s-%lld.img is missing: is "
				  "it the parent of this checkpoint?", pagemap, (unsigned long long)at, chain_prefix(place->level, prefix),
				  r->image.base, (long long)r->image.id);
	return phaul_fail(r->err, -EPROTO, "images", "%s says that page %llx is in its parent (flags), to which %sparent should lead, and "
			  "there is no such link", pagemap, (unsigned long long)at, chain_prefix(place->level - 1, prefix));
}

static int check_run(const struct page_reader *r, const struct page_run *run, uint64_t sum)
{
	char name[CHAIN_PREFIX_SIZE + 64];

	if (!run->has_sum || run->sum == sum)
		return 0;
	page_image_name(&r->image, 0, !run->in_parent, name);
	if (run->in_parent)
		return phaul_fail(r->err, -EPROTO, "images", "the pages %llx-%llx, which %s says are in its parent, are others there now "
				  "(phaul_sum): was it changed, deduplicated for another one, or is it not the parent?",
				  (unsigned long long)run->at, (unsigned long long)(run->at + run->pages * PAGE), name);
	return phaul_fail(r->err, -EPROTO, "images", "the pages %llx-%llx in %s are not those that were written (phaul_sum)",
			  (unsigned long long)run->at, (unsigned long long)(run->at + run->pages * PAGE), name);
}

static int place_run(struct page_reader *r, const struct page_run *run)
{
	uint64_t at = run->at, left = run->pages, sum = 0;
	struct page_place place;
	int code = 0;

	while (left && !code) {
		if (page_image_find(&r->image, 0, at, left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE, &place))
			return refuse_place(r, at, &place);
		code = page_image_read(&r->image, &place, r->buffer, r->err);
		for (uint64_t i = 0; i < place.pages && !code; i++)
			sum += page_sum(at + i * PAGE, (const uint64_t *)(r->buffer + i * PAGE));
		code = code ?: r->place(r->ctx, at, place.pages, r->buffer, r->err);
		at += place.pages * PAGE;
		left -= place.pages;
	}
	return code ?: check_run(r, run, sum);
}

int page_file_read(const struct chain *chain, const char *base, int64_t id, page_place_fn *place, void *ctx,
		   struct phaul_error *err)
{
	struct page_reader r = { .buffer = malloc(PAGES_AT_ONCE * PAGE), .place = place, .ctx = ctx, .err = err };
	int code = r.buffer ? page_image_open(chain, 0, base, id, false, &r.image, err) :
		   phaul_fail(err, -ENOMEM, "images", "reading pages");

	if (code == -ENOENT)
		image_malformed(base, id, err);
	for (size_t i = 0; !code && i < r.image.levels[0].count; i++)
		code = place_run(&r, &r.image.levels[0].runs[i]);
	page_image_close(&r.image);
	free(r.buffer);
	return code;
}
