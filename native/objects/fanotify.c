/* fanotify.c - marks of files and mounts; events that wait to be read are lost. */
#include "watched.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool is(const struct descriptor *d)
{
	return !strncmp(d->link, "anon_inode:[fanotify]", 21);
}

/* A line of it: "fanotify ino:.." or "fanotify mnt_id:..". */
static const char *next_mark(const char *text)
{
	do {
		text = strstr(text, "fanotify ");
		if (text && (!strncmp(text + 9, "ino:", 4) || !strncmp(text + 9, "mnt_id:", 7) ||
			     !strncmp(text + 9, "sdev:", 5)))
			return text;
	} while (text++);
	return NULL;
}

static bool is_mount(const char *mark)
{
	return !strncmp(mark + 9, "mnt_id:", 7);
}

static void check(struct check *c, const struct descriptor *d)
{
	struct watched w;
	int waiting = 0;

	for (const char *at = d->fdinfo; (at = next_mark(at)); at++) {
		int fd = is_mount(at) ? 0 : watched_read(at, &w) ? watched_open(&w) : -EOPNOTSUPP;

		if (fd < 0)
			refuse(c, d, "FD_FANOTIFY",
			       "is a fanotify instance with a mark that can't be made again (a whole file system, or a file that "
			       "can't be opened): stop the program");
		else if (fd)
			close(fd);
	}
	if (!ioctl(d->own, FIONREAD, &waiting) && waiting)
		remark(c, d, "FANOTIFY_WAITING", "is a fanotify instance with unread events: these are lost");
}

static uint32_t number(const char *text, const char *key)
{
	const char *at = strstr(text, key), *end = strchrnul(text, '\n');

	return at && at < end ? strtoul(at + strlen(key), NULL, 16) : 0;
}

/* The directory that is mounted under this number. */
static int mount_path(uint32_t id, char ret[PATH_MAX])
{
	char *line = NULL;
	size_t capacity = 0;
	unsigned int found;
	int err = -ENOENT;
	FILE *mounts = fopen("/proc/self/mountinfo", "re");

	while (mounts && err && getline(&line, &capacity, mounts) > 0)
		if (sscanf(line, "%u %*d %*s %*s %4095s", &found, ret) == 2 && found == id)
			err = 0;
	free(line);
	if (mounts)
		fclose(mounts);
	return err;
}

static int put_mount(struct dump *dump, const char *text, FanotifyMarkEntry *e)
{
	FanotifyMountMarkEntry *mount = dump_alloc(dump, sizeof(*mount));
	char *path = dump_alloc(dump, PATH_MAX);
	int err = mount && path ? mount_path(number(text, "mnt_id:"), path) : -ENOMEM;

	if (err)
		return err;
	fanotify_mount_mark_entry__init(mount);
	mount->mnt_id = number(text, "mnt_id:");
	mount->path = path;
	e->type = MARK_TYPE__MOUNT;
	e->me = mount;
	return 0;
}

static int put_inode(struct dump *dump, const char *text, FanotifyMarkEntry *e)
{
	FanotifyInodeMarkEntry *inode = dump_alloc(dump, sizeof(*inode));
	FhEntry *handle = dump_alloc(dump, sizeof(*handle));
	uint64_t *words = dump_alloc(dump, WATCHED_HANDLE_MAX);
	struct watched w;

	if (!inode || !handle || !words)
		return -ENOMEM;
	if (!watched_read(text, &w))
		return -EPROTO;
	fanotify_inode_mark_entry__init(inode);
	inode->i_ino = w.ino;
	inode->f_handle = handle;
	e->type = MARK_TYPE__INODE;
	e->s_dev = w.dev;
	e->ie = inode;
	e->has_phaul_file = true;
	return watched_put(dump, &w, handle, words, &e->phaul_file);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	FanotifyFileEntry fanotify = FANOTIFY_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	const char *head = strstr(d->fdinfo, "fanotify flags:");
	size_t count = 0;
	int err = head ? 0 : -EPROTO;

	for (const char *at = d->fdinfo; (at = next_mark(at)); at++)
		count++;
	fanotify.id = d->id;
	fanotify.flags = d->flags;
	fanotify.fown = file_owner(d);
	fanotify.faflags = head ? number(head, "flags:") : 0;
	fanotify.evflags = head ? number(head, "event-flags:") : 0;
	fanotify.mark = dump_alloc(dump, (count + 1) * sizeof(*fanotify.mark));
	if (!fanotify.mark)
		return -ENOMEM;
	for (const char *at = d->fdinfo; !err && (at = next_mark(at)); at++) {
		FanotifyMarkEntry *e = dump_alloc(dump, sizeof(*e));

		if (!e)
			return -ENOMEM;
		fanotify_mark_entry__init(e);
		e->id = d->id;
		e->mflags = number(at, "mflags:");
		e->mask = number(at, " mask:");
		e->ignored_mask = number(at, "ignored_mask:");
		err = is_mount(at) ? put_mount(dump, at, e) : put_inode(dump, at, e);
		fanotify.mark[fanotify.n_mark++] = e;
	}
	file.ffy = &fanotify;
	return err ? err : file_put(dump, d, &file);
}

static int add_mark(struct build *b, int fd, const FanotifyMarkEntry *e)
{
	unsigned int flags = FAN_MARK_ADD | (e->me ? FAN_MARK_MOUNT : 0);
	char path[PATH_MAX];
	int own = -1, err = 0;

	if (e->me)
		snprintf(path, sizeof(path), "%s", e->me->path ? e->me->path : "/");
	else
		err = watched_path(b->files, e->has_phaul_file, e->phaul_file, e->ie ? e->ie->f_handle : NULL, e->s_dev, path,
				   &own);
	if (!err && e->mask && fanotify_mark(fd, flags, e->mask, AT_FDCWD, path) < 0)
		err = -errno;
	if (!err && e->ignored_mask &&
	    fanotify_mark(fd, flags | FAN_MARK_IGNORED_MASK | (e->mflags & FAN_MARK_IGNORED_SURV_MODIFY), e->ignored_mask,
			  AT_FDCWD, path) < 0)
		err = -errno;
	if (own >= 0)
		close(own);
	return err ? phaul_fail(b->err, err, "descriptors", "marking %s for fanotify fd %d", path, file_number(b, e->id)) : 0;
}

static int build(struct build *b, const FileEntry *file)
{
	const FanotifyFileEntry *fanotify = file->ffy;
	int fd = fanotify_init(fanotify->faflags, fanotify->evflags), err = fd < 0 ? -errno : 0;

	/* The instance tells with which flags it was made: FAN_CLOEXEC is none of ours to add. */
	if (!err)
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	for (size_t i = 0; i < fanotify->n_mark && !err; i++)
		err = add_mark(b, fd, fanotify->mark[i]);
	if (!err)
		return file_set_flags(b, fd, fanotify->flags);
	if (fd >= 0)
		close(fd);
	return err;
}

const struct descriptor_kind fanotify_kind = {
	.name = "a fanotify instance",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__FANOTIFY,
};
