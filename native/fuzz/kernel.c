#include "kernel_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERRNO_MAX 133


const struct parts *kernel_input;
static uint32_t calls, refused_call;
static int refused_with;

bool kernel_refuses(void)
{
	if (++calls != refused_call)
		return false;
	errno = refused_with;
	return true;
}

int kernel_answer(int value)
{
	return kernel_refuses() ? -1 : value;
}

uint32_t kernel_calls(void)
{
	return calls;
}

AGREES(access) AGREES(chdir) AGREES(chmod) AGREES(chown) AGREES(chroot) AGREES(dup2) AGREES(epoll_ctl) AGREES(execve) AGREES(faccessat)
AGREES(fallocate) AGREES(fchmod) AGREES(fchmodat) AGREES(fchown) AGREES(fchownat) AGREES(flock)
AGREES(fremovexattr) AGREES(fsconfig) AGREES(fsetxattr) AGREES(fsync) AGREES(futimens) AGREES(geteuid) AGREES(link) AGREES(linkat) AGREES(madvise) AGREES(mkdirat) AGREES(mount) AGREES(nanosleep) AGREES(nftw) AGREES(pause)
AGREES(poll) AGREES(pthread_sigmask) AGREES(remove) AGREES(rename) AGREES(renameat2) AGREES(rmdir) AGREES(sendfile) AGREES(setfsuid)
AGREES(sigprocmask) AGREES(tee) AGREES(unlink) AGREES(usleep) AGREES(utimensat)

/* Each file has the same. */
ssize_t kernel_flistxattr(int fd, char *names, size_t size)
{
	static const char all[] = "user.note\0security.selinux";

	(void)fd;
	memcpy(names, all, size < sizeof(all) ? size : sizeof(all));
	return kernel_refuses() ? -1 : (ssize_t)sizeof(all);
}

ssize_t kernel_fgetxattr(int fd, const char *name, void *value, size_t size)
{
	(void)fd;
	(void)name;
	(void)value;
	(void)size;
	return kernel_refuses() ? -1 : 0;
}

/* Another one each time, and the same for the same input. */
ssize_t kernel_getrandom(void *to, size_t size, unsigned int flags)
{
	(void)flags;
	memset(to, 0, size);
	memcpy(to, &calls, size < sizeof(calls) ? size : sizeof(calls));
	return kernel_refuses() ? -1 : (ssize_t)size;
}

/* None of our children runs what would end so. */
void kernel__exit(int status)
{
	fprintf(stderr, "kernel: exit %d\n", status);
	abort();
}

/* ---- all of it ---- */

int tell(int code, const struct phaul_error *err)
{
	if (getenv("FUZZ_TELL"))
		fprintf(stderr, "%d%s%s after %u calls\n", code, code < 0 ? " " : "", code < 0 ? err->what : "", calls);
	return code;
}

void kernel_begin(const struct parts *parts)
{
	const struct part *fail = parts_find(parts, "fail");
	uint16_t numbers[2] = { 0, 0 };

	kernel_input = parts;
	if (fail && fail->size >= sizeof(numbers))
		memcpy(numbers, fail->bytes, sizeof(numbers));
	refused_call = numbers[0];
	refused_with = numbers[1] && numbers[1] <= ERRNO_MAX && numbers[1] != EINTR ? numbers[1] : EIO;
	calls = 0;
	kernel_files_begin();
	kernel_memory_begin();
	kernel_sockets_begin();
	kernel_processes_begin();
}

void kernel_end(void)
{
	kernel_files_end();
	kernel_memory_end();
}
