/* leave.h - threads that stand in the middle of the kernel's own code (vdso) go on until they have left it. */
#ifndef PHAUL_LEAVE_H
#define PHAUL_LEAVE_H

#include "tree.h"

/* Of all of a frozen tree, the vdso: another kernel has other code there, into which the functions of this one lead from their
 * beginning. Nothing but that code runs. -EAGAIN: one can't be led on; after a moment of running it may be elsewhere. */
int leave_vdsos(struct tree *tree, struct phaul_error *err);

#endif
