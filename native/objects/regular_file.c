/* regular_file.c - files and directories: path, flags and position; the content is on both hosts.
 */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../ghost.h"

/* What open() does once, and what would change the file. */
#define OPEN_ONCE (O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_ASYNC | O_CLOEXEC)

static bool is(const struct descriptor *d)
{
	/* A mere reference (O_PATH) may be to whatever has a name. */
	return (S_ISREG(d->st.st_mode) || S_ISDIR(d->st.st_mode) || d->flags & O_PATH) && d->link[0] == '/' &&
	       strncmp(d->link, "/memfd:", 7) && strncmp(d->link, "/SYSV", 5) &&
	       strncmp(d->link, "/dmabuf:", 8);
}

/* Not only unlinked ones: a file that was replaced by another under its name is marked as well. */
static bool is_deleted(const struct descriptor *d)
{
	const char *mark = " (deleted)";
	size_t length = strlen(d->link), tail = strlen(mark);

	return !d->st.st_nlink || (length > tail && !strcmp(d->link + length - tail, mark));
}

/* Its content comes along; what has another name is to be opened by that. */
static void check_deleted(struct check *c, const struct descriptor *d)
{
	bool directory = c->flags & PHAUL_TO_DIRECTORY;
	char name[PATH_MAX];

	if (!d->st.st_nlink || c->flags & PHAUL_LINK_REMAP)
		return;
	snprintf(name, sizeof(name), "%s", d->link);
	if (directory ? ghost_has_name(name, &d->st) : ghost_find_name(name, &d->st))
		return;
	if (!directory)
		refuse(c, d, "FD_DELETED",
		       "is %s: the file has another name (a hard link) that can't be told from here; give it one beside the old one, "
		       "on the target too: ln -L /proc/%d/fd/%d %s.moved",
		       d->link, c->pid, d->fd, name);
	else
		refuse(c, d, "FD_DELETED",
		       "is %s: the file has another name (a hard link) that can't be told from here; with --link-remap a "
		       "link beside the old name is made, which restore removes",
		       d->link);
}

static void check_name(struct check *c, const struct descriptor *d)
{
	const char *path = d->link;
	struct stat named;

	/* A file system may take its time to answer. */
	if (c->frozen)
		return;
	/* The link itself, if it is one. */
	if ((S_ISLNK(d->st.st_mode) ? lstat(path, &named) : stat(path, &named)) < 0)
		refuse(c, d, "FD_FILE",
		       "is %s, which can't be reached under this name any more: the target "
		       "could not open it; put it back, or let the program reopen it",
		       d->link);
	else if (named.st_dev != d->st.st_dev || named.st_ino != d->st.st_ino)
		refuse(c, d, "FD_FILE",
		       "is %s, but another file has this name now (inode %lu, not %lu): the "
		       "target would open the wrong one; let the program reopen it",
		       d->link, (unsigned long)named.st_ino, (unsigned long)d->st.st_ino);
}

static void check(struct check *c, const struct descriptor *d)
{
	if (!is_deleted(d))
		check_name(c, d);
	else
		check_deleted(c, d);
}

static int put(struct dump *dump, const char *reached_by, const struct stat *st, RegFileEntry *reg)
{
	FileEntry file = FILE_ENTRY__INIT;
	int err = ghost_dump(dump, reached_by, st, reg->id, reg->name);

	reg->has_mode = true;
	reg->mode = st->st_mode;
	file.type = FD_TYPES__REG;
	file.id = reg->id;
	file.reg = reg;
	return err ? err : image_put(dump->images, "files", -1, &file.base);
}

int file_put_reached(struct dump *dump, const char *path, uint32_t flags, FownEntry *owner, uint32_t id)
{
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry nobody = FOWN_ENTRY__INIT;
	char name[PATH_MAX];
	struct stat st;
	ssize_t n = readlink(path, name, sizeof(name) - 1);

	if (n < 0 || stat(path, &st) < 0)
		return -errno;
	name[n] = 0;
	reg.id = id;
	reg.flags = flags;
	reg.fown = owner ? owner : &nobody;
	reg.name = name;
	return put(dump, path, &st, &reg);
}

int regular_file_dump(struct dump *dump, const struct descriptor *d)
{
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", dump->pid, d->fd);
	reg.id = d->id;
	reg.flags = d->flags;
	reg.pos = d->pos;
	reg.fown = file_owner(d);
	reg.name = d->link;
	reg.has_size = S_ISREG(d->st.st_mode);
	reg.size = d->st.st_size;
	return put(dump, path, &d->st, &reg);
}

/* Whether what has this name here is what the image means. */
static int compare(struct build *b, const RegFileEntry *reg, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return phaul_fail(b->err, -errno, "descriptors", "looking at %s", reg->name);
	if (reg->has_mode && (reg->mode ^ st.st_mode) & S_IFMT)
		return phaul_fail(b->err, -ESTALE, "descriptors",
				  "fd %d is %s, which is of another type "
				  "here (mode %o, not %o)",
				  file_number(b, reg->id), reg->name, st.st_mode, reg->mode);
	if (S_ISCHR(st.st_mode) && !(reg->flags & O_PATH) && !device_is_plain(st.st_rdev))
		return phaul_fail(b->err, -ESTALE, "descriptors",
				  "fd %d is %s, which is another device "
				  "here",
				  file_number(b, reg->id), reg->name);
	if (S_ISREG(st.st_mode) && reg->has_size && (uint64_t)st.st_size != reg->size)
		return phaul_fail(b->err, -ESTALE, "descriptors",
				  "fd %d: the file %s has %ld bytes here, "
				  "%lu on the source",
				  file_number(b, reg->id), reg->name, (long)st.st_size,
				  (unsigned long)reg->size);
	return 0;
}

static int build(struct build *b, const FileEntry *file)
{
	const RegFileEntry *reg = file->reg;
	int flags;
	char path[PATH_MAX];
	int fd, err = built_files_path(b->files, reg->id, path);

	if (err)
		return err;
	/* Without O_NONBLOCK a name that is a FIFO here would hold us for ever. */
	flags = (reg->flags & ~OPEN_ONCE & ~((reg->flags & O_TMPFILE) == O_TMPFILE ? O_TMPFILE : 0)) | O_NOCTTY | O_CLOEXEC | O_NONBLOCK;
	/* A link below /proc is not the file itself. */
	fd = open(path, strcmp(path, reg->name) ? flags & ~O_NOFOLLOW : flags);
	if (fd < 0)
		return phaul_fail(b->err, -errno, "descriptors", "opening %s for fd %d", reg->name,
				  file_number(b, reg->id));
	err = compare(b, reg, fd);
	if (!err && reg->pos && lseek(fd, reg->pos, SEEK_SET) < 0)
		err = phaul_fail(b->err, -errno, "descriptors", "setting the position of fd %d, %s",
				 file_number(b, reg->id), reg->name);
	if (err) {
		close(fd);
		return err;
	}
	return file_set_flags(b, fd, reg->flags);
}

const struct descriptor_kind regular_file = {
	.name = "a file",
	.is = is,
	.check = check,
	.dump = regular_file_dump,
	.build = build,
	.type = FD_TYPES__REG,
};
