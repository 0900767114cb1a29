/* leave.h - threads that stand in the middle of some code go on until they have left it. */
#ifndef PHAUL_LEAVE_H
#define PHAUL_LEAVE_H

#include "freeze.h"

/* Of a frozen process, the code in [start, end). Nothing but that code runs. -EAGAIN: one can't be led on; after a moment of
 * running it may be elsewhere. */
int leave_code(struct frozen *f, uint64_t start, uint64_t end, struct phaul_error *err);

#endif
