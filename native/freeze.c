#include "freeze.h"

#include <dirent.h>
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "arch/x86_64.h"
#include "error.h"
#include "objects/proc_status.h"
#include "rseq.h"

#define PAGE 4096
#ifndef PTRACE_O_SUSPEND_SECCOMP
#define PTRACE_O_SUSPEND_SECCOMP (1 << 21)
#endif
#define CLOCKS 16	/* more than there are */

/* Threads that share our CPU stop while we tell the others, if we aren't real-time: half the time of a thousand. */
#define MANY_THREADS 32

static struct frozen_thread *find(struct frozen *f, pid_t tid)
{
	for (size_t i = 0; i < f->count; i++)
		if (f->threads[i].tid == tid)
			return &f->threads[i];
	return NULL;
}

/* Room for one more; pointers into the array are void afterwards. */
static struct frozen_thread *append(struct frozen *f, pid_t tid)
{
	if (f->count == f->capacity) {
		size_t capacity = f->capacity ? 2 * f->capacity : 64;
		void *threads = realloc(f->threads, capacity * sizeof(*f->threads));

		if (!threads)
			return NULL;
		f->threads = threads;
		f->capacity = capacity;
	}
	f->threads[f->count] = (struct frozen_thread){ .tid = tid };
	return &f->threads[f->count++];
}

/* Not without CAP_SYS_ADMIN, and not from inside of a filter. */
long ptrace_seize(pid_t tid, unsigned long options)
{
	static bool refused;
	long result = refused ? -1 : ptrace(PTRACE_SEIZE, tid, 0, options | PTRACE_O_SUSPEND_SECCOMP);

	if (!result || (!refused && errno != EPERM && errno != EINVAL))
		return result;
	result = ptrace(PTRACE_SEIZE, tid, 0, options);
	refused |= !result;
	return result;
}

static int seize(struct frozen *f, pid_t tid, struct phaul_error *err)
{
	if (ptrace_seize(tid, PTRACE_O_TRACESYSGOOD) < 0) {
		int code = -errno;

		if (code == -ESRCH && tid != f->pid)
			return 0;
		return phaul_fail(err, code, "freeze", "seizing thread %d of pid %d%s", tid, f->pid,
				  code == -EPERM ? " (is another debugger or tracer attached to it, or has "
				  "its main thread ended?)" : "");
	}
	return append(f, tid) ? 1 : phaul_fail(err, -ENOMEM, "freeze", "listing the threads of pid %d", f->pid);
}

/* Seizes those that aren't yet. Returns how many were new. The kernel lists tids in the order of their
 * making, so that a scan after the last stop sees every thread that a still running one made. */
static int seize_new(struct frozen *f, struct phaul_error *err)
{
	char path[32];
	struct dirent *d;
	int new = 0, ret = 0;
	size_t known = f->count;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", f->pid);
	dir = opendir(path);
	if (!dir)
		return phaul_fail(err, -ESRCH, "freeze", "pid %d is gone", f->pid);
	for (size_t at = 0; ret >= 0 && (d = readdir(dir)); ) {
		pid_t tid = atoi(d->d_name);

		if (tid <= 0)
			continue;
		if (at < known && f->threads[at].tid == tid) {
			at++;
			continue;
		}
		if (known && find(f, tid))
			continue;
		ret = seize(f, tid, err);
		new += ret > 0;
	}
	closedir(dir);
	return ret < 0 ? ret : new;
}

/* Listing a thousand threads takes longer than to see that there are no more than those that stand still: none
 * of these can end. */
static bool has_others(const struct frozen *f)
{
	struct proc_status s;

	return proc_status_read(f->pid, f->pid, &s) || proc_status_number(&s, "Threads") != (long long)f->count;
}

/* Real-time threads have no timer slack, so that this is about 25 us for the one that freezes. */
static void rest(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
}

/* Returns 1 when stopped, 0 when it has ended meanwhile. A signal that arrives before the stop is passed
 * on; the stop stays pending in the kernel. */
static int wait_stopped(struct frozen_thread *t, uint64_t deadline_ns, int *ret_signal)
{
	for (;;) {
		int status;
		pid_t got = waitpid(t->tid, &status, __WALL | WNOHANG);

		if (got < 0 && errno != EINTR)
			return 0;
		if (got == 0) {
			if (phaul_now_ns() > deadline_ns)
				return -ETIMEDOUT;
			rest();
		}
		if (got <= 0)
			continue;
		if (!WIFSTOPPED(status))
			return 0;
		/* SIGTRAP is our own doing. */
		if (status >> 16 == PTRACE_EVENT_STOP && WSTOPSIG(status) != SIGTRAP)
			*ret_signal = WSTOPSIG(status);
		if (status >> 16 == PTRACE_EVENT_STOP)
			return 1;
		(void)ptrace(PTRACE_CONT, t->tid, 0, WSTOPSIG(status));
	}
}

static int read_thread(struct frozen_thread *t)
{
	return ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) < 0 ||
	       ptrace(PTRACE_GETSIGMASK, t->tid, 8, &t->mask) < 0 ? -errno : rseq_give_up(t->tid, &t->regs);
}

/* All that are new are interrupted before the first is waited for. */
static int stop_all(struct frozen *f, uint64_t deadline_ns, struct phaul_error *err)
{
	for (size_t i = 0; i < f->count; i++)
		if (!f->threads[i].stopped)
			(void)ptrace(PTRACE_INTERRUPT, f->threads[i].tid, 0, 0);
	/* The last one first: when it has stopped most others have, and each wait that sleeps costs a wake-up. */
	for (size_t i = f->count; i-- > 0; ) {
		struct frozen_thread *t = &f->threads[i];
		int stopped = t->stopped ? 1 : wait_stopped(t, deadline_ns, &f->stop_signal);

		if (stopped < 0)
			return phaul_fail(err, stopped, "freeze", "thread %d of pid %d does not stop; it is "
					  "in an uninterruptible wait (state D: slow disk or NFS?)", t->tid,
					  f->pid);
		if (!stopped || (!t->stopped && read_thread(t))) {
			if (t->tid == f->pid)
				return phaul_fail(err, -ESRCH, "freeze", "pid %d ended", f->pid);
			memmove(t, t + 1, (--f->count - i) * sizeof(*t));
			continue;
		}
		t->stopped = true;
	}
	return 0;
}

/* Seizing takes as long as stopping, and stops nothing: the first look at the threads is not yet part of the
 * freeze. */
int freeze(pid_t pid, int timeout_ms, struct frozen *ret, struct phaul_error *err)
{
	uint64_t deadline_ns;
	bool real_time;
	int new;

	memset(ret, 0, sizeof(*ret));
	ret->pid = pid;
	new = seize_new(ret, err);
	real_time = ret->count >= MANY_THREADS && sched_getscheduler(0) == SCHED_FIFO;
	if (real_time)
		(void)phaul_priority(PHAUL_PRIORITY_HIGH);
	ret->since_ns = phaul_now_ns();
	deadline_ns = ret->since_ns + timeout_ms * 1000000ull;
	while (new > 0) {
		int stopped = stop_all(ret, deadline_ns, err);

		new = stopped ? stopped : has_others(ret) ? seize_new(ret, err) : 0;
	}
	if (real_time)
		(void)phaul_priority(PHAUL_PRIORITY_FREEZE);
	if (!new && (!ret->count || ret->threads[0].tid != pid))
		new = phaul_fail(err, -ESRCH, "freeze", "the main thread of pid %d has ended", pid);
	if (new < 0) {
		(void)thaw(ret);
		return new;
	}
	return 0;
}

int freeze_leader(pid_t pid, int timeout_ms, struct frozen *ret, struct phaul_error *err)
{
	int code;

	memset(ret, 0, sizeof(*ret));
	ret->pid = pid;
	code = seize(ret, pid, err);
	if (code > 0)
		code = stop_all(ret, phaul_now_ns() + timeout_ms * 1000000ull, err);
	if (code < 0)
		(void)thaw(ret);
	return code < 0 ? code : 0;
}

void freeze_fix_restart(struct user_regs_struct *regs, bool moved)
{
	arch_fix_restart(regs, moved);
}

static bool points_to_time(pid_t tid, uint64_t at)
{
	struct timespec t;
	struct iovec local = { &t, sizeof(t) }, remote = { (void *)at, sizeof(t) };

	return process_vm_readv(tid, &local, 1, &remote, 1, 0) == sizeof(t) && t.tv_sec >= 0 && t.tv_nsec >= 0 &&
	       t.tv_nsec < 1000000000;
}

/* Four calls have restart blocks: clock_nanosleep(clock, flags, time, rest), nanosleep(time, rest), futex(word,
 * FUTEX_WAIT, value, time) and poll(fds, count, milliseconds). */
void freeze_name_restart(pid_t tid, struct user_regs_struct *regs)
{
	uint64_t first = arch_argument(regs, 0), second = arch_argument(regs, 1);
	int operation = second & FUTEX_CMD_MASK;

	if (arch_interrupted_call(regs) != SYS_restart_syscall || arch_result(regs) != RESTART_BLOCK)
		return;
	if (first < CLOCKS && !second && points_to_time(tid, arch_argument(regs, 2)))
		arch_name_call(regs, SYS_clock_nanosleep);
	else if ((!second || second >= PAGE) && points_to_time(tid, first))
		arch_name_call(regs, SYS_nanosleep);
	else if ((operation == FUTEX_WAIT || operation == FUTEX_WAIT_BITSET) && second < PAGE && !(first % 4) &&
		 points_to_time(tid, arch_argument(regs, 3)))
		arch_name_call(regs, SYS_futex);
	else
		arch_name_call(regs, SYS_poll);
}

/* A thread that was seized but never stopped can't be detached; the kernel lets it go when the tracing
 * thread ends, and its pending stop with it. */
int thaw(struct frozen *f)
{
	int ret = 0;

	for (size_t i = 0; i < f->count; i++) {
		struct frozen_thread *t = &f->threads[i];

		if (!t->stopped) {
			int status;

			if (waitpid(t->tid, &status, __WALL | WNOHANG) != t->tid || !WIFSTOPPED(status))
				continue;
		} else {
			struct user_regs_struct regs = t->regs;

			freeze_fix_restart(&regs, false);
			(void)ptrace(PTRACE_SETREGS, t->tid, 0, &regs);
		}
		if (ptrace(PTRACE_DETACH, t->tid, 0, 0) < 0 && errno != ESRCH)
			ret = -errno;
	}
	frozen_free(f);
	return ret;
}

void frozen_free(struct frozen *f)
{
	free(f->threads);
	memset(f, 0, sizeof(*f));
}
