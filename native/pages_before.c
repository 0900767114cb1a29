#include "pages_before.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "image_sink.h"
#include "page_file.h"

#define PAGE 4096ull

void page_digest(const uint8_t *page, uint8_t ret[PAGE_DIGEST_SIZE])
{
	uint8_t whole[SHA256_DIGEST_LENGTH];

	SHA256(page, PAGE, whole);
	memcpy(ret, whole, PAGE_DIGEST_SIZE);
}

/* ---- there ---- */

struct telling {
	struct phaul_channel *ch;
	struct page_image image;
	uint8_t *note, *pages;
	struct phaul_error *err;
};

static int tell_some(struct telling *t, uint64_t at, uint64_t pages)
{
	struct digests_head head = { .id = t->image.id, .at = at, .pages = pages };
	uint8_t *digest = t->note + sizeof(head);
	int code = 0;

	strncpy(head.base, t->image.base, sizeof(head.base) - 1);
	memcpy(t->note, &head, sizeof(head));
	for (uint64_t left = pages, n; left && !code; left -= n, at += n * PAGE) {
		struct page_place place;

		code = page_image_find(&t->image, 0, at, left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE, &place) ?
		       page_image_missing(&t->image, at, &place, t->err) : page_image_read(&t->image, &place, t->pages, t->err);
		n = place.pages;
		for (uint64_t i = 0; i < n && !code; i++, digest += PAGE_DIGEST_SIZE)
			page_digest(t->pages + i * PAGE, digest);
	}
	return code ?: phaul_note_send(t->ch, SINK_BEFORE, t->note, digest - t->note, t->err);
}

static int tell_image(struct telling *t, const struct chain *chain, const char *base, int64_t id)
{
	int code = page_image_open(chain, 1, base, id, false, &t->image, t->err);

	for (size_t i = 0; !code && i < t->image.levels[0].count; i++) {
		const struct page_run *run = &t->image.levels[0].runs[i];

		for (uint64_t done = 0; done < run->pages && !code; done += DIGESTS_MAX)
			code = tell_some(t, run->at + done * PAGE, run->pages - done < DIGESTS_MAX ? run->pages - done : DIGESTS_MAX);
	}
	page_image_close(&t->image);
	return code;
}

int pages_tell(const struct chain *chain, struct phaul_channel *ch, struct phaul_error *err)
{
	struct telling t = {
		.ch = ch, .err = err, .pages = malloc(PAGES_AT_ONCE * PAGE),
		.note = malloc(sizeof(struct digests_head) + DIGESTS_MAX * PAGE_DIGEST_SIZE),
	};
	int code = t.pages && t.note ? 0 : phaul_fail(err, -ENOMEM, "images", "reading the checkpoint before");
	const char *base;
	int64_t id;

	for (size_t i = 0; !code && chain->count > 1 && image_set_name(chain->at[1].images, i); i++)
		if (page_image_is(image_set_name(chain->at[1].images, i), &base, &id))
			code = tell_image(&t, chain, base, id);
	free(t.pages);
	free(t.note);
	return code ?: phaul_note_send(ch, SINK_BEGIN, NULL, 0, err);
}

/* ---- here ---- */

static int add_run(struct pages_elsewhere *e, const uint8_t *note, size_t size)
{
	struct digested_run *larger, run;

	if (size < sizeof(run.head))
		return -EPROTO;
	memcpy(&run.head, note, sizeof(run.head));
	if (run.head.pages > DIGESTS_MAX || size != sizeof(run.head) + run.head.pages * PAGE_DIGEST_SIZE || run.head.at % PAGE ||
	    run.head.base[sizeof(run.head.base) - 1])
		return -EPROTO;
	larger = reallocarray(e->runs, e->count + 1, sizeof(*larger));
	e->runs = larger ? larger : e->runs;
	run.digests = larger ? malloc(run.head.pages * PAGE_DIGEST_SIZE) : NULL;
	if (!run.digests)
		return -ENOMEM;
	memcpy(run.digests, note + sizeof(run.head), run.head.pages * PAGE_DIGEST_SIZE);
	e->runs[e->count++] = run;
	return 0;
}

int pages_hear(struct pages_elsewhere *e, struct phaul_channel *ch, struct phaul_error *err)
{
	size_t capacity = sizeof(struct digests_head) + DIGESTS_MAX * PAGE_DIGEST_SIZE, size;
	uint8_t *note = malloc(capacity);
	uint32_t kind = SINK_BEFORE;
	int code = note ? 0 : phaul_fail(err, -ENOMEM, "images", "hearing of the checkpoint before");

	while (!code && kind == SINK_BEFORE) {
		code = phaul_note_receive(ch, &kind, note, capacity, &size, SINK_TIMEOUT_MS, err);
		if (code == -ENOBUFS || (!code && kind != SINK_BEGIN && kind != SINK_BEFORE))
			code = phaul_fail(err, -EPROTO, "images", "the other host sent a note %u of %zu bytes instead of digests", kind, size);
		if (code || kind == SINK_BEGIN)
			break;
		code = add_run(e, note, size);
		if (code)
			phaul_fail(err, code, "images", "hearing what the other host has of the checkpoint before");
	}
	free(note);
	return code;
}

void pages_elsewhere_free(struct pages_elsewhere *e)
{
	for (size_t i = 0; i < e->count; i++)
		free(e->runs[i].digests);
	free(e->runs);
	*e = (struct pages_elsewhere){0};
}

int pages_elsewhere_check_pid(const struct pages_elsewhere *e, pid_t pid, struct phaul_error *err)
{
	for (size_t i = 0; i < e->count; i++)
		if (!strcmp(e->runs[i].head.base, "pagemap") && e->runs[i].head.id == pid)
			return 0;
	return e->count ? phaul_fail(err, -EINVAL, "images", "the checkpoint before on the other host has no memory of pid %d: is it of another "
				     "process?", pid) : 0;
}

/* ---- comparing ---- */

int pages_before_open(const struct chain *chain, const struct pages_elsewhere *elsewhere, const char *base, int64_t id,
		      struct pages_before *ret, struct phaul_error *err)
{
	size_t first = 0, end;
	int code;

	*ret = (struct pages_before){ .old = malloc(PAGES_AT_ONCE * PAGE) };
	if (!ret->old)
		return -ENOMEM;
	if (!elsewhere) {
		code = page_image_open(chain, 1, base, id, false, &ret->image, err);
		return code == -ENOENT ? 0 : code;
	}
	while (first < elsewhere->count && (strcmp(elsewhere->runs[first].head.base, base) || elsewhere->runs[first].head.id != id))
		first++;
	for (end = first; end < elsewhere->count && !strcmp(elsewhere->runs[end].head.base, base) && elsewhere->runs[end].head.id == id; )
		end++;
	ret->runs = elsewhere->runs + first;
	ret->count = end - first;
	return 0;
}

void pages_before_close(struct pages_before *b)
{
	page_image_close(&b->image);
	free(b->old);
	*b = (struct pages_before){0};
}

static int compare_here(struct pages_before *b, uint64_t at, uint64_t pages, const uint8_t *bytes, bool *ret_same,
			struct phaul_error *err)
{
	struct page_place place;

	for (uint64_t done = 0; done < pages; done += place.pages) {
		int code = page_image_find(&b->image, 0, at + done * PAGE, pages - done, &place);

		if (code)
			continue;
		code = page_image_read(&b->image, &place, b->old, err);
		if (code)
			return code;
		for (uint64_t i = 0; i < place.pages; i++)
			ret_same[done + i] = !memcmp(b->old + i * PAGE, bytes + (done + i) * PAGE, PAGE);
	}
	return 0;
}

static const struct digested_run *find_run(const struct pages_before *b, uint64_t at)
{
	size_t low = 0, high = b->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (b->runs[middle].head.at + b->runs[middle].head.pages * PAGE <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low < b->count && b->runs[low].head.at <= at ? &b->runs[low] : NULL;
}

int pages_before_compare(struct pages_before *b, uint64_t at, uint64_t pages, const uint8_t *bytes, bool *ret_same,
			 struct phaul_error *err)
{
	memset(ret_same, 0, pages * sizeof(*ret_same));
	if (b->image.count)
		return compare_here(b, at, pages, bytes, ret_same, err);
	for (uint64_t i = 0; i < pages && b->count; i++) {
		const struct digested_run *run = find_run(b, at + i * PAGE);
		uint8_t digest[PAGE_DIGEST_SIZE];

		if (!run)
			continue;
		page_digest(bytes + i * PAGE, digest);
		ret_same[i] = !memcmp(digest, run->digests[(at + i * PAGE - run->head.at) / PAGE], PAGE_DIGEST_SIZE);
	}
	return 0;
}
