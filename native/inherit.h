/* inherit.h - memory that parent and child share until one of them writes to it (copy on write). The kernel shares pages
 * by fork() alone: a child's husk is forked when its parent's has its memory, and keeps what is the child's of it.
 */
#ifndef PHAUL_INHERIT_H
#define PHAUL_INHERIT_H

#include "track.h"

/* Has neither begun another program since they were one? */
bool inherit_is_same_program(const struct memory_map *a, const struct memory_map *b);
/* Where the child has mapped what the parent has, at the same place, so that its pages may be the parent's; nothing if the
 * child has run another program since. Adds ranges, ascending. */
int inherit_candidates(const struct memory_map *parent, const struct memory_map *child, struct range_list *ret);

/* A parent whose husk has its memory, as far as that was clean at the last scan. */
struct inherit_from {
	const struct memory_map *told;		/* what the husk has mapped */
	const struct range_list *dirty;		/* what is on its way to it: written since it was sent last */
	int pagemap;
	bool frozen;				/* and the child, too */
};

/* Moves from `dirty` to `ret` those pages of a child that are the same in its parent's husk. While they run both must have
 * been armed when the lists were found: what they write from then on is for the next round. */
int inherit_find(const struct inherit_from *parent, const struct memory_map *map, int pagemap, struct range_list *dirty,
		 struct range_list *ret);

#endif
