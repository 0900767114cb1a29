/* rseq.h - restartable sequences: a thread in the middle of one must not go on there once it was stopped. */
#ifndef PHAUL_RSEQ_H
#define PHAUL_RSEQ_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#define RSEQ_CS_OFFSET 8	/* in the area that is registered: where the sequence is described, 0 outside of one */

struct rseq_configuration {
	uint64_t abi_pointer;		/* of the area; 0: none is registered */
	uint32_t abi_size, signature, flags, pad;
};

/* Of a stopped thread. Kernels without rseq say that there is none. */
int rseq_read(pid_t tid, struct rseq_configuration *ret);
/* A thread that was stopped in a sequence goes on where that is given up, as the kernel would have it: system calls that it makes
 * for us meanwhile would let the kernel forget that it was in one. Changes its registers, and `regs`. */
int rseq_give_up(pid_t tid, struct user_regs_struct *regs);

#endif
