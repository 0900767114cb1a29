/* track.h - which pages of a running process were written since the last look.
 *
 * The contract of all kinds of trackers:
 *
 *	open	the leader is stopped and borrowed; may make calls in it
 *	cover	the process runs; makes mappings that are new since the last call tracked ones, and marks
 *		VMA_FRESH in the map those of which it can't tell what was written. Called at the start of
 *		each round with a fresh map
 *	scan	the process may run, or be stopped by the call for a moment if it arms. Adds the ranges that were written since they were last armed; what is
 *		not covered counts as written. With `arm` they count as clean from the moment of the look on:
 *		the pages must be read after that, and a write that comes between is found by the next scan
 *	final	the process is frozen: what was written, what went away, and what is a guard region. Nothing
 *		is armed. Marks as cover does
 *	close	the process runs or is frozen; nothing stays behind in it
 *
 * A page that was sent and has gone away since (MADV_DONTNEED, unmapped and mapped again) is found by
 * `final` alone: the target compares with what it received.
 */
#ifndef PHAUL_TRACK_H
#define PHAUL_TRACK_H

#include "direct_reads.h"
#include "frames.h"
#include "huge_pages.h"
#include "memory_map.h"
#include "pages.h"
#include "remote.h"

struct range_list {
	struct page_range *at;
	size_t count, capacity;
	uint64_t pages;
};

static inline uint64_t range_end(const struct page_range *range)
{
	return range->address + range->pages * 4096;
}

/* Adds [start, end) of addresses; joins it to the last one if they touch. */
int range_list_add(struct range_list *list, uint64_t start, uint64_t end);
/* Makes it ascending, and its ranges apart. */
void range_list_order(struct range_list *list);
/* Of ascending lists, added to `ret`: what is in both; what is in `a` alone. */
int range_list_common(const struct range_list *a, const struct range_list *b, struct range_list *ret);
int range_list_without(const struct range_list *a, const struct range_list *b, struct range_list *ret);
/* The first of an ascending list that ends above `address`; count if none does. */
size_t range_list_above(const struct range_list *list, uint64_t address);
void range_list_reset(struct range_list *list);
void range_list_free(struct range_list *list);

/* What `final` finds. `absent`: parts of mappings that hold no page (or, of a file, no private copy).
 * Mappings in `sparse` are the other way round: there `populated` lists all that they hold. */
struct final_scan {
	struct range_list dirty, absent, sparse, populated, guards;
};

#define TRACK_DENSITIES 64	/* mappings of a GiB and more; those beyond count as dense */

/* How many pages the rounds have seen in a large mapping. */
struct track_density {
	uint64_t start, pages;
};

struct tracker {
	const struct tracker_kind *kind;
	pid_t pid;
	int pagemap;		/* of /proc/PID */
	int uffd;
	struct frames frames;	/* soft-dirty: of the last look that armed */
	uint64_t stopped_ns;	/* how long looks have stopped the process so far */
	struct track_density densities[TRACK_DENSITIES];
	bool armed;		/* once; uffd: so that marks may be left over */
	struct huge_pages huge;	/* of the last look that armed */
	struct range_list doubtful;	/* of the round before: what was written there isn't known */
	struct direct_reads reads;	/* uffd, when it was armed: what disks were writing to */
	struct range_list being_read;
};

struct tracker_kind {
	const char *name;
	const char *what;	/* it takes of the kernel */
	uint64_t written;	/* PAGE_IS_: what it knows a written page by; 0: it knows none */
	uint64_t zeros;		/* PAGE_IS_PFNZERO if a page that was dropped and read since isn't told by that */
	uint64_t arm_flags;	/* PM_SCAN_: of a look that arms */
	bool by_frames;		/* pages are only what they were if they are in the frame that they were in */
	bool (*usable)(void);	/* on this kernel */
	int (*open)(struct tracker *t, struct remote *leader, struct phaul_error *err);
	int (*cover)(struct tracker *t, struct memory_map *map, struct phaul_error *err);
	int (*scan)(struct tracker *t, const struct memory_map *map, bool arm, struct range_list *ret,
		    struct phaul_error *err);
	int (*final)(struct tracker *t, struct memory_map *map, struct final_scan *ret, struct phaul_error *err);
	void (*close)(struct tracker *t);
};

extern const struct tracker_kind tracker_uffd;		/* userfaultfd WP_ASYNC + PAGEMAP_SCAN, Linux 6.7 */
extern const struct tracker_kind tracker_soft_dirty;	/* CONFIG_MEM_SOFT_DIRTY */
extern const struct tracker_kind tracker_none;		/* everything is written all the time */

/* The kind of that name, or, for NULL, the best that this kernel has: at the worst none. -EINVAL: there is none of that name,
 * -EOPNOTSUPP: this kernel hasn't got it. */
int tracker_choose(const char *name, const struct tracker_kind **ret, struct phaul_error *err);
int tracker_open(struct tracker *t, const struct tracker_kind *kind, pid_t pid, struct remote *leader, struct phaul_error *err);
void tracker_close(struct tracker *t);

/* What kinds are made of (track_walk.c). Mappings that hold one of these ranges: */
void track_mark_fresh(struct memory_map *map, const struct range_list *list);
/* What `vma` holds between `start` and `end`; what a map holds of ranges that an earlier look has kept. */
int track_add_held(struct tracker *t, const struct vma *vma, uint64_t start, uint64_t end, struct range_list *to);
int track_add_kept(struct tracker *t, const struct memory_map *map, const struct range_list *kept, struct range_list *to,
		   struct phaul_error *err);
/* scan(), but for what arms, and final() once fresh mappings are marked. */
int track_dirty(struct tracker *t, const struct memory_map *map, bool arm, struct range_list *ret, struct phaul_error *err);
int track_final(struct tracker *t, const struct memory_map *map, struct final_scan *ret, struct phaul_error *err);

#endif
