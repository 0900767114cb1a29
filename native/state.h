/* state.h - everything of a frozen process but its memory, as an image set; and a husk that becomes it. */
#ifndef PHAUL_STATE_H
#define PHAUL_STATE_H

#include "freeze.h"
#include "husk.h"
#include "image.h"

/* Borrows all threads for the time of the call. */
int state_dump(const struct frozen *f, remote_addr syscall_at, remote_addr area_hint, uint32_t flags,
	       struct image_set *to, struct phaul_error *err);

/* The husk's memory is complete. Afterwards it is the process, held before its first instruction. */
int state_build(struct husk *h, const struct image_set *from, struct phaul_built *ret,
		struct phaul_error *err);

#endif
