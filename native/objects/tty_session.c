/* tty_session.c - which session has which terminal. */
#include <asm/termbits.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../tree.h"
#include "tty_images.h"

/* Asks the leader for an ioctl on our descriptor of its terminal. */
static int64_t ask(struct remote *leader, int ours, unsigned long request, uint64_t argument)
{
	int64_t us = remote_call(leader, SYS_pidfd_open, getpid(), 0), fd, result;

	if (us < 0)
		return us;
	fd = remote_call(leader, SYS_pidfd_getfd, us, ours, 0);
	result = fd < 0 ? fd : remote_call(leader, SYS_ioctl, fd, request, argument);
	if (fd >= 0)
		(void)remote_call(leader, SYS_close, fd);
	(void)remote_call(leader, SYS_close, us);
	return result;
}

static int64_t give_to_group(struct husk *session, int ours, pid_t group)
{
	remote_addr at = husk_scratch(session);
	struct iovec local = { &group, sizeof(group) }, remote = { (void *)at, sizeof(group) };

	if (process_vm_writev(session->pid, &local, 1, &remote, 1, 0) != sizeof(group))
		return -EFAULT;
	return ask(&session->leader, ours, TIOCSPGRP, at);
}

/* An end that is a terminal. */
static int slave_of(const struct ttys *t, uint32_t index)
{
	for (size_t id = 0; id < t->f->count; id++) {
		const TtyInfoEntry *e = tty_info_of(t, t->f->at[id]);

		if (e && e->pty && e->pty->index == index && e->type == TTY_TYPE__PTY && !tty_is_master(e) && t->f->made[id] >= 0)
			return fcntl(t->f->made[id], F_DUPFD_CLOEXEC, 0);
	}
	return -1;
}

int ttys_take(const struct built_files *f, const struct image_set *images, struct husk *session, bool group,
	      struct phaul_error *err)
{
	struct ttys t = { .f = (struct built_files *)f, .err = err };
	int code = tty_infos_read(images, &t.infos, &t.count, err);

	for (size_t i = 0; i < t.count && !code; i++) {
		const TtyInfoEntry *e = t.infos[i];
		char path[32];
		int64_t done;
		int fd;

		if ((pid_t)e->sid != session->pid || !e->pty || (group && !e->pgrp))
			continue;
		snprintf(path, sizeof(path), "/dev/pts/%u", e->pty->index);
		fd = slave_of(&t, e->pty->index);
		if (fd < 0)
			fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
		done = fd < 0 ? -errno : group ? give_to_group(session, fd, e->pgrp) : ask(&session->leader, fd, TIOCSCTTY, 0);
		if (done < 0)
			code = phaul_fail(err, done, "terminals", "making %s the terminal of session %d%s", path, session->pid,
					  group ? ", in its foreground" : "");
		if (fd >= 0)
			close(fd);
		break;	/* both ends tell of it */
	}
	image_free_all(t.infos, t.count);
	return code;
}

/* ---- for a round ---- */

static bool has_master_open(pid_t pid, uint32_t index)
{
	char path[64], link[64], line[64];
	struct dirent *entry;
	bool found = false;
	unsigned int number;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		FILE *info;

		if (n < 5 || memcmp(link + n - 5, "/ptmx", 5))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", pid, entry->d_name);
		info = fopen(path, "re");
		while (info && !found && fgets(line, sizeof(line), info))
			found = sscanf(line, "tty-index: %u", &number) == 1 && number == index;
		if (info)
			fclose(info);
	}
	if (dir)
		closedir(dir);
	return found;
}

static int put_session(struct image_set *to, const struct task *leader, uint32_t index)
{
	TtyInfoEntry info = TTY_INFO_ENTRY__INIT;
	TtyPtyEntry pty = TTY_PTY_ENTRY__INIT;

	pty.index = index;
	info.id = 2 * index + 2;
	info.type = TTY_TYPE__PTY;
	info.pty = &pty;
	info.sid = leader->pid;
	return image_put(to, "tty-info", -1, &info.base);
}

int ttys_put_sessions(const struct tree *tree, struct image_set *to)
{
	int err = 0;

	for (size_t i = 0; i < tree->count && !err; i++) {
		const struct task *leader = &tree->tasks[i];
		dev_t device = makedev(leader->tty >> 8 & 0xfff, (leader->tty & 0xff) | (leader->tty >> 12 & 0xfff00));
		bool found = false;

		if (leader->sid != leader->pid || leader->state == TASK_DEAD || !tty_is_slave(device))
			continue;
		for (size_t n = 0; n < tree->count && !found; n++)
			found = tree->tasks[n].state != TASK_DEAD && has_master_open(tree->tasks[n].pid, tty_slave_index(device));
		if (found)
			err = put_session(to, leader, tty_slave_index(device));
	}
	return err;
}
