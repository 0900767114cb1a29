#include "conversation.h"

#include <string.h>

#include "fuzz.h"
#include "kernel.h"
#include "pages.h"

#define FRAME_PAGES 64		/* of pages.c, which has checked this before it gives a frame to its sink */
#define EXTENTS_MAX 128
#define USER_END 0x7ffffffff000ull

static const struct parts *conversation;
static size_t at;			/* the part that is next */
static struct page_sink sink;

/* Frames come out of the input: these two are in the place of those of pages.c. */
int pages_receive_start(struct phaul_channel *ch, const struct page_sink *to)
{
	(void)ch;
	sink = *to;
	return 0;
}

static size_t read_extents(const struct part *p, struct page_extent *ret)
{
	uint64_t pages = 0;
	uint32_t count;

	if (p->size < 16)
		return 0;
	memcpy(&count, p->bytes + 4, 4);
	if (!count || count > EXTENTS_MAX || p->size - 16 < count * sizeof(*ret))
		return 0;
	memcpy(ret, p->bytes + 16, count * sizeof(*ret));
	for (uint32_t i = 0; i < count; i++) {
		pages += ret[i].pages;
		if (!ret[i].pages || ret[i].pages > FRAME_PAGES || ret[i].address % 4096 || ret[i].flags & ~PAGE_EXTENT_ZERO ||
		    ret[i].address >= USER_END || ret[i].pages * 4096ull > USER_END - ret[i].address)
			return 0;
	}
	return pages <= FRAME_PAGES ? count : 0;
}

/* Those of a later round would be waited for: they are left out. */
static int apply(const struct part *p, uint32_t open_round, struct phaul_error *err)
{
	static const uint8_t data[FRAME_PAGES * 4096] = { 1 };
	struct page_extent extents[EXTENTS_MAX];
	size_t count = read_extents(p, extents);
	uint64_t owner;
	uint32_t round;

	if (!count)
		return 0;
	memcpy(&round, p->bytes, 4);
	memcpy(&owner, p->bytes + 8, 8);
	return round > open_round ? 0 : sink.apply(sink.ctx, round, owner, extents, count, data, err);
}

int pages_wait_round(struct phaul_channel *ch, uint32_t round, int timeout_ms, struct pages_stats *ret, struct phaul_error *err)
{
	int code = 0;

	(void)ch;
	(void)timeout_ms;
	memset(ret, 0, sizeof(*ret));
	while (!code && at < conversation->count && !strcmp(conversation->at[at].name, "frames"))
		code = apply(&conversation->at[at++], round, err);
	return code;
}

static int hear(struct phaul_target *tgt, const struct part *p, struct phaul_error *err)
{
	struct phaul_applied applied;
	struct phaul_built built;

	if (!strcmp(p->name, "layout"))
		return phaul_target_round(tgt, NULL, p->bytes, p->size, 0, &applied, err);
	if (!strcmp(p->name, "threads"))
		return phaul_target_threads(tgt, p->bytes, p->size, err);
	if (!strcmp(p->name, "state"))
		return phaul_target_build(tgt, p->bytes, p->size, &built, err) ?: phaul_target_release(tgt, err);
	if (!strcmp(p->name, "packets"))
		return phaul_target_packets(tgt, p->bytes, p->size, err);
	return 0;
}

int converse(const struct parts *parts, struct phaul_error *err)
{
	const struct part *pid_at = parts_find(parts, "pid"), *addresses_at = parts_find(parts, "addresses");
	struct phaul_target *tgt;
	char addresses[256] = "";
	int32_t pid = 4242;
	int code;

	conversation = parts;
	kernel_begin(parts);
	if (pid_at && pid_at->size >= sizeof(pid))
		memcpy(&pid, pid_at->bytes, sizeof(pid));
	if (addresses_at && addresses_at->size && addresses_at->size < sizeof(addresses))
		memcpy(addresses, addresses_at->bytes, addresses_at->size);
	code = phaul_target_open(pid > 1 ? pid : 4242, 0, addresses, "", "", 0, 0, &tgt, err);
	if (!code) {
		code = phaul_target_receive(tgt, NULL, err);
		for (at = 0; at < parts->count && !code; )
			code = tell(hear(tgt, &parts->at[at++], err), err);
		phaul_target_close(tgt);
	}
	kernel_end();
	return code;
}
