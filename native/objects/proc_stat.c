#include "proc_stat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int proc_stat_read(pid_t pid, struct proc_stat *ret)
{
	char path[32], text[4096], *at;
	ssize_t got;
	int fd, err;

	memset(ret, 0, sizeof(*ret));
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	got = read(fd, text, sizeof(text) - 1);
	err = got < 0 ? -errno : 0;
	close(fd);
	if (err)
		return err;
	text[got] = 0;
	/* The name, field 2, may hold anything. */
	at = strrchr(text, ')');
	if (!at || at[1] != ' ' || !at[2])
		return -EPROTO;
	ret->state = at[2];
	at += 3;
	for (int i = STAT_PPID; i <= STAT_LAST; i++) {
		if (*at++ != ' ')
			return -EPROTO;
		ret->field[i] = strtoull(at, &at, 10);
	}
	return 0;
}
