/* checkpoint.h - a frozen process tree in a directory: CRIU's images, with the pages in pages-N.img. */
#ifndef PHAUL_CHECKPOINT_H
#define PHAUL_CHECKPOINT_H

#include "tree.h"

/* `directory` has no images yet; on failure some may be left. `flags`: PHAUL_TCP_CLOSE ... */
int checkpoint_dump(const struct tree *tree, int directory, uint32_t flags, struct phaul_dumped *ret,
		    struct phaul_error *err);

#endif
