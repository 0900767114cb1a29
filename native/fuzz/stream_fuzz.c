/* stream_fuzz.c - what comes through the page channel once it is deciphered: notes, frames of pages, and what a page server and the
 * one who dumps to it tell each other.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "fuzz.h"
#include "kernel.h"
#include "pages.h"
#include "pages_before.h"

#define FRAME_PAGES 64
#define USER_END 0x7ffffffff000ull

static volatile uint8_t last;

/* Who takes frames may rely on this. */
static int apply(void *ctx, uint32_t round, uint64_t owner, const struct page_extent *extents, size_t count, const uint8_t *data,
		 struct phaul_error *err)
{
	size_t pages = 0, all = 0;

	(void)ctx;
	(void)round;
	(void)err;
	for (size_t i = 0; i < count; i++) {
		const struct page_extent *e = &extents[i];

		if (e->address % 4096 || !e->pages || e->address >= USER_END || e->pages * 4096ull > USER_END - e->address ||
		    (!(owner & PAGES_SHARED) && !e->address))
			abort();
		all += e->pages;
		pages += e->flags & PAGE_EXTENT_ZERO ? 0 : e->pages;
	}
	if (!count || all > FRAME_PAGES)
		abort();
	for (size_t i = 0; i < pages * 4096; i++)
		last ^= data[i];
	return 0;
}

static void hear_notes(struct phaul_channel *ch)
{
	struct phaul_error err;
	uint8_t small[64], *large;
	uint32_t kind;
	size_t size;
	int code;

	do {
		code = phaul_note_receive(ch, &kind, small, sizeof(small), &size, 0, &err);
		if (code != -ENOBUFS)
			continue;
		large = malloc(size);
		code = phaul_note_receive(ch, &kind, large, size, &size, 0, &err);
		free(large);
	} while (!code);
}

static void hear_pages(struct phaul_channel *ch)
{
	const struct page_sink sink = { .apply = apply };
	struct pages_stats stats;

	if (!pages_receive_start(ch, &sink))
		while (!pages_wait_round(ch, 1, 1000, &stats, NULL) && stats.pages)
			;
	if (ch->pump)
		pump_stop(ch);
}

/* What another host wants to have written here, and what it has of the checkpoint before. */
static void serve(struct phaul_channel *ch)
{
	struct phaul_error err;
	uint64_t bytes;

	(void)tell(phaul_page_server(ch, KERNEL_DIRECTORY, &bytes, &err), &err);
}

static void hear_digests(struct phaul_channel *ch)
{
	struct pages_elsewhere e = {0};
	struct pages_before before;
	struct phaul_error err;
	static const uint8_t pages[2 * 4096];
	bool same[2];

	if (!tell(pages_hear(&e, ch, &err), &err) && !pages_before_open(NULL, &e, "pagemap", 4242, &before, &err)) {
		(void)pages_before_compare(&before, 0x400000, 2, pages, same, &err);
		pages_before_close(&before);
	}
	pages_elsewhere_free(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static void (*const all[])(struct phaul_channel *ch) = { hear_notes, hear_pages, serve, hear_digests };
	static struct parts parts;
	struct phaul_channel ch = { .stream_count = 1, .note = { .fd = -1 }, .pages = { { .fd = -1 } } };

	ch.note.channel = ch.pages[0].channel = &ch;
	parts_read(bytes, size, &parts);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		kernel_begin(&parts);
		ch.note_head.pending = false;
		all[i](&ch);
		kernel_end();
	}
	return 0;
}
