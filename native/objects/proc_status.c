#include "proc_status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int proc_status_read(pid_t pid, pid_t tid, struct proc_status *ret)
{
	char path[64];
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ret->text[0] = '\n';
	got = read(fd, ret->text + 1, sizeof(ret->text) - 2);
	close(fd);
	if (got < 0)
		return -errno;
	if (got == sizeof(ret->text) - 2)
		return -E2BIG;
	ret->text[1 + got] = 0;
	return 0;
}

const char *proc_status_field(const struct proc_status *s, const char *name)
{
	char line[32];
	const char *at;

	snprintf(line, sizeof(line), "\n%s:\t", name);
	at = strstr(s->text, line);
	return at ? at + strlen(line) : NULL;
}

long long proc_status_number(const struct proc_status *s, const char *name)
{
	const char *at = proc_status_field(s, name);

	return at ? strtoll(at, NULL, 10) : -1;
}

uint64_t proc_status_set(const struct proc_status *s, const char *name)
{
	const char *at = proc_status_field(s, name);

	return at ? strtoull(at, NULL, 16) : 0;
}
