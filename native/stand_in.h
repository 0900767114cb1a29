/* stand_in.h - processes that had ended before the dump, by whose pids something is known: there is one until all is restored. */
#ifndef PHAUL_STAND_IN_H
#define PHAUL_STAND_IN_H

#include <sys/types.h>

struct built_files;

int stand_in_for(struct built_files *f, pid_t pid);
void stand_ins_end(struct built_files *f);

#endif
