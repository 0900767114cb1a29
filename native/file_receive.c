/* file_receive.c - files that come along with a process: each is made beside its place, and put there when it is whole. What it
 * takes the place of is kept until it is certain that the process runs here. The other host may say anything: what is here already
 * is replaced only if this host has agreed to that.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "error.h"
#include "file_copy.h"
#include "file_log.h"

#define MADE_MAX 1000000u

struct phaul_received_files {
	char *log_name, *list;
	const char **agreed;		/* sorted; of `list` */
	size_t agreed_count;
	struct file_log log;
	/* Which one notes are about, from its head to FILE_DONE. */
	enum { NO_FILE, CONTENT, ATTRIBUTES } about;
	char path[FILE_PATH_MAX + 1];
	char *made;			/* beside its place, until it is whole */
	bool replaces, directory;
	int fd;				/* -1: it is here, and nothing is to be done */
	uint8_t *note;
	struct phaul_error *err;
};

static int compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int read_agreed(struct phaul_received_files *f, const char *list, size_t size)
{
	size_t count = 0;

	for (size_t i = 0; i < size; i++)
		count += !list[i];
	f->list = malloc(size + 1);
	f->agreed = reallocarray(NULL, count + 1, sizeof(*f->agreed));
	if (!f->list || !f->agreed)
		return -ENOMEM;
	if (size)
		memcpy(f->list, list, size);
	for (const char *at = f->list; f->agreed_count < count; at += strlen(at) + 1)
		f->agreed[f->agreed_count++] = at;
	qsort(f->agreed, count, sizeof(*f->agreed), compare);
	return 0;
}

int phaul_received_files_open(const char *agreed, size_t size, const char *log, struct phaul_received_files **ret, struct phaul_error *err)
{
	struct phaul_received_files *f = calloc(1, sizeof(*f));

	if (f) {
		f->fd = -1;
		f->note = malloc(FILE_DATA_MAX + sizeof(struct file_head));
		f->log_name = strdup(log);
		file_log_begin(&f->log, f->log_name);
	}
	if (!f || !f->note || !f->log_name || read_agreed(f, agreed, size)) {
		phaul_received_files_close(f);
		return phaul_fail(err, -ENOMEM, "files", "preparing for files");
	}
	*ret = f;
	return 0;
}

/* ---- beginning ---- */

/* What the kernel makes is not received, nor is anything by way of another directory. */
static bool is_plain(const char *path)
{
	if (!strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5) || !strncmp(path, "/dev/", 5))
		return false;
	for (const char *at = path; *at; ) {
		size_t size;

		if (*at++ != '/')
			return false;
		size = strcspn(at, "/");
		if (!size || (size == 1 && at[0] == '.') || (size == 2 && at[0] == '.' && at[1] == '.'))
			return false;
		at += size;
	}
	return *path;
}

static bool is_agreed(const struct phaul_received_files *f, const char *path)
{
	return bsearch(&path, f->agreed, f->agreed_count, sizeof(*f->agreed), compare);
}

/* A name beside that of the file, as nobody else has it. */
static char *name_beside(const char *path)
{
	char *name = NULL;
	uint64_t unique;

	if (getrandom(&unique, sizeof(unique), 0) != sizeof(unique) ||
	    asprintf(&name, "%.*s/.phaul-%016llx", (int)(strrchr(path, '/') - path), path, (unsigned long long)unique) < 0)
		return NULL;
	return name;
}

/* A file of a disk that both hosts have. */
static bool is_same(const struct file_identity *here, const struct file_head *head)
{
	return here->inode == head->inode &&
	       (!here->born_s || !head->born_s || (here->born_s == head->born_s && here->born_ns == head->born_ns));
}

static int begin_new(struct phaul_received_files *f)
{
	const struct made_file temporary = { .kind = MADE_TEMPORARY, .path = f->made = name_beside(f->path) };
	int code = f->made ? file_log_add(&f->log, &temporary, f->err) : -ENOMEM;

	if (code)
		return code;
	f->fd = open(f->made, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return f->fd < 0 ? phaul_fail(f->err, -errno, "files", "making %s here", f->path) : 0;
}

static int begin_again(struct phaul_received_files *f, const struct made_file *made)
{
	if (!file_is(f->path, &made->is))
		return phaul_fail(f->err, -EBUSY, "files", "%s was received before, and somebody here has put another file in its place", f->path);
	f->fd = open(f->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	return f->fd < 0 ? phaul_fail(f->err, -errno, "files", "opening %s here, which was received before", f->path) : 0;
}

static int begin_file(struct phaul_received_files *f, const struct file_head *head)
{
	const struct made_file *made = file_log_find(&f->log, f->path);
	struct file_identity here;
	struct stat st;
	int code;

	f->directory = false;
	if (made)
		return begin_again(f, made);
	code = file_identity(AT_FDCWD, f->path, AT_SYMLINK_NOFOLLOW, &here);
	f->replaces = !code;
	if (code)
		return code == -ENOENT ? begin_new(f) : phaul_fail(f->err, code, "files", "looking for %s here", f->path);
	if (!file_identity(AT_FDCWD, f->path, 0, &here) && is_same(&here, head))
		return 0;
	if (!is_agreed(f, f->path))
		return phaul_fail(f->err, -EEXIST, "files", "%s was opened by the process while it was copied, and there is another file of "
				  "that name here; try again", f->path);
	if (stat(f->path, &st) < 0 || !S_ISREG(st.st_mode))
		return phaul_fail(f->err, -EISDIR, "files", "%s is no file here, or a symbolic link that leads nowhere", f->path);
	return begin_new(f);
}

static int begin_directory(struct phaul_received_files *f)
{
	struct made_file made = { .kind = MADE_DIRECTORY, .path = f->path };
	int code;

	f->directory = true;
	if (mkdir(f->path, 0700) < 0)
		return errno == EEXIST ? 0 : phaul_fail(f->err, -errno, "files", "making the directory %s here", f->path);
	f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	code = f->fd < 0 ? -errno : file_identity(f->fd, "", AT_EMPTY_PATH, &made.is);
	if (code)
		return phaul_fail(f->err, code, "files", "opening the directory %s, which was made here", f->path);
	return file_log_add(&f->log, &made, f->err);
}

static int begin(struct phaul_received_files *f, uint32_t kind, size_t size)
{
	size_t length = size - sizeof(struct file_head);

	if (size <= sizeof(struct file_head) || length > FILE_PATH_MAX || f->log.count > MADE_MAX)
		return -EPROTO;
	memcpy(f->path, f->note + sizeof(struct file_head), length);
	f->path[length] = 0;
	if (strlen(f->path) != length || !is_plain(f->path))
		return -EPROTO;
	f->about = CONTENT;
	return kind == FILE_HEAD ? begin_file(f, (const struct file_head *)f->note) : begin_directory(f);
}

/* ---- content ---- */

static int write_at(struct phaul_received_files *f, uint64_t offset, const uint8_t *bytes, size_t size)
{
	for (size_t done = 0; f->fd >= 0 && done < size; ) {
		ssize_t n = pwrite(f->fd, bytes + done, size - done, offset + done);

		if (n < 0 && errno != EINTR)
			return phaul_fail(f->err, -errno, "files", "writing %s here", f->path);
		done += n > 0 ? n : 0;
	}
	return 0;
}

static int write_data(struct phaul_received_files *f, size_t size)
{
	uint64_t offset;

	if (size < sizeof(offset))
		return -EPROTO;
	memcpy(&offset, f->note, sizeof(offset));
	return write_at(f, offset, f->note + sizeof(offset), size - sizeof(offset));
}

static int write_zeros(struct phaul_received_files *f, size_t size)
{
	static const uint8_t zeros[FILE_BLOCK];
	struct file_range range;

	if (size != sizeof(range))
		return -EPROTO;
	memcpy(&range, f->note, sizeof(range));
	if (range.size > sizeof(zeros))
		return -EPROTO;
	if (f->fd < 0 || !fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, range.offset, range.size))
		return 0;
	return write_at(f, range.offset, zeros, range.size);
}

/* ---- what it is ---- */

bool file_attribute_goes_along(const char *name)
{
	return !strncmp(name, "user.", 5) || (!strncmp(name, "trusted.", 8) && strncmp(name, "trusted.overlay.", 16)) ||
	       !strcmp(name, "system.posix_acl_access") || !strcmp(name, "system.posix_acl_default") || !strcmp(name, "security.capability");
}

/* Of the pass before, or of the directory that it was made in. */
static int drop_attributes(int fd)
{
	char names[XATTR_LIST_MAX + 1];
	ssize_t size = flistxattr(fd, names, XATTR_LIST_MAX);

	if (size < 0)
		return errno == EOPNOTSUPP ? 0 : -errno;
	names[size] = 0;
	for (const char *name = names; name < names + size; name += strlen(name) + 1)
		if (file_attribute_goes_along(name) && fremovexattr(fd, name) < 0 && errno != ENODATA)
			return -errno;
	return 0;
}

/* The owner first: to change it takes setuid bits and capabilities away. */
static int give_owner(struct phaul_received_files *f, size_t size)
{
	const struct file_head *head = (const struct file_head *)f->note;
	const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { head->modified_s, head->modified_ns } };
	int code;

	if (size != sizeof(*head))
		return -EPROTO;
	f->about = ATTRIBUTES;
	if (f->fd < 0)
		return 0;
	code = fchown(f->fd, head->uid, head->gid) < 0 ? -errno : drop_attributes(f->fd);
	if (!code && (fchmod(f->fd, head->mode & 07777) < 0 ||
		      (!f->directory && (ftruncate(f->fd, head->size) < 0 || futimens(f->fd, times) < 0))))
		code = -errno;
	return code ? phaul_fail(f->err, code, "files", "giving %s its size, owner and times here", f->path) : 0;
}

static int give_attribute(struct phaul_received_files *f, size_t size)
{
	const char *name = (const char *)f->note, *end = memchr(name, 0, size);

	if (!end || !file_attribute_goes_along(name))
		return -EPROTO;
	if (f->fd < 0 || !fsetxattr(f->fd, name, end + 1, size - (end + 1 - name), 0))
		return 0;
	if (errno == EOPNOTSUPP)
		return phaul_fail(f->err, -EOPNOTSUPP, "files", "%s has the %s %s, which the file system here can't hold; copy it here without that "
				  "yourself", f->path, strstr(name, "_acl_") ? "access control list" : "attribute", name);
	return phaul_fail(f->err, -errno, "files", "giving %s its attribute %s here", f->path, name);
}

/* ---- its place ---- */

static int put_anew(const char *made, const char *path)
{
	if (!renameat2(AT_FDCWD, made, AT_FDCWD, path, RENAME_NOREPLACE))
		return 0;
	/* EINVAL: a file system that can't do that. */
	return errno == EINVAL && !link(made, path) && !unlink(made) ? 0 : -errno;
}

static int put_instead(const char *made, const char *path, const char *before)
{
	if (link(path, before) < 0 && rename(path, before) < 0)
		return -errno;
	return rename(made, path) < 0 ? -errno : 0;
}

/* One that runs, or is open, somewhere here stays what it is for who has it. */
static int put_in_place(struct phaul_received_files *f)
{
	struct made_file made = { .kind = MADE_FILE, .path = f->path, .before = f->replaces ? name_beside(f->path) : NULL };
	int code = f->replaces && !made.before ? -ENOMEM : file_identity(f->fd, "", AT_EMPTY_PATH, &made.is);

	if (code)
		code = phaul_fail(f->err, code, "files", "looking at what was received of %s", f->path);
	code = code ?: file_log_add(&f->log, &made, f->err);
	if (!code) {
		code = f->replaces ? put_instead(f->made, f->path, made.before) : put_anew(f->made, f->path);
		if (code)
			phaul_fail(f->err, code, "files", "putting %s in its place here", f->path);
	}
	free(made.before);
	return code;
}

static int done(struct phaul_received_files *f, size_t size)
{
	int code = size ? -EPROTO : f->made ? put_in_place(f) : 0;

	f->about = NO_FILE;
	free(f->made);
	f->made = NULL;
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	return code;
}

static int obey(struct phaul_received_files *f, uint32_t kind, size_t size)
{
	bool content = f->about == CONTENT, attributes = f->about == ATTRIBUTES;

	switch (kind) {
	case FILE_DIRECTORY:
	case FILE_HEAD:
		return f->about == NO_FILE ? begin(f, kind, size) : -EPROTO;
	case FILE_DATA:
		return content && !f->directory ? write_data(f, size) : -EPROTO;
	case FILE_ZERO:
		return content && !f->directory ? write_zeros(f, size) : -EPROTO;
	case FILE_TAIL:
		return content ? give_owner(f, size) : -EPROTO;
	case FILE_ATTRIBUTE:
		return attributes ? give_attribute(f, size) : -EPROTO;
	case FILE_DONE:
		return attributes ? done(f, size) : -EPROTO;
	default:
		return -EPROTO;
	}
}

int phaul_received_files_receive(struct phaul_received_files *f, struct phaul_channel *ch, struct phaul_error *err)
{
	uint32_t kind = 0;
	size_t size;
	int code;

	f->err = err;
	for (;;) {
		code = phaul_note_receive(ch, &kind, f->note, FILE_DATA_MAX + sizeof(struct file_head), &size, FILE_TIMEOUT_MS, err);
		if (!code && kind == PHAUL_NOTE_FILES_END && f->about == NO_FILE)
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
	file_log_end(&f->log, true);
}

void phaul_received_files_close(struct phaul_received_files *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		close(f->fd);
	file_log_end(&f->log, false);
	free(f->made);
	free(f->agreed);
	free(f->list);
	free(f->log_name);
	free(f->note);
	free(f);
}
