/* parallel.h - the same for many, by as many threads as there are CPUs. */
#ifndef PHAUL_PARALLEL_H
#define PHAUL_PARALLEL_H

#include <stddef.h>

#include "phaul.h"

/* Calls each() for 0 to count-1, in any order and several at a time. The threads are as urgent as the caller, but not
 * bound to its CPU. Returns the first failure, with what it said; some of the others aren't called then. */
int parallel(size_t count, int (*each)(void *ctx, size_t index, struct phaul_error *err), void *ctx, struct phaul_error *err);

#endif
