#ifndef PHAUL_LOCKS_H
#define PHAUL_LOCKS_H

#include "descriptors.h"

void locks_check(struct check *c, const struct descriptor *d);
/* Is this the first number of the description in all processes, in its own? */
int locks_dump(struct dump *dump, const struct descriptor *d, bool first_of_all, bool first_of_process);
/* Takes those of the process again: its descriptors have their numbers. */
int locks_build(struct build *b, struct call_stream *s);

#endif
