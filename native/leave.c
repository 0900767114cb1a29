#include "leave.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/x86_64.h"
#include "error.h"
#include "memory_map.h"
#include "objects/proc_status.h"

#define STEPS_MAX 100000	/* the kernel's longest function makes random numbers, in some thousand */
#define ALL_BUT_SIGTRAP (~(1ull << (SIGTRAP - 1)))

/* Signals stay pending but for SIGSTOP, which nothing can block: it is sent again. */
static int step(struct frozen_thread *t, bool *stopped)
{
	int status;

	if (ptrace(PTRACE_SINGLESTEP, t->tid, 0, 0) < 0)
		return -errno;
	while (waitpid(t->tid, &status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	if (!WIFSTOPPED(status))
		return -ESRCH;
	*stopped |= WSTOPSIG(status) == SIGSTOP && !(status >> 16);
	return ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) < 0 ? -errno : 0;
}

static int leave(struct frozen *f, struct frozen_thread *t, uint64_t start, uint64_t end)
{
	uint64_t mask = ALL_BUT_SIGTRAP;
	bool stopped = false;
	int err = ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask) < 0 ? -errno : 0;

	for (int i = 0; !err && arch_ip(&t->regs) >= start && arch_ip(&t->regs) < end; i++)
		err = i < STEPS_MAX ? step(t, &stopped) : -EAGAIN;
	if (err != -ESRCH && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->mask) < 0 && !err)
		err = -errno;
	if (stopped)
		(void)syscall(SYS_tgkill, f->pid, t->tid, SIGSTOP);
	return err;
}

/* A step ends with SIGTRAP, and the kernel forgets that one is ignored when it must deliver it. */
static bool ignores_sigtrap(pid_t pid)
{
	struct proc_status s;
	const char *ignored = proc_status_read(pid, pid, &s) ? NULL : proc_status_field(&s, "SigIgn");

	return !ignored || strtoull(ignored, NULL, 16) >> (SIGTRAP - 1) & 1;
}

/* -EAGAIN: one can't be led on; after a moment of running it may be elsewhere. */
static int leave_code(struct frozen *f, uint64_t start, uint64_t end, struct phaul_error *err)
{
	for (size_t i = 0; i < f->count; i++) {
		struct frozen_thread *t = &f->threads[i];
		int code;

		if (arch_ip(&t->regs) < start || arch_ip(&t->regs) >= end)
			continue;
		code = ignores_sigtrap(f->pid) ? -EAGAIN : leave(f, t, start, end);
		if (code)
			return phaul_fail(err, code, "freeze", "leading thread %d of pid %d out of the vdso", t->tid, f->pid);
	}
	return 0;
}

static int leave_vdso(struct task *task, struct phaul_error *err)
{
	const struct vma *vdso;
	struct memory_map map;
	int code = memory_map_read(task->pid, false, &map, err);

	if (code)
		return code;
	vdso = memory_map_named(&map, "[vdso]");
	code = vdso ? leave_code(&task->frozen, vdso->start, vdso->end, err) : 0;
	memory_map_free(&map);
	return code;
}

int leave_vdsos(struct tree *tree, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < tree->count && !code; i++)
		if (tree->tasks[i].state != TASK_DEAD)
			code = leave_vdso(&tree->tasks[i], err);
	return code;
}
