#include "page_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "error.h"

#define PAGE 4096ul

/* ---- writing ---- */

int page_writer_open(const struct chain *chain, const struct pages_elsewhere *elsewhere, struct image_set *images,
		     struct image_sink *sink, struct page_writer *ret)
{
	*ret = (struct page_writer){
		.chain = chain, .elsewhere = elsewhere, .images = images, .sink = sink, .buffer = malloc(PAGES_AT_ONCE * PAGE),
	};
	return ret->buffer ? 0 : phaul_fail(sink->err, -ENOMEM, "images", "preparing to write pages");
}

void page_writer_close(struct page_writer *w)
{
	pages_before_close(&w->before);
	free(w->buffer);
	w->buffer = NULL;
}

int page_writer_begin(struct page_writer *w, const char *base, int64_t id)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	int code;

	w->base = base;
	w->id = id;
	w->run = (struct page_run){0};
	head.pages_id = ++w->last_id;
	snprintf(w->name, sizeof(w->name), "pages-%u.img", head.pages_id);
	code = pages_before_open(w->chain, w->elsewhere, base, id, &w->before, w->sink->err) ?: image_sink_open(w->sink, w->name);
	w->is_open = !code;
	return code ?: image_put(w->images, base, id, &head.base);
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
	int err = in_parent ? 0 : image_sink_write(w->sink, bytes, pages * PAGE);

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

/* `w->buffer` has them. */
static int put_some(struct page_writer *w, uint64_t at, uint64_t pages)
{
	bool same[PAGES_AT_ONCE];
	int err = pages_before_compare(&w->before, at, pages, w->buffer, same, w->sink->err);

	for (uint64_t from = 0, until; from < pages && !err; from = until) {
		for (until = from + 1; until < pages && same[until] == same[from]; )
			until++;
		err = put_pages(w, at + from * PAGE, until - from, w->buffer + from * PAGE, same[from]);
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
	int err = put_run(w), closed = w->is_open ? image_sink_close(w->sink) : 0;

	w->is_open = false;
	pages_before_close(&w->before);
	return err ?: closed;
}

/* ---- reading ---- */

struct page_reader {
	struct page_image image;
	uint8_t *buffer;
	page_place_fn *place;
	void *ctx;
	struct phaul_error *err;
};

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
			return page_image_missing(&r->image, at, &place, r->err);
		code = page_image_read(&r->image, &place, r->buffer, r->err);
		for (uint64_t i = 0; i < place.pages && !code; i++)
			sum += page_sum(at + i * PAGE, (const uint64_t *)(r->buffer + i * PAGE));
		code = code ?: r->place(r->ctx, at, place.pages, r->buffer, r->err);
		at += place.pages * PAGE;
		left -= place.pages;
	}
	return code ?: check_run(r, run, sum);
}

/* The runs that have any of [start, end). */
static int read_runs(const struct chain *chain, const char *base, int64_t id, uint64_t start, uint64_t end, page_place_fn *place,
		     void *ctx, struct phaul_error *err)
{
	struct page_reader r = { .buffer = malloc(PAGES_AT_ONCE * PAGE), .place = place, .ctx = ctx, .err = err };
	int code = r.buffer ? page_image_open(chain, 0, base, id, false, &r.image, err) :
		   phaul_fail(err, -ENOMEM, "images", "reading pages");

	for (size_t i = 0; !code && i < r.image.levels[0].count; i++) {
		const struct page_run *run = &r.image.levels[0].runs[i];

		if (run->at < end && run->at + run->pages * PAGE > start)
			code = place_run(&r, run);
	}
	page_image_close(&r.image);
	free(r.buffer);
	return code;
}

int page_file_read(const struct chain *chain, const char *base, int64_t id, page_place_fn *place, void *ctx,
		   struct phaul_error *err)
{
	int code = read_runs(chain, base, id, 0, UINT64_MAX, place, ctx, err);

	return code == -ENOENT ? image_malformed(base, id, err) : code;
}

struct taking {
	uint64_t start, end, taken;
	uint8_t *to;
};

static int take(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err)
{
	struct taking *t = ctx;
	uint64_t from = at > t->start ? at : t->start, end = at + pages * PAGE, until = end < t->end ? end : t->end;

	(void)err;
	if (from < until) {
		memcpy(t->to + (from - t->start), bytes + (from - at), until - from);
		t->taken += until - from;
	}
	return 0;
}

int page_file_read_some(const struct chain *chain, const char *base, int64_t id, uint64_t at, uint64_t pages, uint8_t *to,
			struct phaul_error *err)
{
	struct taking t = { .start = at, .end = at + pages * PAGE, .to = to };
	int code = read_runs(chain, base, id, t.start, t.end, take, &t, err);

	return code ? code : t.taken == pages * PAGE ? 0 : -ENOENT;
}
