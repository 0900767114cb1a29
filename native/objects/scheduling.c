/* scheduling.c - how each thread is scheduled, read and set from outside. */
#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

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
	to->sched_policy = answer->policy;
	to->sched_nice = answer->nice;
	to->sched_prio = answer->priority;
}

int scheduling_build_thread(struct build *b, pid_t tid, const ThreadCoreEntry *from)
{
	struct sched_answer have = { .size = sizeof(have) }, want = {
		.size = sizeof(want), .policy = from->sched_policy, .nice = from->sched_nice,
		.priority = from->sched_prio,
	};

	if (!from->has_sched_policy)
		return 0;
	if (syscall(SYS_sched_getattr, tid, &have, sizeof(have), 0) < 0)
		return -errno;
	if (have.policy == want.policy && have.nice == want.nice && have.priority == want.priority)
		return 0;
	if (syscall(SYS_sched_setattr, tid, &want, 0) < 0)
		return phaul_fail(b->err, -errno, "scheduling", "giving thread %d policy %u, priority %u, nice %d",
				  tid, want.policy, want.priority, want.nice);
	return 0;
}
