/* scheduling.c - how each thread is scheduled, read and set from outside. */
#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

#ifndef SCHED_RESET_ON_FORK
#define SCHED_RESET_ON_FORK 0x40000000
#endif
#define FLAG_RESET_ON_FORK 1	/* the same in sched_attr */

/* struct sched_attr of Linux, its first version. */
struct sched_answer {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

int scheduling_ask_thread(struct batch *b, struct sched_answer **ret)
{
	remote_addr at = batch_space(b, sizeof(**ret), (void **)ret);

	batch_call(b, "tell how it is scheduled", SYS_sched_getattr, 0, at, sizeof(**ret), 0);
	return b->error;
}

void scheduling_dump_thread(const struct sched_answer *answer, ThreadCoreEntry *to)
{
	to->has_sched_policy = to->has_sched_nice = to->has_sched_prio = true;
	to->sched_policy = answer->policy | (answer->flags & FLAG_RESET_ON_FORK ? SCHED_RESET_ON_FORK : 0);
	to->sched_nice = answer->nice;
	to->sched_prio = answer->priority;
}

/* All threads of the husk have the same: asked once. */
static int own_sched(struct build *b)
{
	if (b->own_sched)
		return 0;
	b->own_sched = dump_alloc(&b->scratch, sizeof(*b->own_sched));
	if (!b->own_sched)
		return -ENOMEM;
	return syscall(SYS_sched_getattr, b->pid, b->own_sched, sizeof(*b->own_sched), 0) < 0 ? -errno : 0;
}

int scheduling_build_thread(struct build *b, pid_t tid, const ThreadCoreEntry *from)
{
	struct sched_answer want = {
		.size = sizeof(want), .policy = from->sched_policy & ~SCHED_RESET_ON_FORK, .nice = from->sched_nice,
		.flags = from->sched_policy & SCHED_RESET_ON_FORK ? FLAG_RESET_ON_FORK : 0,
		.priority = from->sched_prio,
	};

	int err = from->has_sched_policy ? own_sched(b) : 0;
	const struct sched_answer *have = b->own_sched;

	if (err || !from->has_sched_policy)
		return err;
	if (have->policy == want.policy && have->nice == want.nice && have->flags == want.flags &&
	    have->priority == want.priority)
		return 0;
	if (syscall(SYS_sched_setattr, tid, &want, 0) < 0)
		return phaul_fail(b->err, -errno, "scheduling", "giving thread %d policy %u, priority %u, nice %d",
				  tid, want.policy, want.priority, want.nice);
	return 0;
}
