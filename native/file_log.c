#include "file_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

int file_identity(int directory, const char *path, int flags, struct file_identity *ret)
{
	struct statx st;

	if (statx(directory, path, flags, STATX_INO | STATX_BTIME, &st) < 0)
		return -errno;
	*ret = (struct file_identity){ .inode = st.stx_ino };
	if (st.stx_mask & STATX_BTIME) {
		ret->born_s = st.stx_btime.tv_sec;
		ret->born_ns = st.stx_btime.tv_nsec;
	}
	return 0;
}

bool file_is(const char *path, const struct file_identity *is)
{
	struct file_identity now;

	return !file_identity(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &now) && now.inode == is->inode && now.born_s == is->born_s && now.born_ns == is->born_ns;
}

void file_log_begin(struct file_log *log, const char *name)
{
	*log = (struct file_log){ .name = name, .fd = -1 };
}

static int remember(struct file_log *log, const struct made_file *made)
{
	struct made_file *list = reallocarray(log->made, log->count + 1, sizeof(*list)), *last;

	log->made = list ? list : log->made;
	if (!list)
		return -ENOMEM;
	last = &list[log->count++];
	*last = *made;
	last->path = strdup(made->path);
	last->before = strdup(made->before ?: "");
	return last->path && last->before ? 0 : -ENOMEM;
}

/* One line, but for what paths may hold: it ends with a 0, as they do. */
static int write_down(struct file_log *log, const struct made_file *made)
{
	char *line;
	int size = asprintf(&line, "%c %llu %lld %u %s%c%s", made->kind, (unsigned long long)made->is.inode, (long long)made->is.born_s,
			    made->is.born_ns, made->path, 0, made->before ?: "");
	ssize_t written = -1;

	if (size < 0)
		return -ENOMEM;
	if (log->fd < 0)
		log->fd = open(log->name, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
	if (log->fd >= 0)
		written = write(log->fd, line, size + 1);
	free(line);
	return written == size + 1 ? 0 : written < 0 ? -errno : -ENOSPC;
}

int file_log_add(struct file_log *log, const struct made_file *made, struct phaul_error *err)
{
	int code = remember(log, made) ?: write_down(log, made);

	return code ? phaul_fail(err, code, "files", "noting in %s what is made of %s", log->name, made->path) : 0;
}

const struct made_file *file_log_find(const struct file_log *log, const char *path)
{
	for (size_t i = 0; i < log->count; i++)
		if (log->made[i].kind == MADE_FILE && !strcmp(log->made[i].path, path))
			return &log->made[i];
	return NULL;
}

static bool are_same(const char *one, const char *other)
{
	struct file_identity is;

	return !file_identity(AT_FDCWD, one, AT_SYMLINK_NOFOLLOW, &is) && file_is(other, &is);
}

/* It may not be in its place yet, or not any more. What was there before stays beside another one that somebody has put there. */
static void take_back(const struct made_file *f)
{
	bool ours = file_is(f->path, &f->is);

	if (!*f->before)
		(void)(ours && unlink(f->path));
	else if (ours)
		(void)rename(f->before, f->path);
	else if (are_same(f->before, f->path))
		(void)unlink(f->before);
	else
		(void)renameat2(AT_FDCWD, f->before, AT_FDCWD, f->path, RENAME_NOREPLACE);
}

static void end(const struct made_file *f, bool keep)
{
	if (f->kind == MADE_TEMPORARY)
		(void)unlink(f->path);
	else if (f->kind == MADE_FILE && keep)
		(void)(*f->before && unlink(f->before));
	else if (f->kind == MADE_FILE)
		take_back(f);
	else if (!keep && file_is(f->path, &f->is))
		(void)rmdir(f->path);
}

static void forget(struct file_log *log)
{
	for (size_t i = 0; i < log->count; i++) {
		free(log->made[i].path);
		free(log->made[i].before);
	}
	free(log->made);
	if (log->fd >= 0)
		close(log->fd);
	file_log_begin(log, log->name);
}

void file_log_end(struct file_log *log, bool keep)
{
	for (size_t i = log->count; i-- > 0; )
		if (log->made[i].path && log->made[i].before)
			end(&log->made[i], keep);
	if (log->fd >= 0)
		(void)unlink(log->name);
	forget(log);
}

/* What was being written when its agent died isn't whole, and wasn't done. */
static int read_back(struct file_log *log, char *text, size_t size)
{
	int code = 0;

	for (char *at = text, *end = text + size; at < end && !code; ) {
		struct made_file f = {0};
		char *path_end = memchr(at, 0, end - at), *before_end = path_end ? memchr(path_end + 1, 0, end - path_end - 1) : NULL;
		unsigned long long inode;
		long long born_s;
		int head = 0;
		char kind;

		if (!before_end || sscanf(at, "%c %llu %lld %u %n", &kind, &inode, &born_s, &f.is.born_ns, &head) != 4 || at[head] != '/')
			break;
		f.kind = kind;
		f.is.inode = inode;
		f.is.born_s = born_s;
		f.path = at + head;
		f.before = path_end + 1;
		code = remember(log, &f);
		at = before_end + 1;
	}
	return code;
}

/* Locked, so that only one takes it back: what has the same name later is none of it. */
static int settle(struct file_log *log, bool keep)
{
	struct stat st;
	char *text;
	int code;

	if (flock(log->fd, LOCK_EX) < 0 || fstat(log->fd, &st) < 0)
		return -errno;
	if (!st.st_nlink)
		return 0;
	text = malloc(st.st_size + 1);
	if (!text || read(log->fd, text, st.st_size) != st.st_size)
		code = text ? -EIO : -ENOMEM;
	else
		code = read_back(log, text, st.st_size);
	free(text);
	if (!code)
		file_log_end(log, keep);
	return code;
}

int phaul_received_files_settle(const char *name, int keep, struct phaul_error *err)
{
	struct file_log log;
	int code;

	file_log_begin(&log, name);
	log.fd = open(name, O_RDONLY | O_CLOEXEC);
	if (log.fd < 0)
		return errno == ENOENT ? 0 : phaul_fail(err, -errno, "files", "opening %s", name);
	code = settle(&log, keep);
	forget(&log);
	return code ? phaul_fail(err, code, "files", "reading %s", name) : 0;
}
