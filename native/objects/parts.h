/* parts.h - what the process parts offer for each thread, beside their entries in `process_parts`. */
#ifndef PHAUL_PARTS_H
#define PHAUL_PARTS_H

#include "object.h"

int signals_dump_thread(struct dump *d, pid_t tid, ThreadCoreEntry *to);
int scheduling_dump_thread(struct dump *d, pid_t tid, ThreadCoreEntry *to);
int credentials_dump_thread(struct dump *d, pid_t tid, ThreadCoreEntry *to);

/* Add calls to the thread's batch, or act at once from outside. Credentials come last: nothing that needs
 * privilege follows. */
int scheduling_build_thread(struct build *b, pid_t tid, const ThreadCoreEntry *from);
int signals_build_thread(struct batch *batch, pid_t pid, pid_t tid, const ThreadCoreEntry *from);
int credentials_build_thread(struct build *b, struct batch *batch, const ThreadCoreEntry *from);

#endif
