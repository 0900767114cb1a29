#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "phaul.h"

uint64_t phaul_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* A thread's niceness is what setpriority() of its tid changes. In a cgroup without real-time budget there is
 * no SCHED_FIFO. */
int thread_priority(pid_t tid, int priority)
{
	bool freeze = priority == PHAUL_PRIORITY_FREEZE;
	struct sched_param param = { .sched_priority = freeze ? 1 : 0 };
	int nice = priority == PHAUL_PRIORITY_LOW ? 10 : priority == PHAUL_PRIORITY_HIGH ? -20 : 0;

	if (sched_setscheduler(tid, freeze ? SCHED_FIFO : SCHED_OTHER, &param) < 0 && freeze)
		nice = -20;
	return setpriority(PRIO_PROCESS, tid, nice) < 0 ? -errno : 0;
}

int phaul_priority(int priority)
{
	return thread_priority(syscall(SYS_gettid), priority);
}
