/* checkpoint.h - a frozen process in a directory, and one that is made from it: CRIU's images, with the pages in
 * pages-1.img.
 */
#ifndef PHAUL_CHECKPOINT_H
#define PHAUL_CHECKPOINT_H

#include "freeze.h"

/* What is frozen, and how to get at it. */
struct checkpoint_source {
	const struct frozen *frozen;
	remote_addr syscall_at;
	int mem;		/* /proc/PID/mem */
	uint32_t flags;		/* PHAUL_TCP_CLOSE ... */
};

/* `directory` has no images yet; on failure some may be left. */
int checkpoint_dump(const struct checkpoint_source *src, int directory, struct phaul_dumped *ret,
		    struct phaul_error *err);

#endif
