/* file_send.c - the files of a process that go to another host, and what changes in them until the freeze. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "file_copy.h"
#include "tree.h"

#define PAGE 4096u

struct sent_file {
	char *path;
	bool changes;			/* the process may write to it, even unseen by its times: it is read in each pass */
	bool told;
	struct stat was;		/* after the last pass; once `told` */
	uint64_t *sums;			/* of its blocks there; 0: zeros, or none */
	size_t blocks;
};

struct phaul_files {
	struct sent_file *at;
	size_t count;
	char **same;			/* paths that are the same there already */
	size_t same_count;
	/* Of one pass. */
	struct phaul_channel *ch;
	uint64_t bytes, bytes_per_second, began_ns;
	uint8_t *buffer;		/* FILE_DATA_MAX behind an offset */
	char names[XATTR_LIST_MAX + 1];
	struct phaul_error *err;
};

static int add(struct phaul_files *f, const char *path, bool changes)
{
	struct sent_file *at = reallocarray(f->at, f->count + 1, sizeof(*at));
	char *copy = strdup(path);

	f->at = at ? at : f->at;
	if (!at || !copy) {
		free(copy);
		return -ENOMEM;
	}
	f->at[f->count++] = (struct sent_file){ .path = copy, .changes = changes };
	return 0;
}

static int add_same(struct phaul_files *f, const char *path)
{
	char **same = reallocarray(f->same, f->same_count + 1, sizeof(*same));

	if (!same)
		return -ENOMEM;
	f->same = same;
	f->same[f->same_count] = strdup(path);
	return f->same[f->same_count] ? (f->same_count++, 0) : -ENOMEM;
}

int phaul_files_open(const char *list, size_t size, struct phaul_files **ret, struct phaul_error *err)
{
	struct phaul_files *f = calloc(1, sizeof(*f));
	int code = f ? 0 : -ENOMEM;

	if (f)
		f->buffer = malloc(sizeof(uint64_t) + FILE_DATA_MAX);
	if (f && !f->buffer)
		code = -ENOMEM;
	for (size_t at = 0; at < size && !code; at += strlen(list + at) + 1)
		code = list[at] == '=' ? add_same(f, list + at + 1) : add(f, list + at + 1, list[at] == 'w');
	if (code) {
		phaul_files_close(f);
		return phaul_fail(err, code, "files", "listing files");
	}
	*ret = f;
	return 0;
}

void phaul_files_close(struct phaul_files *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->count; i++) {
		free(f->at[i].path);
		free(f->at[i].sums);
	}
	for (size_t i = 0; i < f->same_count; i++)
		free(f->same[i]);
	free(f->at);
	free(f->same);
	free(f->buffer);
	free(f);
}

/* ---- what was opened since the list was made ---- */

static bool is_known(const struct phaul_files *f, const char *path)
{
	for (size_t i = 0; i < f->count; i++)
		if (!strcmp(f->at[i].path, path))
			return true;
	for (size_t i = 0; i < f->same_count; i++)
		if (!strcmp(f->same[i], path))
			return true;
	return false;
}

/* Others than regular files, and those without a name, are not files that go along. */
static int add_opened(struct phaul_files *f, int links, const char *number)
{
	char path[PATH_MAX];
	struct stat st, named;
	ssize_t n = readlinkat(links, number, path, sizeof(path) - 1);

	if (n < 0 || fstatat(links, number, &st, 0) < 0 || !S_ISREG(st.st_mode) || path[0] != '/')
		return 0;
	path[n] = 0;
	if (!strncmp(path, "/proc/", 6) || !strncmp(path, "/sys/", 5) || !strncmp(path, "/dev/", 5) || is_known(f, path) ||
	    stat(path, &named) < 0 || named.st_ino != st.st_ino || named.st_dev != st.st_dev)
		return 0;
	return add(f, path, true);
}

static int add_opened_by(struct phaul_files *f, pid_t pid)
{
	char path[32];
	struct dirent *entry;
	DIR *links;
	int code = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	links = opendir(path);
	while (links && !code && (entry = readdir(links)))
		code = entry->d_name[0] == '.' ? 0 : add_opened(f, dirfd(links), entry->d_name);
	if (links)
		closedir(links);
	return code;
}

static int add_opened_below(struct phaul_files *f, pid_t pid)
{
	struct tree tree;
	int code = tree_list(pid, &tree, f->err);

	if (code)
		return code;
	for (size_t i = 0; i < tree.count && !code; i++)
		code = add_opened_by(f, tree.tasks[i].pid);
	tree_free(&tree);
	return code ? phaul_fail(f->err, code, "files", "listing open files") : 0;
}

/* ---- notes ---- */

static void pace(const struct phaul_files *f)
{
	uint64_t due_ns = f->bytes_per_second ? (double)f->bytes * 1e9 / f->bytes_per_second : 0, now_ns = phaul_now_ns() - f->began_ns;

	if (due_ns > now_ns)
		usleep((due_ns - now_ns) / 1000);
}

static int say(struct phaul_files *f, uint32_t kind, const void *bytes, size_t size)
{
	f->bytes += size;
	pace(f);
	return phaul_note_send(f->ch, kind, bytes, size, f->err);
}

static int say_head(struct phaul_files *f, uint32_t kind, const char *path, const struct stat *st)
{
	struct { struct file_head head; char path[FILE_PATH_MAX]; } note = { .head = {
		.size = st->st_size, .inode = st->st_ino, .mode = st->st_mode, .uid = st->st_uid, .gid = st->st_gid,
		.modified_s = st->st_mtim.tv_sec, .modified_ns = st->st_mtim.tv_nsec,
	} };
	size_t length = path ? strlen(path) : 0;
	struct statx more;

	if (length > sizeof(note.path))
		return phaul_fail(f->err, -ENAMETOOLONG, "files", "telling of %s", path);
	if (path && statx(AT_FDCWD, path, 0, STATX_BTIME, &more) == 0 && more.stx_mask & STATX_BTIME) {
		note.head.born_s = more.stx_btime.tv_sec;
		note.head.born_ns = more.stx_btime.tv_nsec;
	}
	memcpy(note.path, path ? path : "", length);
	return say(f, kind, &note, sizeof(note.head) + length);
}

/* ACLs are numbers of users and groups, as the owner is one. */
static int say_attributes(struct phaul_files *f, int fd, const char *path)
{
	ssize_t size = flistxattr(fd, f->names, XATTR_LIST_MAX), got;
	int code = size < 0 && errno != EOPNOTSUPP ? phaul_fail(f->err, -errno, "files", "reading the attributes of %s", path) : 0;

	f->names[size > 0 ? size : 0] = 0;
	for (const char *name = f->names; name < f->names + size && !code; name += strlen(name) + 1) {
		size_t length = strlen(name) + 1;

		if (!file_attribute_goes_along(name))
			continue;
		memcpy(f->buffer, name, length);
		got = fgetxattr(fd, name, f->buffer + length, XATTR_SIZE_MAX);
		if (got >= 0)
			code = say(f, FILE_ATTRIBUTE, f->buffer, length + got);
		else if (errno != ENODATA)
			code = phaul_fail(f->err, -errno, "files", "reading the attribute %s of %s", name, path);
	}
	return code;
}

static int say_end(struct phaul_files *f, int fd, const char *path, const struct stat *st)
{
	return say_head(f, FILE_TAIL, NULL, st) ?: say_attributes(f, fd, path) ?: say(f, FILE_DONE, NULL, 0);
}

static int say_directory(struct phaul_files *f, const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), code;
	struct stat st;

	code = fd < 0 || fstat(fd, &st) < 0 ? phaul_fail(f->err, -errno, "files", "looking at %s", path)
					    : say_head(f, FILE_DIRECTORY, path, &st) ?: say_end(f, fd, path, &st);
	if (fd >= 0)
		close(fd);
	return code;
}

/* Those that it is in, which may be missing there, from the root on. */
static int say_parents(struct phaul_files *f, const char *path)
{
	char parent[FILE_PATH_MAX];
	int code = 0;

	for (const char *end = strchr(path + 1, '/'); end && !code; end = strchr(end + 1, '/')) {
		snprintf(parent, sizeof(parent), "%.*s", (int)(end - path), path);
		code = say_directory(f, parent);
	}
	return code;
}

/* ---- content ---- */

static int know_blocks(struct phaul_files *f, struct sent_file *file, size_t blocks)
{
	uint64_t *sums = reallocarray(file->sums, blocks + 1, sizeof(*sums));

	if (!sums)
		return phaul_fail(f->err, -ENOMEM, "files", "remembering what is sent of %s", file->path);
	file->sums = sums;
	for (size_t i = file->blocks; i < blocks; i++)
		sums[i] = 0;
	file->blocks = blocks;
	return 0;
}

static int say_zeros(struct phaul_files *f, struct sent_file *file, size_t block)
{
	struct file_range range = { (uint64_t)block * FILE_BLOCK, FILE_BLOCK };

	if (!file->sums[block])
		return 0;
	file->sums[block] = 0;
	return say(f, FILE_ZERO, &range, sizeof(range));
}

static int say_block(struct phaul_files *f, struct sent_file *file, size_t block, const uint8_t *at, size_t size)
{
	uint64_t offset = (uint64_t)block * FILE_BLOCK, sum = 0;

	for (size_t page = 0; page < size; page += PAGE)
		sum += page_sum(offset + page, (const uint64_t *)(at + page));
	if (sum == file->sums[block])
		return 0;
	if (!sum)
		return say_zeros(f, file, block);
	file->sums[block] = sum;
	/* What is before the block in the buffer isn't needed any more. */
	memcpy((uint8_t *)at - sizeof(offset), &offset, sizeof(offset));
	return say(f, FILE_DATA, at - sizeof(offset), sizeof(offset) + size);
}

/* One block; it may have grown or shrunk meanwhile, which another pass finds. */
static int send_block(struct phaul_files *f, struct sent_file *file, int fd, size_t block)
{
	uint8_t *at = f->buffer + sizeof(uint64_t);
	ssize_t got = pread(fd, at, FILE_BLOCK, (off_t)block * FILE_BLOCK);

	if (got < 0)
		return phaul_fail(f->err, -errno, "files", "reading %s", file->path);
	memset(at + got, 0, -got & (PAGE - 1));
	return got ? say_block(f, file, block, at, got) : 0;
}

static int send_content(struct phaul_files *f, struct sent_file *file, int fd, uint64_t size)
{
	size_t blocks = (size + FILE_BLOCK - 1) / FILE_BLOCK;
	int code = know_blocks(f, file, blocks);

	for (size_t block = 0; block < blocks && !code; ) {
		off_t data = lseek(fd, (off_t)block * FILE_BLOCK, SEEK_DATA);
		size_t hole = data >= 0 ? (size_t)data / FILE_BLOCK : errno == ENXIO ? blocks : block;

		for (; block < hole && block < blocks && !code; block++)
			code = say_zeros(f, file, block);
		if (block < blocks && !code)
			code = send_block(f, file, fd, block++);
	}
	return code;
}

static bool is_unchanged(const struct sent_file *file, const struct stat *st)
{
	return file->told && !file->changes && file->was.st_ino == st->st_ino && file->was.st_size == st->st_size &&
	       !memcmp(&file->was.st_mtim, &st->st_mtim, sizeof(st->st_mtim)) && !memcmp(&file->was.st_ctim, &st->st_ctim, sizeof(st->st_ctim));
}

static int send_file(struct phaul_files *f, struct sent_file *file)
{
	int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), code;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		code = phaul_fail(f->err, -errno, "files", "opening %s, which is to go along", file->path);
	} else if (is_unchanged(file, &st)) {
		code = 0;
	} else if (S_ISDIR(st.st_mode)) {
		code = file->told ? 0 : say_parents(f, file->path) ?: say_directory(f, file->path);
	} else {
		code = (file->told ? 0 : say_parents(f, file->path)) ?: say_head(f, FILE_HEAD, file->path, &st) ?:
		       send_content(f, file, fd, st.st_size) ?: say_end(f, fd, file->path, &st);
	}
	if (fd >= 0)
		close(fd);
	if (code)
		return code;
	file->was = st;
	file->told = true;
	return 0;
}

int phaul_files_send(struct phaul_files *f, struct phaul_channel *ch, int pid, uint64_t bytes_per_second, uint64_t *ret_bytes,
		     struct phaul_error *err)
{
	int code;

	f->ch = ch;
	f->err = err;
	f->bytes = 0;
	f->bytes_per_second = bytes_per_second;
	f->began_ns = phaul_now_ns();
	code = add_opened_below(f, pid) ?: phaul_note_send(ch, PHAUL_NOTE_FILES, NULL, 0, err);
	for (size_t i = 0; i < f->count && !code; i++)
		code = send_file(f, &f->at[i]);
	*ret_bytes = f->bytes;
	return code ?: phaul_note_send(ch, PHAUL_NOTE_FILES_END, NULL, 0, err);
}
