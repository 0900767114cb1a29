/* clock.h - how urgent a thread is; phaul_priority() is for the calling one. */
#ifndef PHAUL_CLOCK_H
#define PHAUL_CLOCK_H

#include <sys/types.h>

int thread_priority(pid_t tid, int priority);

#endif
