/* thread_fit.h - what a thread has arranged with the kernel and CPU that it comes from, and others may not keep. */
#ifndef PHAUL_THREAD_FIT_H
#define PHAUL_THREAD_FIT_H

#include "origin.h"

/* What this host asks for. */
struct thread_needs {
	uint64_t signal_stack;		/* bytes that a signal takes on a stack, of a thread without AMX tiles; 0: the kernel doesn't tell */
	uint64_t signal_stack_more;	/* of them, those that it didn't take where the thread comes from */
	uint64_t rseq_bytes;		/* what the kernel knows of an rseq area; 0: the first 32 bytes alone */
};

/* `origin` is NULL for this host. */
void thread_needs_read(const struct origin *origin, struct thread_needs *ret);
/* -EXDEV: a signal would overrun its signal stack, or its rseq area can't be registered. */
int thread_fit_check(const struct thread_needs *needs, pid_t tid, const ThreadCoreEntry *thread, struct phaul_error *err);

#endif
