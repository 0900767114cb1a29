/* file_receive.c - files that come along with a process: each is made beside its place, and put there when it is whole. What it
 * takes the place of is kept until it is certain that the process runs here.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "file_copy.h"

struct received_file {
	char *path, *made, *before;	/* `made`: beside its place, until it is whole. `before`: what was in its place, NULL: nothing */
};

struct phaul_received_files {
	struct received_file *at;
	size_t count;
	char **directories;		/* that were missing, parents first */
	size_t directory_count;
	struct received_file *now;	/* which one notes are about; NULL: one that both hosts share */
	bool about_one;
	int fd;				/* of it */
	uint64_t unique;		/* of names */
	uint8_t *note;
	struct phaul_error *err;
};

int phaul_received_files_open(struct phaul_received_files **ret, struct phaul_error *err)
{
	struct phaul_received_files *f = calloc(1, sizeof(*f));

	if (f)
		f->note = malloc(FILE_DATA_MAX + sizeof(struct file_head));
	if (!f || !f->note) {
		free(f);
		return phaul_fail(err, -ENOMEM, "files", "preparing for files");
	}
	f->fd = -1;
	f->unique = phaul_now_ns();
	*ret = f;
	return 0;
}

/* A name beside that of the file, as nobody else has it. */
static char *name_beside(struct phaul_received_files *f, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *name = NULL;

	if (asprintf(&name, "%.*s/.phaul-%d-%llx", (int)(slash - path), path, getpid(), (unsigned long long)f->unique++) < 0)
		return NULL;
	return name;
}

static struct received_file *find(struct phaul_received_files *f, const char *path)
{
	for (size_t i = 0; i < f->count; i++)
		if (!strcmp(f->at[i].path, path))
			return &f->at[i];
	return NULL;
}

/* A file of a disk that both hosts have: nothing is to be done. */
static bool is_same(const char *path, const struct stat *st, const struct file_head *head)
{
	struct statx more;
	bool born = statx(AT_FDCWD, path, 0, STATX_BTIME, &more) == 0 && more.stx_mask & STATX_BTIME;

	return st->st_ino == head->inode &&
	       (!born || !head->born_s || (more.stx_btime.tv_sec == head->born_s && more.stx_btime.tv_nsec == head->born_ns));
}

static int begin_new(struct phaul_received_files *f, const char *path, bool replaces)
{
	struct received_file *at = reallocarray(f->at, f->count + 1, sizeof(*at)), *file;

	f->at = at ? at : f->at;
	if (!at)
		return -ENOMEM;
	file = &f->at[f->count++];
	*file = (struct received_file){ .path = strdup(path), .made = name_beside(f, path), .before = replaces ? name_beside(f, path) : NULL };
	f->now = file;
	if (!file->path || !file->made || (replaces && !file->before))
		return -ENOMEM;
	f->fd = open(file->made, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return f->fd < 0 ? phaul_fail(f->err, -errno, "files", "making %s here", path) : 0;
}

static int begin_file(struct phaul_received_files *f, const char *path, const struct file_head *head)
{
	struct stat st;
	int found;

	f->about_one = true;
	f->now = find(f, path);
	if (f->now) {
		f->fd = open(f->now->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		return f->fd < 0 ? phaul_fail(f->err, -errno, "files", "opening %s here, which was received before", path) : 0;
	}
	found = stat(path, &st) == 0;
	if (found && is_same(path, &st, head))
		return 0;
	if (found && !head->agreed)
		return phaul_fail(f->err, -EEXIST, "files", "%s was opened by the process while it was copied, and there is another file of "
				  "that name here; try again", path);
	if (found && !S_ISREG(st.st_mode))
		return phaul_fail(f->err, -EISDIR, "files", "%s is no file here", path);
	return begin_new(f, path, found);
}

static int make_directory(struct phaul_received_files *f, const char *path, const struct file_head *head)
{
	char **list = reallocarray(f->directories, f->directory_count + 1, sizeof(*list));

	f->directories = list ? list : f->directories;
	if (!list)
		return -ENOMEM;
	if (mkdir(path, 0700) < 0)
		return errno == EEXIST ? 0 : phaul_fail(f->err, -errno, "files", "making the directory %s here", path);
	f->directories[f->directory_count] = strdup(path);
	f->directory_count += f->directories[f->directory_count] != NULL;
	return chown(path, head->uid, head->gid) < 0 || chmod(path, head->mode & 07777) < 0 ?
	       phaul_fail(f->err, -errno, "files", "giving the directory %s its owner", path) : 0;
}

static int write_at(struct phaul_received_files *f, uint64_t offset, const uint8_t *bytes, size_t size)
{
	for (size_t done = 0; f->fd >= 0 && done < size; ) {
		ssize_t n = pwrite(f->fd, bytes + done, size - done, offset + done);

		if (n < 0 && errno != EINTR)
			return phaul_fail(f->err, -errno, "files", "writing %s here", f->now->path);
		done += n > 0 ? n : 0;
	}
	return 0;
}

static int write_zeros(struct phaul_received_files *f, const struct file_range *range)
{
	static const uint8_t zeros[FILE_BLOCK];

	if (range->size > sizeof(zeros))
		return -EPROTO;
	if (f->fd < 0 || !fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range->offset, range->size))
		return 0;
	return write_at(f, range->offset, zeros, range->size);
}

/* One that runs, or is open, somewhere here stays what it is for who has it. */
static int put_in_place(struct phaul_received_files *f)
{
	struct received_file *file = f->now;
	char *made = file->made;

	if (!made)
		return 0;
	if (file->before && link(file->path, file->before) < 0 && rename(file->path, file->before) < 0)
		return phaul_fail(f->err, -errno, "files", "keeping what %s was here", file->path);
	if (rename(made, file->path) < 0)
		return phaul_fail(f->err, -errno, "files", "putting %s in its place", file->path);
	file->made = NULL;
	free(made);
	return 0;
}

static int end_file(struct phaul_received_files *f, const struct file_head *head)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { head->modified_s, head->modified_ns } };
	int code = 0;

	f->about_one = false;
	if (f->fd < 0)
		return 0;
	/* The owner first: to change it takes setuid bits away. */
	if (ftruncate(f->fd, head->size) < 0 || fchown(f->fd, head->uid, head->gid) < 0 || fchmod(f->fd, head->mode & 07777) < 0 ||
	    futimens(f->fd, times) < 0)
		code = phaul_fail(f->err, -errno, "files", "giving %s its size, owner and times", f->now->path);
	code = code ?: put_in_place(f);
	close(f->fd);
	f->fd = -1;
	return code;
}

static int obey(struct phaul_received_files *f, uint32_t kind, size_t size)
{
	const struct file_head *head = (const struct file_head *)f->note;
	char path[FILE_PATH_MAX + 1];
	uint64_t offset;

	if (kind == FILE_DATA && f->about_one && size >= sizeof(offset)) {
		memcpy(&offset, f->note, sizeof(offset));
		return write_at(f, offset, f->note + sizeof(offset), size - sizeof(offset));
	}
	if (kind == FILE_ZERO && f->about_one && size == sizeof(struct file_range))
		return write_zeros(f, (const struct file_range *)f->note);
	if (kind == FILE_TAIL && f->about_one && size == sizeof(*head))
		return end_file(f, head);
	if ((kind != FILE_HEAD && kind != FILE_DIRECTORY) || f->about_one || size <= sizeof(*head) || size > sizeof(*head) + FILE_PATH_MAX)
		return -EPROTO;
	memcpy(path, f->note + sizeof(*head), size - sizeof(*head));
	path[size - sizeof(*head)] = 0;
	if (path[0] != '/' || strlen(path) != size - sizeof(*head))
		return -EPROTO;
	return kind == FILE_HEAD ? begin_file(f, path, head) : make_directory(f, path, head);
}

int phaul_received_files_receive(struct phaul_received_files *f, struct phaul_channel *ch, struct phaul_error *err)
{
	uint32_t kind = 0;
	size_t size;
	int code;

	f->err = err;
	for (;;) {
		code = phaul_note_receive(ch, &kind, f->note, FILE_DATA_MAX + sizeof(struct file_head), &size, FILE_TIMEOUT_MS, err);
		if (!code && kind == PHAUL_NOTE_FILES_END && !f->about_one)
			return 0;
		code = code ?: obey(f, kind, size);
		if (code == -EPROTO || code == -ENOBUFS)
			return phaul_fail(err, -EPROTO, "files", "the other host sent a note %u of %zu bytes, which means nothing among files",
					  kind, size);
		if (code)
			return code == -ENOMEM ? phaul_fail(err, code, "files", "remembering what was received") : code;
	}
}

void phaul_received_files_keep(struct phaul_received_files *f)
{
	for (size_t i = 0; i < f->count; i++) {
		if (f->at[i].before)
			(void)unlink(f->at[i].before);
		free(f->at[i].path);
		free(f->at[i].made);
		free(f->at[i].before);
	}
	f->count = 0;
	for (size_t i = 0; i < f->directory_count; i++)
		free(f->directories[i]);
	f->directory_count = 0;
}

/* What was in its place comes back, and what wasn't there goes. */
static void undo(struct received_file *file)
{
	if (file->made)
		(void)unlink(file->made);
	if (file->before)
		(void)rename(file->before, file->path);
	else if (!file->made)
		(void)unlink(file->path);
}

void phaul_received_files_close(struct phaul_received_files *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		close(f->fd);
	for (size_t i = f->count; i-- > 0; )
		undo(&f->at[i]);
	for (size_t i = f->directory_count; i-- > 0; )
		(void)rmdir(f->directories[i]);
	phaul_received_files_keep(f);
	free(f->at);
	free(f->directories);
	free(f->note);
	free(f);
}
