/* threads.h - what each thread has of its own: registers, FPU state, masks, stacks for signals, rseq. */
#ifndef PHAUL_THREADS_H
#define PHAUL_THREADS_H

#include "freeze.h"
#include "husk.h"
#include "objects/object.h"

/* How much of the batch area the questions to `count` threads take. */
size_t threads_area_size(size_t count);

/* Takes "core-TID" of some threads at a time, never the leader's. */
struct thread_sink {
	void *ctx;
	int (*put)(void *ctx, const struct image_set *threads, struct phaul_error *err);
};

/* Asks the threads side by side, by the hundred; the leader's core goes to d->images and also has what the
 * process parts answered, which is already in `leader_core`. */
int threads_dump(struct dump *d, const struct frozen *f, struct remote *leader, CoreEntry *leader_core,
		 const struct thread_sink *sink);

struct thread_image {
	pid_t tid;
	CoreEntry *core;
};

/* Gives threads of the husk all but registers. */
int threads_build(struct build *b, struct husk *h, const struct thread_image *threads, size_t count);
/* The last thing: registers, FPU state and signal masks. No call can be made in them afterwards. */
int threads_arm(struct husk *h, const struct thread_image *threads, size_t count, struct phaul_error *err);

#endif
