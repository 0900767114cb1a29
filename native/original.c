/* original.c - processes that a phaul has left stopped when it died after its commit, or gave up: ended, or let go on. */
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "address.h"
#include "error.h"
#include "tcp.h"
#include "tree.h"

static bool is_connection(int fd)
{
	struct tcp_info info;
	socklen_t size = sizeof(info);
	int protocol = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &(socklen_t){ sizeof(protocol) }) < 0 || protocol != IPPROTO_TCP)
		return false;
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state != TCP_LISTEN && info.tcpi_state != TCP_CLOSE;
}

/* Its connections are the copy's now: their peers must not be told that they end. */
static void silence(pid_t pid)
{
	char path[32];
	struct dirent *d;
	int process = syscall(SYS_pidfd_open, pid, 0);
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = process < 0 ? NULL : opendir(path);
	while (dir && (d = readdir(dir))) {
		int fd = *d->d_name == '.' ? -1 : syscall(SYS_pidfd_getfd, process, atoi(d->d_name), 0);

		if (fd < 0)
			continue;
		if (is_connection(fd))
			(void)tcp_pause(fd);
		close(fd);
	}
	if (dir)
		closedir(dir);
	if (process >= 0)
		close(process);
}

int phaul_original_end(int pid, struct phaul_error *err)
{
	struct tree tree;
	int code = tree_list(pid, &tree, err);

	if (code)
		return code;
	for (size_t i = 0; i < tree.count; i++)
		if (tree.tasks[i].state != TASK_DEAD)
			silence(tree.tasks[i].pid);
	for (size_t i = 0; i < tree.count && !code; i++)
		if (tree.tasks[i].state != TASK_DEAD && kill(tree.tasks[i].pid, SIGKILL) < 0 && errno != ESRCH)
			code = phaul_fail(err, -errno, "original", "ending pid %d", tree.tasks[i].pid);
	tree_free(&tree);
	return code;
}

static bool is_listed(const char *pids, pid_t pid)
{
	char *end;

	for (long one; (one = strtol(pids, &end, 10)) > 0; pids = end)
		if (one == pid)
			return true;
	return false;
}

int phaul_original_resume(int pid, const char *addresses, const char *except, struct phaul_error *err)
{
	struct moved_addresses moved;
	struct tree tree;
	int code = addresses_parse(addresses, &moved, err);

	if (code)
		return code;
	code = tree_list(pid, &tree, err);
	if (code) {
		addresses_free(&moved);
		return code;
	}
	/* Those that are there still were never taken off. */
	if (!addresses_add(&moved, NULL))
		addresses_announce(&moved);
	addresses_free(&moved);
	for (size_t i = tree.count; i-- > 0 && !code; )
		if (tree.tasks[i].state == TASK_STOPPED && !is_listed(except, tree.tasks[i].pid) && kill(tree.tasks[i].pid, SIGCONT) < 0)
			code = phaul_fail(err, -errno, "original", "letting pid %d go on", tree.tasks[i].pid);
	tree_free(&tree);
	return code;
}
