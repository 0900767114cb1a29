/* track_none.c - for kernels that can't tell what was written: all that a process has is sent again each time. */
#include "track.h"

static bool usable(void)
{
	return true;
}

static int none_open(struct tracker *t, struct remote *leader, struct phaul_error *err)
{
	(void)t, (void)leader, (void)err;
	return 0;
}

static int cover(struct tracker *t, struct memory_map *map, struct phaul_error *err)
{
	(void)t, (void)err;
	for (size_t i = 0; i < map->count; i++)
		if (vma_has_pages(&map->at[i]))
			map->at[i].flags |= VMA_FRESH;
	return 0;
}

static int final(struct tracker *t, struct memory_map *map, struct final_scan *ret, struct phaul_error *err)
{
	return cover(t, map, err) ?: track_final(t, map, ret, err);
}

static void none_close(struct tracker *t)
{
	(void)t;
}

const struct tracker_kind tracker_none = {
	.name = "none", .usable = usable, .open = none_open, .cover = cover, .scan = track_dirty, .final = final,
	.close = none_close,
};
