/* origin.h - what processes bring with them of the host that they come from: its kernel's vdso, and how its CPU lays out
 * vector registers.
 */
#ifndef PHAUL_ORIGIN_H
#define PHAUL_ORIGIN_H

#include "chain.h"
#include "image.h"
#include "vdso.h"
#include "xstate.h"

struct origin {
	struct vdso vdso;
	struct xstate_layout xstate;
	/* Of another build, or laid out in another way, than here. */
	bool other_vdso, other_xstate;
};

/* That of this host, by the vdso of one of its processes. */
int origin_read(pid_t tid, const struct memory_map *map, struct origin *ret);
int origin_put(struct image_set *set, const struct origin *origin);
/* -ENOENT: the images tell of none. */
int origin_read_image(const struct image_set *set, struct origin *ret);

/* A checkpoint has the vdso among the pages of its processes. */
int origin_put_checkpoint(struct image_set *set);
/* By process `pid`, which has `map`. Checkpoints that tell nothing of registers (CRIU's) have them laid out as here. */
int origin_read_checkpoint(const struct image_set *set, const struct chain *chain, pid_t pid, const struct memory_map *map,
			   struct origin *ret, struct phaul_error *err);

/* What another kernel has mapped is plain memory here. */
void origin_mark_foreign(const struct origin *origin, struct memory_map *map);

#endif
