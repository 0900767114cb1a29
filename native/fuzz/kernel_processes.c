/* kernel_processes.c - other processes: traced, called into, waited for. */
#include "kernel_inside.h"

#include <limits.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "arch/x86_64.h"

#define TRACEES 1024		/* a power of two */
#define SYSCALL_AT 0x7ffff7fc1000ull
#define AREA_AT 0x10000000ull

AGREES(getpgid) AGREES(prctl) AGREES(prlimit) AGREES(prlimit64) AGREES(sched_getcpu) AGREES(sched_getscheduler)
AGREES(sched_setaffinity) AGREES(sched_setscheduler) AGREES(setpriority) AGREES(setsid)

enum stop { STOPPED, IN_CALL, RAN, ENDED };

struct tracee {
	pid_t tid, session;
	struct user_regs_struct regs;
	uint64_t mask;
	enum stop stop;
	bool in_call;
};

static struct tracee tracees[TRACEES];
static uint16_t tracees_used[TRACEES];
static size_t tracee_count;

/* What was written last into another process: as a rule the calls that it is to make. */
static struct { uint64_t at; size_t size; uint8_t bytes[2 << 20]; } written;

static struct tracee *tracee(pid_t tid)
{
	for (size_t i = (uint32_t)tid * 2654435761u >> 8;; i++) {
		struct tracee *t = &tracees[i % TRACEES];

		if (t->tid == tid)
			return t;
		if (t->tid)
			continue;
		if (tracee_count == TRACEES / 2)
			return NULL;
		*t = (struct tracee){ .tid = tid, .session = tid };
		t->regs.rsp = 0x7fffffffe000;
		tracees_used[tracee_count++] = i % TRACEES;
		return t;
	}
}

static void *in_written(uint64_t at, uint64_t size)
{
	if (at < written.at || at - written.at > written.size || size > written.size - (at - written.at))
		return NULL;
	return written.bytes + (at - written.at);
}

/* Its arguments were written a moment before, with the child's pid behind them. */
static int64_t bear(const struct tracee *parent, uint64_t at)
{
	pid_t *pid = in_written(at + sizeof(struct clone_args), sizeof(*pid));
	struct tracee *child = pid ? tracee(*pid) : NULL;

	if (child)
		child->session = parent->session;
	return 1;
}

static int64_t make_call(struct tracee *t, long nr, const uint64_t args[6])
{
	if (kernel_refuses())
		return -errno;
	switch (nr) {
	case SYS_mmap:
		return args[0] ? args[0] : AREA_AT;
	case SYS_clone3:
		return bear(t, args[0]);
	case SYS_setsid:
		t->session = t->tid;
		return t->tid;
	case SYS_wait4:
		return args[0];
	}
	return 0;
}

struct entry {
	uint64_t nr, args[6], result;
};

static bool run_batch(struct tracee *t)
{
	struct arch_tail *tail = in_written(t->regs.r14, sizeof(*tail));
	struct entry *entries = in_written(t->regs.r12, t->regs.r13 * sizeof(*entries));

	if (!tail || !entries || t->regs.r13 > sizeof(written.bytes) / sizeof(*entries))
		return false;
	for (uint64_t i = 0; i < t->regs.r13; i++)
		entries[i].result = make_call(t, entries[i].nr, entries[i].args);
	tail->done = 1;
	return true;
}

static void step(struct tracee *t)
{
	const uint64_t args[] = { t->regs.rdi, t->regs.rsi, t->regs.rdx, t->regs.r10, t->regs.r8, t->regs.r9 };

	if (t->in_call)
		t->regs.rax = make_call(t, t->regs.rax, args);
	t->in_call = !t->in_call;
	t->stop = IN_CALL;
}

static void go_on(struct tracee *t)
{
	bool exits = t->regs.rip >= SYSCALL_AT && (t->regs.rax == SYS_exit || t->regs.rax == SYS_exit_group);

	if (t->stop != ENDED)
		t->stop = exits ? ENDED : run_batch(t) ? RAN : ENDED;
}

long kernel_ptrace(int request, pid_t tid, void *address, void *data)
{
	struct tracee *t = tid > 0 ? tracee(tid) : NULL;

	(void)address;
	if (!t || kernel_refuses()) {
		errno = t ? errno : ESRCH;
		return -1;
	}
	switch (request) {
	case PTRACE_GETREGS:
		*(struct user_regs_struct *)data = t->regs;
		break;
	case PTRACE_SETREGS:
		t->regs = *(struct user_regs_struct *)data;
		break;
	case PTRACE_GETSIGMASK:
		*(uint64_t *)data = t->mask;
		break;
	case PTRACE_SETSIGMASK:
		t->mask = *(uint64_t *)data;
		break;
	case PTRACE_SYSCALL:
		step(t);
		break;
	case PTRACE_CONT:
		go_on(t);
		break;
	}
	return 0;
}

pid_t kernel_waitpid(pid_t pid, int *status, int flags)
{
	struct tracee *t = pid > 0 && pid != OWN_PID + 1 ? tracee(pid) : NULL;
	int end = t && ~t->mask ? __builtin_ctzll(~t->mask) + 1 : SIGURG, unused;

	(void)flags;
	status = status ? status : &unused;
	*status = !t || t->stop == ENDED ? 0 : t->stop == IN_CALL ? (SIGTRAP | 0x80) << 8 | 0x7f : end << 8 | 0x7f;
	return kernel_answer(pid);
}

int kernel_kill(pid_t pid, int signal)
{
	struct tracee *t = pid > 0 ? tracee(pid) : NULL;

	/* It would be for all processes, or for a group. */
	if (pid <= 0 && signal) {
		fprintf(stderr, "kernel: signal %d for pid %d\n", signal, pid);
		abort();
	}
	if (t && signal)
		t->stop = ENDED;
	return 0;
}

pid_t kernel_getsid(pid_t pid)
{
	const struct tracee *t = pid > 0 ? tracee(pid) : NULL;

	return t ? t->session : -1;
}

pid_t kernel_getpid(void)
{
	return OWN_PID;
}

pid_t kernel_gettid(void)
{
	return OWN_PID;
}

static ssize_t size_of(const struct iovec *parts, size_t count)
{
	ssize_t size = 0;

	for (size_t i = 0; i < count; i++)
		size += parts[i].iov_len;
	return size;
}

ssize_t kernel_process_vm_writev(pid_t pid, const struct iovec *local, unsigned long n, const struct iovec *remote, unsigned long m,
				 unsigned long flags)
{
	(void)pid;
	(void)flags;
	if (kernel_refuses())
		return -1;
	if (n == 1 && m == 1 && local->iov_len <= sizeof(written.bytes)) {
		written.at = (uint64_t)remote->iov_base;
		written.size = local->iov_len;
		memcpy(written.bytes, local->iov_base, local->iov_len);
	}
	return size_of(local, n);
}

/* Where default_maps have it: that of this kernel, which the seeds come from. */
static const void *in_vdso(uint64_t at, size_t size)
{
	const uint64_t start = 0x7ffff7fc1000, end = 0x7ffff7fc3000;

	return at >= start && at < end && size <= end - at ? (const uint8_t *)getauxval(AT_SYSINFO_EHDR) + (at - start) : NULL;
}

ssize_t kernel_process_vm_readv(pid_t pid, const struct iovec *local, unsigned long n, const struct iovec *remote, unsigned long m,
				unsigned long flags)
{
	const void *from = in_written((uint64_t)remote->iov_base, remote->iov_len) ?: in_vdso((uint64_t)remote->iov_base, remote->iov_len);

	(void)pid;
	(void)flags;
	if (kernel_refuses())
		return -1;
	for (size_t i = 0; i < n; i++)
		memset(local[i].iov_base, 0, local[i].iov_len);
	if (n == 1 && m == 1 && from)
		memcpy(local->iov_base, from, local->iov_len);
	else if (local->iov_len >= ARCH_SYSCALL_LENGTH)
		memcpy(local->iov_base, ARCH_SYSCALL_BYTES, ARCH_SYSCALL_LENGTH);
	return size_of(local, n);
}

/* The child's work is done at once. */
int kernel_clone(int (*act)(void *), void *stack, int flags, void *argument, ...)
{
	(void)stack;
	(void)flags;
	if (kernel_refuses())
		return -1;
	(void)act(argument);
	return OWN_PID + 1;
}

long kernel_syscall(long nr, ...)
{
	uint64_t args[2];
	va_list list;
	pid_t pid;

	va_start(list, nr);
	args[0] = va_arg(list, uint64_t);
	args[1] = va_arg(list, uint64_t);
	va_end(list);
	switch (nr) {
	case SYS_pidfd_getfd:
		return NEW_FD(.mode = S_IFREG, .number = args[1] & INT_MAX);
	case SYS_pidfd_open:
	case SYS_userfaultfd:
	case SYS_signalfd4:
		return NEW_FD(.mode = S_IFREG);
	case SYS_clone:
		return kernel_answer(OWN_PID + 1);
	case SYS_clone3:
		pid = *(pid_t *)((const struct clone_args *)args[0])->set_tid;
		errno = pid == 1 ? EEXIST : EINVAL;
		return pid > 1 ? kernel_answer(pid) : -1;
	}
	return kernel_answer(0);
}

/* What a thread does is done when it has begun. */
int kernel_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*body)(void *), void *argument)
{
	(void)ret;
	(void)attr;
	if (kernel_refuses())
		return EAGAIN;
	(void)body(argument);
	kernel_thread_ends();
	return 0;
}

int kernel_pthread_join(pthread_t thread, void **ret)
{
	(void)thread;
	(void)ret;
	return 0;
}

int kernel_sched_getaffinity(pid_t pid, size_t size, cpu_set_t *ret)
{
	(void)pid;
	memset(ret, 0xff, size);
	return kernel_answer(0);
}

char *kernel_mkdtemp(char *path)
{
	return kernel_refuses() ? NULL : path;
}


void kernel_processes_begin(void)
{
	written.size = 0;
	while (tracee_count)
		tracees[tracees_used[--tracee_count]] = (struct tracee){ 0 };
}
