/* freeze.h - stop all threads of a process, and give them back as they were. */
#ifndef PHAUL_FREEZE_H
#define PHAUL_FREEZE_H

#include "remote.h"

struct frozen_thread {
	pid_t tid;		/* as we see it */
	bool stopped;
	struct user_regs_struct regs;	/* as found; a restart of the interrupted call is still to come */
	uint64_t mask;			/* of signals, as found */
};

struct frozen {
	pid_t pid;
	struct frozen_thread *threads;	/* [0] is the leader */
	size_t count, capacity;
	int stop_signal;		/* that had stopped all threads before (SIGSTOP, SIGTSTP), 0 */
	uint64_t since_ns;		/* when the first thread was told to stop */
};

/* PTRACE_SEIZE, with seccomp suspended if that can be had: a thread may be asked what it may not ask itself. */
long ptrace_seize(pid_t tid, unsigned long options);
/* Seizes and interrupts until no new thread appears. On failure nothing stays stopped.
 * -ESRCH: gone; -EPERM: traced by someone else; -ETIMEDOUT: a thread would not stop. */
int freeze(pid_t pid, int timeout_ms, struct frozen *ret, struct phaul_error *err);
/* The leader alone, for what one thread can be asked. */
int freeze_leader(pid_t pid, int timeout_ms, struct frozen *ret, struct phaul_error *err);
/* Restores every thread's registers and detaches; interrupted system calls go on. */
int thaw(struct frozen *f);
void frozen_free(struct frozen *f);

/* What rax must be for the interrupted system call to go on, here or in another process, where the
 * kernel has no restart block for it: changes regs; -516 becomes -514, and so does -EINTR of the calls
 * that give it on every stop (epoll_wait, ...). `moved`: the process goes elsewhere, so that a
 * nanosleep with a remainder goes on from there. */
void freeze_fix_restart(struct user_regs_struct *regs, bool moved);
/* A sleep that was interrupted before, by a SIGSTOP, a debugger or by our arming, goes on as restart_syscall(2),
 * which only this kernel knows the meaning of: makes it the call that it was, by its arguments, which are still
 * in the registers. Reads memory of the thread. */
void freeze_name_restart(pid_t tid, struct user_regs_struct *regs);

#endif
