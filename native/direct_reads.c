#include "direct_reads.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "track.h"

#define PAGE 4096ull

/* What a thread is waiting in. */
struct call {
	long number;
	uint64_t fd, buffer, size;
};

static bool read_call(pid_t pid, const char *tid, struct call *ret)
{
	char path[64], text[256];
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%.12s/syscall", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n < 0)
		return false;
	text[n] = 0;
	return sscanf(text, "%ld %lx %lx %lx", &ret->number, &ret->fd, &ret->buffer, &ret->size) == 4;
}

bool direct_reads_from(pid_t pid, int fd)
{
	char line[64];
	unsigned int flags = 0;
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/fdinfo/%d", pid, fd);
	f = fopen(line, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "flags: %o", &flags) == 1)
			break;
	if (f)
		fclose(f);
	return flags & O_DIRECT;
}

static int add_buffer(uint64_t at, uint64_t size, struct range_list *ret)
{
	uint64_t end = at + size < at ? ~0ull : at + size;

	return size ? range_list_add(ret, at & ~(PAGE - 1), (end + PAGE - 1) & ~(PAGE - 1)) : 0;
}

static int add_buffers(pid_t pid, uint64_t at, uint64_t count, struct range_list *ret)
{
	struct iovec vectors[IOV_MAX], local = { vectors, 0 }, remote = { (void *)at, 0 };
	ssize_t n;
	int err = 0;

	local.iov_len = remote.iov_len = (count < IOV_MAX ? count : IOV_MAX) * sizeof(*vectors);
	n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(*vectors) && !err; i++)
		err = add_buffer((uint64_t)vectors[i].iov_base, vectors[i].iov_len, ret);
	return err;
}

static int add_thread(pid_t pid, const char *tid, struct range_list *ret)
{
	struct call call;

	if (!read_call(pid, tid, &call))
		return 0;
	switch (call.number) {
	case SYS_read:
	case SYS_pread64:
		return direct_reads_from(pid, call.fd) ? add_buffer(call.buffer, call.size, ret) : 0;
	case SYS_readv:
	case SYS_preadv:
	case SYS_preadv2:
		return direct_reads_from(pid, call.fd) ? add_buffers(pid, call.buffer, call.size, ret) : 0;
	}
	return 0;
}

/* To look at a thousand threads takes 10 ms and more. What is on its way since the last look was counted when it set out, and what
 * was on its way then is in `buffers`. */
static bool has_read(pid_t pid, struct direct_reads *last)
{
	unsigned long bytes = 0;
	bool known = false, same;
	char line[64];
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/io", pid);
	f = fopen(line, "re");
	while (f && !known && fgets(line, sizeof(line), f))
		known = sscanf(line, "read_bytes: %lu", &bytes) == 1;
	if (f)
		fclose(f);
	same = known && last->known && bytes == last->bytes;
	*last = (struct direct_reads){ known, bytes };
	return !same;
}

int direct_reads_find(pid_t pid, struct direct_reads *last, struct range_list *buffers)
{
	bool look = has_read(pid, last) || buffers->count;
	struct dirent *entry;
	char path[32];
	int err = 0;
	DIR *tasks;

	range_list_reset(buffers);
	if (!look)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = opendir(path);
	while (tasks && !err && (entry = readdir(tasks)))
		if (entry->d_name[0] != '.')
			err = add_thread(pid, entry->d_name, buffers);
	if (tasks)
		closedir(tasks);
	range_list_order(buffers);
	return err;
}
