#include "thread_fit.h"

#include <errno.h>
#include <sys/auxv.h>

#include "error.h"

#ifndef AT_RSEQ_FEATURE_SIZE
#define AT_RSEQ_FEATURE_SIZE 27
#endif
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

#define STACK_DISABLED 2u
#define RSEQ_FIRST_SIZE 32u	/* that all kernels take */

void thread_needs_read(const struct origin *origin, struct thread_needs *ret)
{
	struct xstate_layout here;
	uint64_t size, there, tiles;

	*ret = (struct thread_needs){ .signal_stack = getauxval(AT_MINSIGSTKSZ), .rseq_bytes = getauxval(AT_RSEQ_FEATURE_SIZE) };
	xstate_layout_read(&here);
	size = xstate_layout_size(&here, false);
	there = origin ? xstate_layout_size(&origin->xstate, false) : size;
	/* The kernel tells what it may take with tiles, if it has them. */
	tiles = xstate_layout_size(&here, true) - size;
	ret->signal_stack -= ret->signal_stack > tiles ? tiles : 0;
	ret->signal_stack_more = size > there ? size - there : 0;
}

/* One that was too small already is the program's own affair. */
static bool overruns(const struct thread_needs *needs, const ThreadSasEntry *sas)
{
	return sas && !(sas->ss_flags & STACK_DISABLED) && sas->ss_size < needs->signal_stack &&
	       sas->ss_size >= needs->signal_stack - needs->signal_stack_more;
}

static bool is_registrable(const struct thread_needs *needs, uint32_t size)
{
	return size == RSEQ_FIRST_SIZE || (needs->rseq_bytes && size >= needs->rseq_bytes);
}

int thread_fit_check(const struct thread_needs *needs, pid_t tid, const ThreadCoreEntry *thread, struct phaul_error *err)
{
	if (overruns(needs, thread->sas))
		return phaul_fail(err, -EXDEV, "threads", "thread %d takes signals on a stack of %llu bytes (sigaltstack), and with the vector "
				  "registers of this host's CPU one takes %llu: move it to a host whose CPU has no more registers than its own, "
				  "or start it with a larger stack (MINSIGSTKSZ is too small for any CPU to come)", tid,
				  (unsigned long long)thread->sas->ss_size, (unsigned long long)needs->signal_stack);
	if (thread->rseq_entry && !is_registrable(needs, thread->rseq_entry->rseq_abi_size))
		return phaul_fail(err, -EXDEV, "threads", "thread %d has an rseq area of %u bytes (restartable sequences), and this host's kernel "
				  "takes %u%s: move it to a host with another kernel, or start it with GLIBC_TUNABLES=glibc.pthread.rseq=0", tid,
				  thread->rseq_entry->rseq_abi_size, RSEQ_FIRST_SIZE, needs->rseq_bytes > RSEQ_FIRST_SIZE ? ", or more" : "");
	return 0;
}
