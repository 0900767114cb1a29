/* original.c - processes that a phaul has left stopped when it died after its commit, or gave up: ended, or let go on. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "address.h"
#include "error.h"
#include "freeze.h"
#include "memory_map.h"
#include "objects/locks.h"
#include "posix_shm.h"
#include "tcp.h"
#include "tree.h"

#define FREEZE_TIMEOUT_MS 5000
#define REMOVE_TRIES 100
#define REMOVE_US 5000

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

/* Files in /dev/shm, by which they share memory: these moved with them. */
struct shared_files {
	struct { int fd; char *path; } *at;
	size_t count;
};

static bool has(const struct shared_files *f, const char *path)
{
	for (size_t i = 0; i < f->count; i++)
		if (!strcmp(f->at[i].path, path))
			return true;
	return false;
}

/* What can't be remembered stays; so does another file that has the name by now. */
static void remember(struct shared_files *f, const struct vma *vma)
{
	int fd = open(vma->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	char *path = strdup(vma->path);
	void *larger = reallocarray(f->at, f->count + 1, sizeof(*f->at));
	struct stat st;

	f->at = larger ?: f->at;
	if (larger && path && fd >= 0 && !fstat(fd, &st) && st.st_ino == vma->inode) {
		f->at[f->count].fd = fd;
		f->at[f->count++].path = path;
		return;
	}
	free(path);
	if (fd >= 0)
		close(fd);
}

static void remember_all(struct shared_files *f, pid_t pid)
{
	struct memory_map map;

	if (memory_map_read(pid, false, &map, NULL))
		return;
	for (size_t i = 0; i < map.count; i++)
		if (map.at[i].shared && posix_shm_is_name(map.at[i].path) && !has(f, map.at[i].path))
			remember(f, &map.at[i]);
	memory_map_free(&map);
}

/* As soon as the killed have let go of them, unless others have them. */
static void remove_all(struct shared_files *f)
{
	size_t left = f->count;

	for (int tries = 0; left && tries < REMOVE_TRIES; tries++) {
		left = 0;
		for (size_t i = 0; i < f->count; i++) {
			posix_shm_leave(f->at[i].fd, f->at[i].path);
			left += !access(f->at[i].path, F_OK);
		}
		if (left)
			usleep(REMOVE_US);
	}
	for (size_t i = 0; i < f->count; i++) {
		close(f->at[i].fd);
		free(f->at[i].path);
	}
	free(f->at);
}

int phaul_original_end(int pid, struct phaul_error *err)
{
	struct shared_files shared = {0};
	struct tree tree;
	int code = tree_list(pid, &tree, err);

	if (code)
		return code;
	for (size_t i = 0; i < tree.count; i++) {
		if (tree.tasks[i].state == TASK_DEAD)
			continue;
		silence(tree.tasks[i].pid);
		remember_all(&shared, tree.tasks[i].pid);
	}
	for (size_t i = 0; i < tree.count && !code; i++)
		if (tree.tasks[i].state != TASK_DEAD && kill(tree.tasks[i].pid, SIGKILL) < 0 && errno != ESRCH)
			code = phaul_fail(err, -errno, "original", "ending pid %d", tree.tasks[i].pid);
	remove_all(&shared);
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

/* Of one that is stopped, and stays so. */
static int take_locks(pid_t pid, const struct file_lock *locks, size_t count, int64_t *ret)
{
	struct phaul_error unwanted;
	struct memory_map map;
	struct frozen frozen;
	remote_addr syscall_at;
	int code = memory_map_read(pid, false, &map, &unwanted);

	if (code)
		return code;
	code = remote_find_syscall(pid, &map, &syscall_at) ?: freeze_leader(pid, FREEZE_TIMEOUT_MS, &frozen, &unwanted);
	if (!code) {
		code = locks_apply(pid, syscall_at, memory_map_gap(&map), locks, count, true, ret);
		(void)thaw(&frozen);
	}
	memory_map_free(&map);
	return code;
}

/* A line for each that can't be had any more. */
static int take_all_locks(const struct tree *tree, const char *notes, char *ret_lost, size_t size, struct phaul_error *err)
{
	struct file_lock *locks;
	size_t count, used = 0;
	int code = locks_parse(notes, &locks, &count);
	int64_t *results = code ? NULL : calloc(count + 1, sizeof(*results));

	if (!results) {
		free(code ? NULL : locks);
		return phaul_fail(err, code ?: -ENOMEM, "original", "reading which locks pid %d had", tree->tasks[0].pid);
	}
	for (size_t i = 0; i < count; i++)
		results[i] = -ESRCH;
	for (size_t i = 0; i < tree->count; i++)
		if (tree->tasks[i].state != TASK_DEAD)
			(void)take_locks(tree->tasks[i].pid, locks, count, results);
	for (size_t i = 0; i < count && used < size; i++)
		if (results[i] < 0) {
			lock_describe(&locks[i], ret_lost + used, size - used);
			used += strlen(ret_lost + used);
			used += snprintf(ret_lost + used, size - used, "\n");
		}
	free(results);
	free(locks);
	return 0;
}

int phaul_original_resume(int pid, const char *addresses, const char *except, const char *locks, char *ret_lost, size_t size,
			  struct phaul_error *err)
{
	struct moved_addresses moved;
	struct tree tree;
	int code = addresses_parse(addresses, &moved, err);

	if (size)
		*ret_lost = 0;

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
	if (*locks)
		code = take_all_locks(&tree, locks, ret_lost, size, err);
	for (size_t i = tree.count; i-- > 0 && !code; )
		if (tree.tasks[i].state == TASK_STOPPED && !is_listed(except, tree.tasks[i].pid) && kill(tree.tasks[i].pid, SIGCONT) < 0)
			code = phaul_fail(err, -errno, "original", "letting pid %d go on", tree.tasks[i].pid);
	tree_free(&tree);
	return code;
}
