/* scheduling.c - how each thread is scheduled, read and set from outside. */
#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

/* struct sched_attr of Linux, its first version. */
struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

int scheduling_dump_thread(struct dump *d, pid_t tid, ThreadCoreEntry *to)
{
	struct attributes a = { .size = sizeof(a) };

	(void)d;
	if (syscall(SYS_sched_getattr, tid, &a, sizeof(a), 0) < 0)
		return -errno;
	to->has_sched_policy = to->has_sched_nice = to->has_sched_prio = true;
	to->sched_policy = a.policy;
	to->sched_nice = a.nice;
	to->sched_prio = a.priority;
	return 0;
}

int scheduling_build_thread(struct build *b, pid_t tid, const ThreadCoreEntry *from)
{
	struct attributes have = { .size = sizeof(have) }, want = {
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
