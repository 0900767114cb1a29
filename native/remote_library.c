/* remote_library.c - remote.h for TypeScript: the main thread of another process, borrowed. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "error.h"
#include "freeze.h"
#include "memory_map.h"

#define ATTACH_TIMEOUT_MS 2000
#define WORDS_A_CALL 7			/* number and arguments */
#define CALLS_MAX 65536u
#define STACK_BYTES 65536ul

struct phaul_remote {
	pid_t pid;
	int mem;
	struct frozen thread;
	struct remote r;
};

int phaul_remote_attach(int pid, struct phaul_remote **ret, struct phaul_error *err)
{
	struct phaul_remote *p = calloc(1, sizeof(*p));
	struct memory_map map = {0};
	remote_addr syscall_at = 0;
	char path[32];
	int code = p ? 0 : phaul_fail(err, -ENOMEM, "remote", "attaching to pid %d", pid);

	if (code)
		return code;
	p->pid = pid;
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	p->mem = open(path, O_RDWR | O_CLOEXEC);
	if (p->mem < 0)
		code = phaul_fail(err, -errno, "remote", errno == ENOENT ? "there is no process %d here" : "opening the memory of pid %d", pid);
	code = code ?: memory_map_read(pid, false, &map, err);
	if (!code && remote_find_syscall(pid, &map, &syscall_at))
		code = phaul_fail(err, -EOPNOTSUPP, "remote", "pid %d has no [vdso], through which calls are made in it", pid);
	code = code ?: freeze_leader(pid, ATTACH_TIMEOUT_MS, &p->thread, err);
	if (!code) {
		code = remote_begin(&p->r, pid, syscall_at);
		if (code) {
			(void)thaw(&p->thread);
			phaul_fail(err, code, "remote", "borrowing the main thread of pid %d", pid);
		}
	}
	memory_map_free(&map);
	if (!code) {
		*ret = p;
		return 0;
	}
	if (p->mem >= 0)
		close(p->mem);
	free(p);
	return code;
}

int phaul_remote_detach(struct phaul_remote *p, struct phaul_error *err)
{
	int code = remote_end(&p->r) ?: thaw(&p->thread);

	if (code)
		phaul_fail(err, code, "remote", "letting pid %d go on", p->pid);
	close(p->mem);
	free(p);
	return code;
}

static int lost(const struct phaul_remote *p, int code, struct phaul_error *err)
{
	return phaul_fail(err, code, "remote", code == -ESRCH ? "pid %d has ended" : "making a call in pid %d", p->pid);
}

/* The call's own failure is no failure. */
static bool is_ours(int64_t result)
{
	return result == -ESRCH;
}

int phaul_remote_call(struct phaul_remote *p, int64_t nr, const uint64_t args[6], int64_t *ret, struct phaul_error *err)
{
	*ret = remote_call6(&p->r, nr, args);
	/* The call may have said so, too. */
	return is_ours(*ret) && kill(p->pid, 0) < 0 ? lost(p, -ESRCH, err) : 0;
}

int phaul_remote_batch(struct phaul_remote *p, const uint64_t *calls, size_t count, int64_t *ret, struct phaul_error *err)
{
	struct remote_area area = {0};
	struct batch b = {0};
	int code = count && count <= CALLS_MAX ? remote_area_map(&p->r, 0, (count * 64 + 4 * 4096 + 4095) & ~4095ul, &area) : -EINVAL;

	if (code)
		return phaul_fail(err, code, "remote", "preparing a batch of %zu calls in pid %d", count, p->pid);
	code = batch_begin(&b, &area, &p->r, count);
	for (size_t i = 0; i < count && !code; i++)
		if (batch_call6(&b, NULL, calls[i * WORDS_A_CALL], &calls[i * WORDS_A_CALL + 1]) < 0)
			code = b.error;
	code = code ? lost(p, code, err) : batch_run(&b, 1, err);
	for (size_t i = 0; i < count && !code; i++)
		ret[i] = batch_result(&b, i);
	batch_free(&b);
	(void)remote_area_unmap(&p->r, &area);
	return code;
}

int phaul_remote_read(struct phaul_remote *p, uint64_t at, void *to, size_t size, struct phaul_error *err)
{
	ssize_t got = pread(p->mem, to, size, at);

	if (got == (ssize_t)size)
		return 0;
	return phaul_fail(err, got < 0 ? -errno : -EFAULT, "remote", "reading %zu bytes at %llx of pid %d", size, (unsigned long long)at, p->pid);
}

int phaul_remote_write(struct phaul_remote *p, uint64_t at, const void *from, size_t size, struct phaul_error *err)
{
	ssize_t put = pwrite(p->mem, from, size, at);

	if (put == (ssize_t)size)
		return 0;
	return phaul_fail(err, put < 0 ? -errno : -EFAULT, "remote", "writing %zu bytes at %llx of pid %d", size, (unsigned long long)at, p->pid);
}

int phaul_remote_take(struct phaul_remote *p, int fd, struct phaul_error *err)
{
	int pidfd = syscall(SYS_pidfd_open, p->pid, 0), own = pidfd < 0 ? -errno : syscall(SYS_pidfd_getfd, pidfd, fd, 0);

	if (own < 0 && pidfd >= 0)
		own = -errno;
	if (pidfd >= 0)
		close(pidfd);
	return own >= 0 ? own : phaul_fail(err, own, "remote", "taking fd %d of pid %d", fd, p->pid);
}

int phaul_remote_run(struct phaul_remote *p, const void *code, size_t size, uint64_t argument, uint64_t *ret, struct phaul_error *err)
{
	size_t pages = (size + 4095) & ~4095ul;
	int64_t at = remote_call(&p->r, SYS_mmap, 0, pages + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int64_t failed = at < 0 ? at : remote_call(&p->r, SYS_mprotect, at, pages, PROT_READ | PROT_EXEC);

	if (!failed && pwrite(p->mem, code, size, at) != (ssize_t)size)
		failed = -EFAULT;
	if (!failed)
		failed = remote_run(&p->r, at, at + pages + STACK_BYTES, argument, ret);
	if (at > 0)
		(void)remote_call(&p->r, SYS_munmap, at, pages + STACK_BYTES);
	return !failed ? 0 : phaul_fail(err, failed, "remote", failed == -EFAULT ? "the code that was run in pid %d has crashed" :
					"running code in pid %d", p->pid);
}
