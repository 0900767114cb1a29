/* pidfd.c - descriptors of processes: of the tree's own, and of processes that have ended. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tree.h"

static bool is(const struct descriptor *d)
{
	return !strncmp(d->link, "anon_inode:[pidfd]", 18) || !strncmp(d->link, "pidfd:", 6);
}

/* -1: it has ended; 0: it is in another pid namespace. */
static int pid_of(const struct descriptor *d)
{
	uint64_t pid = 0;

	return fdinfo_number(d, "Pid", 10, &pid) ? (int)pid : 0;
}

/* A process or, with PIDFD_THREAD, a thread of one. */
static bool comes_along(const struct check *c, int pid)
{
	char path[64];

	for (size_t i = 0; i < c->tree->count; i++) {
		pid_t process = c->tree->tasks[i].pid;

		snprintf(path, sizeof(path), "/proc/%d/task/%d", process, pid);
		if (pid == process || !access(path, F_OK))
			return true;
	}
	return false;
}

static void check(struct check *c, const struct descriptor *d)
{
	int pid = pid_of(d);

	/* In the freeze the tree isn't asked once more. */
	if (pid == -1 || (pid > 0 && (c->frozen || comes_along(c, pid))))
		return;
	refuse(c, d, "FD_KIND",
	       "is a pidfd of pid %d, which stays on this host: let the program close it first", pid);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	PidfdEntry pidfd = PIDFD_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;

	pidfd.id = d->id;
	pidfd.ino = d->st.st_ino;
	/* Those of pidfd_open(). */
	pidfd.flags = d->flags & ~O_ACCMODE;
	pidfd.nspid = pid_of(d);
	pidfd.fown = file_owner(d);
	file.pidfd = &pidfd;
	return file_put(dump, d, &file);
}

static int open_pidfd(pid_t pid, uint32_t flags)
{
	int fd = syscall(SYS_pidfd_open, pid, flags & (O_NONBLOCK | O_EXCL));

	return fd < 0 ? -errno : fd;
}

/* All that mean the same dead process, of one that ends right away. */
static int make_dead(struct build *b, uint32_t ino)
{
	pid_t child = syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
	int err = child < 0 ? -errno : 0;

	/* Should we be killed, it goes too. */
	if (!child)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!child)
		pause();
	for (size_t id = 0; id < b->files->count && !err; id++) {
		const PidfdEntry *e = b->files->at[id] ? b->files->at[id]->pidfd : NULL;

		if (!e || e->nspid != -1 || e->ino != ino || !b->files->uses[id])
			continue;
		b->files->made[id] = open_pidfd(child, e->flags);
		err = b->files->made[id] < 0 ? b->files->made[id] : 0;
	}
	if (child > 0) {
		(void)kill(child, SIGKILL);
		while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	return err;
}

static int build(struct build *b, const FileEntry *file)
{
	const PidfdEntry *e = file->pidfd;
	int err;

	if (e->nspid > 0)
		return open_pidfd(e->nspid, e->flags);
	err = make_dead(b, e->ino);
	return err ? err : b->files->made[file->id];
}

const struct descriptor_kind pidfd_kind = {
	.name = "a pidfd",
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__PIDFD,
};
