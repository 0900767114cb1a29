/* inventory.h - the image that is written last: a directory without it is what a dump had written when it was killed. It
 * has a sum of each other image, ghosts included, and of itself, so that one that has changed since, or is of another checkpoint, is
 * found. Pages have theirs with them (page_file.h).
 */
#ifndef PHAUL_INVENTORY_H
#define PHAUL_INVENTORY_H

#include "image.h"
#include "tree.h"

/* All other images are in `to` by now, or in the directory, if they are ghosts. */
int inventory_put(struct image_set *to, int directory, const struct tree *tree, struct phaul_error *err);
/* -EPROTO: something is missing, damaged, or of another age. CRIU's have no sums. */
int inventory_check(const struct image_set *images, int directory, struct phaul_error *err);

#endif
