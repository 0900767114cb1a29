/* batch.S - what runs in the other process: an array of system calls, then a trap.
 *
 * r12: the entries, {nr, args[6], result} of 8 bytes each; r13: how many. Needs no stack and may lie at
 * any address. A thread that clone3 makes here starts with the next instruction; it is stopped by ptrace
 * before that.
 */
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
2:	int3
remote_batch_code_end:
	.section .note.GNU-stack, "", @progbits
