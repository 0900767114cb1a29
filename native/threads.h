/* threads.h - what each thread has of its own: registers, FPU state, masks, stacks for signals, rseq. */
#ifndef PHAUL_THREADS_H
#define PHAUL_THREADS_H

#include "freeze.h"
#include "husk.h"
#include "objects/object.h"

/* The threads of a frozen process, all borrowed at once. */
struct borrowed {
	const struct frozen *frozen;
	struct remote *remotes;		/* as many as frozen->count, [0] is the leader */
};

/* Borrows every thread; returns them as they were on failure. */
int threads_borrow(const struct frozen *f, remote_addr syscall_at, struct borrowed *ret,
		   struct phaul_error *err);
void threads_give_back(struct borrowed *b);

/* How much of the batch area the questions to `count` threads take. */
size_t threads_area_size(size_t count);

/* Asks all threads side by side and writes "core-TID" of each; the leader's also has what the process
 * parts answered, which is already in `leader_core`. */
int threads_dump(struct dump *d, struct borrowed *b, CoreEntry *leader_core);

struct thread_image {
	pid_t tid;
	CoreEntry *core;
};

/* The husk has these threads (leader first). Gives them all but registers. */
int threads_build(struct build *b, struct husk *h, const struct thread_image *threads, size_t count);
/* The last thing: registers, FPU state and signal masks. No call can be made in the husk afterwards. */
int threads_arm(const struct thread_image *threads, size_t count, struct phaul_error *err);

#endif
