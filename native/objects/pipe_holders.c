/* pipe_holders.c - which other processes have ends of pipes, or sockets: one look at all of them. */
#include "descriptors.h"
#include "../tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void read_name(int proc, char ret[16])
{
	int fd = openat(proc, "comm", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, ret, 15);

	if (fd >= 0)
		close(fd);
	ret[got > 0 ? got : 0] = 0;
	ret[strcspn(ret, "\n")] = 0;
}

static void add(struct check *c, const struct pipe_holder *holder)
{
	size_t n = c->pipe_holder_count;
	struct pipe_holder *larger;

	/* Doubled whenever full: at powers of two. */
	if (!(n & (n - 1)) || !n) {
		larger = reallocarray(c->pipe_holders, n ? 2 * n : 1, sizeof(*larger));
		if (!larger)
			return;
		c->pipe_holders = larger;
	}
	c->pipe_holders[c->pipe_holder_count++] = *holder;
}

/* Pipes and sockets take their numbers from one counter; those of named pipes are their file system's. */
static bool identify(int links, const char *number, const char *link, struct pipe_holder *ret)
{
	struct stat st;

	ret->dev = 0;
	if (sscanf(link, "pipe:[%lu]", &ret->ino) == 1 || sscanf(link, "socket:[%lu]", &ret->ino) == 1)
		return true;
	if (*link != '/' || fstatat(links, number, &st, 0) < 0 || !S_ISFIFO(st.st_mode))
		return false;
	ret->dev = st.st_dev;
	ret->ino = st.st_ino;
	return true;
}

static void look_at(struct check *c, pid_t pid)
{
	struct pipe_holder holder = { .pid = pid };
	char path[32], link[64];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && (entry = readdir(dir))) {
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		struct stat st;

		if (length <= 0)
			continue;
		link[length] = 0;
		if (!identify(dirfd(dir), entry->d_name, link, &holder) ||
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		/* The permissions of the link say how the descriptor is open. */
		holder.reads = st.st_mode & S_IRUSR;
		holder.writes = st.st_mode & S_IWUSR;
		if (!holder.name[0]) {
			int proc = openat(dirfd(dir), "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

			read_name(proc, holder.name);
			close(proc);
		}
		add(c, &holder);
	}
	if (dir)
		closedir(dir);
}

static void look_at_all(struct check *c)
{
	DIR *dir = opendir("/proc");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		/* A running tree has children that came after it was listed. */
		if (pid > 0 && pid != c->pid && pid != getpid() && !(c->tree && task_descends(pid, c->tree->tasks[0].pid)))
			look_at(c, pid);
	}
	if (dir)
		closedir(dir);
	/* An end mark, so that no holders at all are not looked for again. */
	add(c, &(struct pipe_holder){ 0 });
}

const struct pipe_holder *pipe_holder_find(struct check *c, const struct descriptor *d, bool reads, bool writes)
{
	if (c->frozen)
		return NULL;
	if (!c->pipe_holders)
		look_at_all(c);
	for (size_t i = 0; i < c->pipe_holder_count; i++) {
		const struct pipe_holder *h = &c->pipe_holders[i];

		if (h->dev == d->st.st_dev && h->ino == d->st.st_ino && ((reads && h->reads) || (writes && h->writes)))
			return h;
	}
	return NULL;
}

void pipe_holders_free(struct check *c)
{
	free(c->pipe_holders);
	c->pipe_holders = NULL;
	c->pipe_holder_count = 0;
}
