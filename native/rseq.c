#include "rseq.h"

#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "arch/x86_64.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

/* struct rseq_cs of Linux. */
struct sequence {
	uint32_t version, flags;
	uint64_t start, length, abort;
};

int rseq_read(pid_t tid, struct rseq_configuration *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(*ret), ret) < 0)
		return errno == EIO || errno == EINVAL ? 0 : -errno;
	return 0;
}

static int get(pid_t tid, uint64_t at, void *to, size_t size)
{
	struct iovec local = { to, size }, remote = { (void *)at, size };

	return process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : -EFAULT;
}

int rseq_give_up(pid_t tid, struct user_regs_struct *regs)
{
	struct rseq_configuration rseq;
	struct sequence s;
	uint64_t at = 0;

	/* There are no system calls in sequences. */
	if (arch_interrupted_call(regs) >= 0)
		return 0;
	/* What can't be read is the process's own trouble, which the kernel ends it for. */
	if (rseq_read(tid, &rseq) || !rseq.abi_pointer || get(tid, rseq.abi_pointer + RSEQ_CS_OFFSET, &at, sizeof(at)) || !at ||
	    get(tid, at, &s, sizeof(s)) || arch_ip(regs) - s.start >= s.length)
		return 0;
	arch_set_ip(regs, s.abort);
	return ptrace(PTRACE_SETREGS, tid, 0, regs) < 0 ? -errno : 0;
}
