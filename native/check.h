/* check.h - the checks of what a process is, beside its memory, descriptors and parts. */
#ifndef PHAUL_CHECK_H
#define PHAUL_CHECK_H

#include "objects/object.h"
#include "objects/proc_status.h"

/* Adds an obstacle or a notice for whatever ties the process to this host. Returns false if it has ended or
 * its main thread has: then nothing else can be looked at. */
bool process_check(struct check *c, const struct proc_status *s);

#endif
