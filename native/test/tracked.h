/* tracked.h - for tests: another process of theirs, tracked. */
#ifndef TRACKED_H
#define TRACKED_H

#include "track.h"

extern struct phaul_error err;

/* A failure ends the test. */
void must(int code, const char *doing);
struct tracker open_tracker(pid_t pid, const struct tracker_kind *kind);
bool holds(const struct range_list *list, uint64_t page);

#endif
