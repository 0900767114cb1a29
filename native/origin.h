/* origin.h - what processes bring with them of the host that they come from: its kernel's vdso. */
#ifndef PHAUL_ORIGIN_H
#define PHAUL_ORIGIN_H

#include "image.h"
#include "vdso.h"

struct origin {
	struct vdso vdso;
	bool other_vdso;	/* of another build than here */
};

/* That of this host, by the vdso of one of its processes. */
int origin_read(pid_t tid, const struct memory_map *map, struct origin *ret);
int origin_put(struct image_set *set, const struct origin *origin);
/* -ENOENT: the images tell of none. */
int origin_read_image(const struct image_set *set, struct origin *ret);

#endif
