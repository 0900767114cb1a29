/* scheduling.c - how each thread is scheduled, and on which CPUs; its timer slack, and the priority of its requests to disks. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "parts.h"

#ifndef SCHED_RESET_ON_FORK
#define SCHED_RESET_ON_FORK 0x40000000
#endif
#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif
#define FLAG_RESET_ON_FORK 1	/* the same in sched_attr */
#define IOPRIO_WHO_PROCESS 1
#define USUAL_SLACK_NS 50000

int scheduling_ask_thread(struct batch *b, struct sched_answers *ret)
{
	remote_addr at = batch_space(b, sizeof(*ret->attributes), (void **)&ret->attributes);

	ret->batch = b;
	batch_call(b, "tell how it is scheduled", SYS_sched_getattr, 0, at, sizeof(*ret->attributes), 0);
	at = batch_space(b, SCHEDULING_CPU_BYTES, (void **)&ret->cpus);
	/* With more CPUs than there is room for it fails, and the thread may run on all. */
	batch_call(b, NULL, SYS_sched_getaffinity, 0, SCHEDULING_CPU_BYTES, at);
	ret->io_priority = batch_call(b, NULL, SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0);
	ret->slack = batch_call(b, NULL, SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0);
	return b->error;
}

/* As many as the host has count as all that there may be. */
static bool is_pinned(const uint8_t *cpus)
{
	static long online;
	long allowed = 0;

	if (!online)
		online = sysconf(_SC_NPROCESSORS_ONLN);
	for (size_t i = 0; i < SCHEDULING_CPU_BYTES; i++)
		allowed += __builtin_popcount(cpus[i]);
	return allowed && allowed < online;
}

void scheduling_dump_thread(const struct sched_answers *answers, ThreadCoreEntry *to)
{
	const struct sched_attributes *a = answers->attributes;
	int64_t io_priority = batch_result(answers->batch, answers->io_priority), slack = batch_result(answers->batch, answers->slack);

	to->has_sched_policy = to->has_sched_nice = to->has_sched_prio = true;
	to->sched_policy = a->policy | (a->flags & FLAG_RESET_ON_FORK ? SCHED_RESET_ON_FORK : 0);
	to->sched_nice = a->nice;
	to->sched_prio = a->priority;
	if (a->policy == SCHED_DEADLINE) {
		to->has_phaul_sched_flags = to->has_phaul_sched_runtime = to->has_phaul_sched_deadline = to->has_phaul_sched_period = true;
		to->phaul_sched_flags = a->flags;
		to->phaul_sched_runtime = a->runtime;
		to->phaul_sched_deadline = a->deadline;
		to->phaul_sched_period = a->period;
	}
	to->has_phaul_ioprio = io_priority > 0;
	to->phaul_ioprio = io_priority;
	/* Of real-time threads it is 0, which is no setting. */
	to->has_phaul_timerslack_ns = slack > 0 && slack != USUAL_SLACK_NS;
	to->phaul_timerslack_ns = slack;
	to->has_phaul_affinity = is_pinned(answers->cpus);
	to->phaul_affinity = (ProtobufCBinaryData){ SCHEDULING_CPU_BYTES, answers->cpus };
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

static int set_attributes(pid_t tid, struct sched_attributes *want, struct phaul_error *err)
{
	want->size = sizeof(*want);
	if (!syscall(SYS_sched_setattr, tid, want, 0))
		return 0;
	return phaul_fail(err, -errno, "scheduling", "giving thread %d policy %u, priority %u, nice %d%s", tid, want->policy, want->priority,
			  want->nice, want->policy == SCHED_DEADLINE ? " (EBUSY: this host has not that much time to give)" : "");
}

int scheduling_build_thread(struct build *b, pid_t tid, struct batch *batch, const ThreadCoreEntry *from)
{
	struct sched_attributes want = {
		.policy = from->sched_policy & ~SCHED_RESET_ON_FORK, .nice = from->sched_nice,
		.flags = from->sched_policy & SCHED_RESET_ON_FORK ? FLAG_RESET_ON_FORK : 0,
		.priority = from->sched_prio,
	};
	int err = from->has_sched_policy ? own_sched(b) : 0;
	const struct sched_attributes *have = b->own_sched;

	if (from->has_phaul_timerslack_ns)
		batch_call(batch, "set its timer slack", SYS_prctl, PR_SET_TIMERSLACK, from->phaul_timerslack_ns, 0, 0, 0);
	if (from->has_phaul_ioprio && syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, from->phaul_ioprio) < 0)
		return phaul_fail(b->err, -errno, "scheduling", "giving thread %d the I/O priority %x", tid, from->phaul_ioprio);
	if (err || !from->has_sched_policy || want.policy == SCHED_DEADLINE)
		return err;
	if (have->policy == want.policy && have->nice == want.nice && have->flags == want.flags &&
	    have->priority == want.priority)
		return 0;
	return set_attributes(tid, &want, b->err);
}

int scheduling_arm_thread(pid_t tid, const ThreadCoreEntry *from, struct phaul_error *err)
{
	struct sched_attributes want = {
		.policy = SCHED_DEADLINE, .flags = from->phaul_sched_flags, .runtime = from->phaul_sched_runtime,
		.deadline = from->phaul_sched_deadline, .period = from->phaul_sched_period,
	};

	/* Of CPUs that this host hasn't there is none to be had: it runs on all. */
	if (from->has_phaul_affinity)
		(void)syscall(SYS_sched_setaffinity, tid, from->phaul_affinity.len, from->phaul_affinity.data);
	return from->has_phaul_sched_runtime ? set_attributes(tid, &want, err) : 0;
}
