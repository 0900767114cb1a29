/* inotify.c - watches of files; events that wait to be read are lost. */
#include "watched.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define USER_MASK (IN_ALL_EVENTS | IN_DONT_FOLLOW | IN_EXCL_UNLINK | IN_ONESHOT)

static bool is(const struct descriptor *d)
{
	return !strncmp(d->link, "anon_inode:inotify", 18);
}

static const char *next_watch(const char *text)
{
	return strstr(text, "inotify wd:");
}

static void check(struct check *c, const struct descriptor *d)
{
	struct watched w;
	int waiting = 0;

	for (const char *at = d->fdinfo; (at = next_watch(at)); at++) {
		int fd = watched_read(at, &w) ? watched_open(&w) : -EOPNOTSUPP;

		if (fd < 0) {
			refuse(c, d, "FD_INOTIFY",
			       "is an inotify instance that watches inode %llu of device %u:%u, which can't be opened (%s): it could "
			       "not be watched again; start the program without watching files there",
			       (unsigned long long)w.ino, w.dev >> 20, w.dev & 0xfffff, strerror(-fd));
			return;
		}
		close(fd);
	}
	if (!ioctl(d->own, FIONREAD, &waiting) && waiting)
		remark(c, d, "INOTIFY_WAITING", "is an inotify instance with unread events: these are lost");
}

static int put_watch(struct dump *dump, const char *text, InotifyWdEntry *e)
{
	struct watched w;
	uint64_t *words = dump_alloc(dump, WATCHED_HANDLE_MAX);
	FhEntry *handle = dump_alloc(dump, sizeof(*handle));
	const char *mask = strstr(text, "mask:");

	if (!words || !handle)
		return -ENOMEM;
	if (!watched_read(text, &w) || !mask)
		return -EPROTO;
	inotify_wd_entry__init(e);
	e->wd = strtoul(text + strlen("inotify wd:"), NULL, 16);
	e->i_ino = w.ino;
	e->s_dev = w.dev;
	e->mask = strtoul(mask + strlen("mask:"), NULL, 16);
	e->f_handle = handle;
	e->has_phaul_file = true;
	return watched_put(dump, &w, handle, words, &e->phaul_file);
}

static int by_number(const void *a, const void *b)
{
	const InotifyWdEntry *x = *(InotifyWdEntry *const *)a, *y = *(InotifyWdEntry *const *)b;

	return (x->wd > y->wd) - (x->wd < y->wd);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	InotifyFileEntry inotify = INOTIFY_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	size_t count = 0;
	int err = 0;

	for (const char *at = d->fdinfo; (at = next_watch(at)); at++)
		count++;
	inotify.id = d->id;
	inotify.flags = d->flags;
	inotify.fown = file_owner(d);
	inotify.wd = dump_alloc(dump, (count + 1) * sizeof(*inotify.wd));
	if (!inotify.wd)
		return -ENOMEM;
	for (const char *at = d->fdinfo; !err && (at = next_watch(at)); at++) {
		InotifyWdEntry *e = dump_alloc(dump, sizeof(*e));

		err = e ? put_watch(dump, at, e) : -ENOMEM;
		if (!err) {
			e->id = d->id;
			inotify.wd[inotify.n_wd++] = e;
		}
	}
	if (inotify.n_wd)
		qsort(inotify.wd, inotify.n_wd, sizeof(*inotify.wd), by_number);
	file.ify = &inotify;
	return err ? err : file_put(dump, d, &file);
}

/* An image can't make the counting below endless. */
#define MAX_WATCH (1u << 24)

/* Numbers go up with each watch that is added: those in between are taken and given back. */
static int add_watch(struct build *b, int fd, const InotifyWdEntry *e)
{
	char path[PATH_MAX];
	int own, wd = -1;
	int err = watched_path(b->files, e->has_phaul_file, e->phaul_file, e->f_handle, e->s_dev, path, &own);

	if (!err && e->wd > MAX_WATCH)
		err = -EPROTO;
	while (!err && wd < (int)e->wd) {
		if (wd >= 0)
			(void)inotify_rm_watch(fd, wd);
		wd = inotify_add_watch(fd, path, e->mask & USER_MASK);
		err = wd < 0 ? -errno : 0;
	}
	if (!err && wd != (int)e->wd)
		err = -EPROTO;
	if (own >= 0)
		close(own);
	return err ? phaul_fail(b->err, err, "descriptors", "watching %s by inotify fd %d as number %u", path,
				file_number(b, e->id), e->wd) : 0;
}

static int build(struct build *b, const FileEntry *file)
{
	const InotifyFileEntry *inotify = file->ify;
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK), err = fd < 0 ? -errno : 0;

	/* CRIU has them in the kernel's order. */
	if (inotify->n_wd)
		qsort(inotify->wd, inotify->n_wd, sizeof(*inotify->wd), by_number);
	for (size_t i = 0; i < inotify->n_wd && !err; i++)
		err = add_watch(b, fd, inotify->wd[i]);
	err = err ?: watched_keep(b->files, fd);
	if (!err)
		return file_set_flags(b, fd, inotify->flags);
	if (fd >= 0)
		close(fd);
	return err;
}

const struct descriptor_kind inotify_kind = {
	.name = "an inotify instance",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__INOTIFY,
};
