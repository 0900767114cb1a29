/* x86_64.h - the only place that names registers. */
#ifndef PHAUL_ARCH_H
#define PHAUL_ARCH_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/user.h>

/* The bytes of the instruction that enters the kernel. */
#define ARCH_SYSCALL_BYTES "\x0f\x05"
#define ARCH_SYSCALL_LENGTH 2

#define ARCH_JUMP_LENGTH 14

/* To any address; changes no register: jmp *0(%rip), and the address behind it. */
static inline void arch_write_jump(uint8_t code[ARCH_JUMP_LENGTH], uint64_t to)
{
	memcpy(code, "\xff\x25\0\0\0\0", 6);
	memcpy(code + 6, &to, sizeof(to));
}

/* A function that makes a system call with its arguments; -1: that answers -ENOSYS. */
static inline void arch_write_call(uint8_t code[ARCH_JUMP_LENGTH], long nr)
{
	uint32_t number = nr;

	memset(code, 0x90, ARCH_JUMP_LENGTH);
	if (nr < 0) {
		memcpy(code, "\x48\xc7\xc0\xda\xff\xff\xff\xc3", 8);	/* mov $-38,%rax; ret */
		return;
	}
	code[0] = 0xb8;			/* mov $nr,%eax; syscall; ret */
	memcpy(code + 1, &number, sizeof(number));
	memcpy(code + 5, ARCH_SYSCALL_BYTES "\xc3", 3);
}

/* orig_rax = -1: the thread is not inside a system call, so that the kernel restarts none. */
static inline void arch_set_call(struct user_regs_struct *regs, uint64_t ip, long nr,
				 const uint64_t args[6])
{
	regs->rip = ip;
	regs->rax = nr;
	regs->orig_rax = -1;
	regs->rdi = args[0];
	regs->rsi = args[1];
	regs->rdx = args[2];
	regs->r10 = args[3];
	regs->r8 = args[4];
	regs->r9 = args[5];
}

/* What the batch code (blob/batch.S) ends with, and how a thread that has lost its tracer goes on. */
struct arch_tail {
	uint64_t done;		/* set when all calls are made */
	uint64_t signal;	/* that it then sends to itself */
	uint64_t mask;
	uint64_t r15, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, r14;
	uint64_t rip, cs, eflags, rsp, ss;	/* as iretq takes them */
};

/* Where the batch code takes its arguments from. */
static inline void arch_set_batch(struct user_regs_struct *regs, uint64_t code, uint64_t tail, uint64_t entries,
				  uint64_t count)
{
	regs->rip = code;
	regs->rax = 0;
	regs->orig_rax = -1;
	regs->r12 = entries;
	regs->r13 = count;
	regs->r14 = tail;
}

/* As a function is called. `frame`: where its return address lies. */
static inline void arch_set_run(struct user_regs_struct *regs, uint64_t code, uint64_t frame, uint64_t argument)
{
	regs->rip = code;
	regs->rsp = frame;
	regs->rdi = argument;
	regs->rax = 0;
	regs->orig_rax = -1;
	regs->eflags &= ~0x400ul;	/* the direction flag */
}

/* Stopped at the entry of a system call that its return has led to; what it returned is taken for the number. */
static inline bool arch_has_returned(const struct user_regs_struct *regs, uint64_t syscall_at, uint64_t frame)
{
	return regs->rip == syscall_at + ARCH_SYSCALL_LENGTH && regs->rsp == frame + 8;
}

static inline uint64_t arch_returned(const struct user_regs_struct *regs)
{
	return regs->orig_rax;
}

static inline void arch_skip_call(struct user_regs_struct *regs)
{
	regs->orig_rax = -1;
}

static inline int64_t arch_result(const struct user_regs_struct *regs)
{
	return regs->rax;
}

static inline uint64_t arch_ip(const struct user_regs_struct *regs)
{
	return regs->rip;
}

static inline void arch_set_ip(struct user_regs_struct *regs, uint64_t ip)
{
	regs->rip = ip;
}

/* The number of the system call that the thread was stopped in, -1 if in none. */
static inline long arch_interrupted_call(const struct user_regs_struct *regs)
{
	return (long)regs->orig_rax < 0 ? -1 : (long)regs->orig_rax;
}

static inline uint64_t arch_argument(const struct user_regs_struct *regs, int n)
{
	const unsigned long long args[] = { regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 };

	return args[n];
}

static inline void arch_name_call(struct user_regs_struct *regs, long nr)
{
	regs->orig_rax = nr;
}

enum {
	RESTART_SYS = -512,		/* ERESTARTSYS: again, or EINTR with a handler that doesn't want it again */
	RESTART_NOINTR = -513,		/* ERESTARTNOINTR: again in any case */
	RESTART_NOHAND = -514,		/* ERESTARTNOHAND of the kernel: again, or EINTR with a handler */
	RESTART_BLOCK = -516,		/* ERESTART_RESTARTBLOCK: needs what the kernel has stored */
};

/* These answer -EINTR on any ptrace stop, where others ask to be restarted: those of sockets if the socket has a
 * time limit (SO_RCVTIMEO, SO_SNDTIMEO), which begins anew. */
static inline bool arch_eintr_on_stop(long nr)
{
	switch (nr) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_rt_sigtimedwait:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
	case SYS_read:
	case SYS_readv:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
	case SYS_accept:
	case SYS_accept4:
	case SYS_write:
	case SYS_writev:
	case SYS_sendto:
	case SYS_sendmsg:
	case SYS_sendmmsg:
	case SYS_connect:
		return true;
	}
	return false;
}

static inline void arch_fix_restart(struct user_regs_struct *regs, bool moved)
{
	long nr = arch_interrupted_call(regs);
	int64_t result = arch_result(regs);

	if (nr < 0)
		return;
	if (result == -4 /* EINTR */ && arch_eintr_on_stop(nr))
		regs->rax = RESTART_NOHAND;
	if (!moved || result != RESTART_BLOCK)
		return;
	regs->rax = RESTART_NOHAND;
	/* The kernel has stored what is left of the sleep where the caller wanted it: sleep that. */
	if (nr == SYS_nanosleep && regs->rsi)
		regs->rdi = regs->rsi;
	if (nr == SYS_clock_nanosleep && regs->r10)
		regs->rdx = regs->r10;
}

/* Registers that go on without the kernel's help: an interrupted call is made again. */
static inline void arch_fill_tail(struct arch_tail *tail, const struct user_regs_struct *from, uint64_t mask,
				  int signal)
{
	struct user_regs_struct regs = *from;

	arch_fix_restart(&regs, false);
	switch (arch_interrupted_call(&regs) < 0 ? 0 : arch_result(&regs)) {
	case RESTART_BLOCK:
		regs.rax = SYS_restart_syscall;
		regs.rip -= ARCH_SYSCALL_LENGTH;
		break;
	case RESTART_SYS:
	case RESTART_NOINTR:
	case RESTART_NOHAND:
		regs.rax = regs.orig_rax;
		regs.rip -= ARCH_SYSCALL_LENGTH;
		break;
	}
	*tail = (struct arch_tail){
		.signal = signal, .mask = mask,
		.r15 = regs.r15, .r13 = regs.r13, .r12 = regs.r12, .rbp = regs.rbp, .rbx = regs.rbx, .r11 = regs.r11,
		.r10 = regs.r10, .r9 = regs.r9, .r8 = regs.r8, .rax = regs.rax, .rcx = regs.rcx, .rdx = regs.rdx,
		.rsi = regs.rsi, .rdi = regs.rdi, .r14 = regs.r14,
		.rip = regs.rip, .cs = regs.cs, .eflags = regs.eflags, .rsp = regs.rsp, .ss = regs.ss,
	};
}

/* Is the kernel about to make the interrupted call again? */
static inline bool arch_is_restarting(const struct user_regs_struct *regs)
{
	int64_t result = regs->rax;

	return (long)regs->orig_rax >= 0 && (result == RESTART_SYS || result == RESTART_NOINTR || result == RESTART_NOHAND);
}

/* So that a thread that knows nothing of it makes the call; and back. */
static inline void arch_point_at_call(struct user_regs_struct *regs)
{
	regs->rax = regs->orig_rax;
	regs->rip -= ARCH_SYSCALL_LENGTH;
}

static inline void arch_point_behind_call(struct user_regs_struct *regs, int64_t result)
{
	regs->rax = result;
	regs->rip += ARCH_SYSCALL_LENGTH;
}

#endif
