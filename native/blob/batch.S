/* batch.S - what runs in the other process: an array of system calls, then a signal to itself.
 *
 * r12: the entries, {nr, args[6], result} of 8 bytes each; r13: how many; r14: struct arch_tail. Needs no stack and
 * may lie at any address. A thread that clone3 makes here starts with the next instruction; it is stopped by ptrace
 * before that.
 *
 * The signal stops a traced thread and, being ignored by default, nobody else. A thread that comes past it has lost
 * its tracer, and goes on as if nothing had been: with its own mask and registers. iretq loads what no register is
 * left for, and in contrast to rt_sigreturn keeps the FPU and what the kernel remembers of an interrupted sleep.
 */
#include <sys/syscall.h>

	.section .rodata
	.global remote_batch_code, remote_batch_code_end
	.hidden remote_batch_code, remote_batch_code_end
remote_batch_code:
1:	test	%r13, %r13
	jz	2f
	mov	0(%r12), %rax
	mov	8(%r12), %rdi
	mov	16(%r12), %rsi
	mov	24(%r12), %rdx
	mov	32(%r12), %r10
	mov	40(%r12), %r8
	mov	48(%r12), %r9
	syscall
	mov	%rax, 56(%r12)
	add	$64, %r12
	dec	%r13
	jmp	1b
2:	movq	$1, 0(%r14)
	mov	$SYS_getpid, %eax
	syscall
	mov	%rax, %rdi
	mov	$SYS_gettid, %eax
	syscall
	mov	%rax, %rsi
	mov	8(%r14), %rdx
	mov	$SYS_tgkill, %eax
	syscall

	mov	$2, %edi		/* SIG_SETMASK */
	lea	16(%r14), %rsi
	xor	%edx, %edx
	mov	$8, %r10d
	mov	$SYS_rt_sigprocmask, %eax
	syscall
	lea	144(%r14), %rsp
	mov	24(%r14), %r15
	mov	32(%r14), %r13
	mov	40(%r14), %r12
	mov	48(%r14), %rbp
	mov	56(%r14), %rbx
	mov	64(%r14), %r11
	mov	72(%r14), %r10
	mov	80(%r14), %r9
	mov	88(%r14), %r8
	mov	96(%r14), %rax
	mov	104(%r14), %rcx
	mov	112(%r14), %rdx
	mov	120(%r14), %rsi
	mov	128(%r14), %rdi
	mov	136(%r14), %r14
	iretq
remote_batch_code_end:
	.section .note.GNU-stack, "", @progbits
