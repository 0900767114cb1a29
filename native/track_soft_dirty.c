/* track_soft_dirty.c - the tracker of kernels with CONFIG_MEM_SOFT_DIRTY, which distributions for x86_64 have: the first
 * write to a page since all bits were cleared sets one in its page table entry.
 *
 * Bits can only be cleared for all of a process at once (clear_refs), by another call than the one that reads them: what is
 * written between the two would be lost, so that the process stands still from one to the other. The first look takes
 * everything and needs no bits: it clears first, and the process runs. Large mremap()s set no bits at all: frames.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "error.h"
#include "freeze.h"
#include "pagemap.h"
#include "track.h"

#define STOP_TIMEOUT_MS 2000	/* as for arming: longer means that a thread hangs in the kernel */

/* A page that was just written has its bit set, or the kernel knows none. */
static bool usable(void)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	volatile uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct range_list found = {0};
	struct pm_scan_arg arg = { .start = (uintptr_t)page, .end = (uintptr_t)page + 4096,
				   .category_mask = PAGE_IS_SOFT_DIRTY | PAGE_IS_PRESENT };
	bool yes = false;

	if (page != MAP_FAILED) {
		*page = 1;
		yes = pagemap >= 0 && !pagemap_scan(pagemap, arg, pagemap_list, &found) && found.count;
		munmap((void *)page, 4096);
	}
	if (pagemap >= 0)
		close(pagemap);
	range_list_free(&found);
	return yes;
}

static int sd_open(struct tracker *t, struct remote *leader, struct phaul_error *err)
{
	(void)t, (void)leader, (void)err;
	return 0;
}

/* Before the first look everything counts as written. */
static int cover(struct tracker *t, struct memory_map *map, struct phaul_error *err)
{
	return t->armed ? 0 : tracker_none.cover(t, map, err);
}

static int clear(struct tracker *t, struct phaul_error *err)
{
	char path[40];
	int fd, code = 0;

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", t->pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "4", 1) != 1)
		code = -errno;
	if (fd >= 0)
		close(fd);
	return code ? phaul_fail(err, code, "track", "clearing the soft-dirty bits of pid %d", t->pid) : 0;
}

/* Where the stretch of `vma` from `at` on ends that is the same in `map`, or is not. */
static uint64_t stretch_end(const struct memory_map *map, const struct vma *vma, uint64_t at, bool *ret_known)
{
	const struct vma *known = memory_map_find(map, at);
	uint64_t end = vma->end;

	*ret_known = known && vma_same_backing(known, vma);
	if (known)
		return known->end < end ? known->end : end;
	for (size_t i = 0; i < map->count; i++)
		if (map->at[i].start > at && map->at[i].start < end)
			end = map->at[i].start;
	return end;
}

/* What was mapped since the round's map was read has no place in it, but its bits are cleared with all others. What it held
 * is kept for the next round. */
static int keep_unknown(struct tracker *t, const struct memory_map *map, struct phaul_error *err)
{
	struct memory_map now;
	int code = memory_map_read(t->pid, false, &now, err);

	if (code)
		return code;
	memory_map_inherit_flags(&now, map);
	range_list_reset(&t->doubtful);
	for (size_t i = 0; i < now.count && !code && !memory_map_equal(&now, map); i++) {
		const struct vma *vma = &now.at[i];
		uint64_t at = vma->start, end;
		bool known;

		for (; vma_has_pages(vma) && at < vma->end && !code; at = end) {
			end = stretch_end(map, vma, at, &known);
			code = known ? 0 : track_add_held(t, vma, at, end, &t->doubtful);
		}
	}
	memory_map_free(&now);
	return code ? phaul_fail(err, code, "track", "looking for what pid %d has mapped meanwhile", t->pid) : 0;
}

static int look(struct tracker *t, const struct memory_map *map, bool arm, struct range_list *ret, struct phaul_error *err)
{
	return track_dirty(t, map, arm, ret, err) ?: track_add_kept(t, map, &t->doubtful, ret, err);
}

/* Frozen, or for the first time: then what is written before the pages are listed is among them in any case. */
static int first_look(struct tracker *t, const struct memory_map *map, struct range_list *ret, struct phaul_error *err)
{
	t->armed = true;
	return clear(t, err) ?: keep_unknown(t, map, err) ?: track_dirty(t, map, true, ret, err);
}

static int sd_scan(struct tracker *t, const struct memory_map *map, bool arm, struct range_list *ret, struct phaul_error *err)
{
	struct frozen frozen;
	int code;

	if (!arm)
		return look(t, map, false, ret, err);
	if (!t->armed)
		return first_look(t, map, ret, err);
	code = freeze(t->pid, STOP_TIMEOUT_MS, &frozen, err);
	if (code)
		return code;
	code = look(t, map, true, ret, err) ?: keep_unknown(t, map, err) ?: clear(t, err);
	t->stopped_ns += phaul_now_ns() - frozen.since_ns;
	(void)thaw(&frozen);
	return code;
}

static int sd_final(struct tracker *t, struct memory_map *map, struct final_scan *ret, struct phaul_error *err)
{
	return cover(t, map, err) ?: track_final(t, map, ret, err) ?: track_add_kept(t, map, &t->doubtful, &ret->dirty, err);
}

static void sd_close(struct tracker *t)
{
	range_list_free(&t->doubtful);
	frames_free(&t->frames);
}

const struct tracker_kind tracker_soft_dirty = {
	.name = "soft-dirty", .what = "CONFIG_MEM_SOFT_DIRTY", .written = PAGE_IS_SOFT_DIRTY, .zeros = PAGE_IS_PFNZERO, .by_frames = true,
	.usable = usable, .open = sd_open, .cover = cover, .scan = sd_scan, .final = sd_final, .close = sd_close,
};
