#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "phaul.h"

uint64_t phaul_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

/* A thread's niceness is what setpriority() of its tid changes; the fallback where real-time priority is
 * not to be had, as in a cgroup without RT budget. */
int phaul_priority(int raised)
{
	struct sched_param param = { .sched_priority = raised ? 1 : 0 };
	pid_t tid = syscall(SYS_gettid);

	if (sched_setscheduler(tid, raised ? SCHED_FIFO : SCHED_OTHER, &param) == 0)
		return 0;
	return setpriority(PRIO_PROCESS, tid, raised ? -20 : 0) < 0 ? -errno : 0;
}
