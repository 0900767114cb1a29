/* fifo.c - named pipes: the name is a file as any other, deleted ones included; what is in them comes along. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "pipe_content.h"

static bool is(const struct descriptor *d)
{
	return S_ISFIFO(d->st.st_mode) && d->link[0] == '/' && !(d->flags & O_PATH);
}

static void check(struct check *c, const struct descriptor *d)
{
	const struct pipe_holder *h = c->flags & PHAUL_TO_DIRECTORY ? NULL : pipe_holder_find(c, d, true, true);

	if (h)
		refuse(c, d, "FD_FIFO",
		       "is a named pipe, %s, that pid %d (%s) has open too, which stays here: on the target it is another one of the "
		       "same name; stop that process first",
		       d->link, h->pid, h->name);
}

/* Is `d` the first of the whole tree that has this pipe? */
static bool is_first(const struct dump *dump, const struct descriptor *d)
{
	const struct descriptor_table *table;

	for (size_t n = 0; (table = descriptors_table(dump->descriptors, n)); n++)
		for (size_t i = 0; i < table->count; i++)
			if (is(&table->at[i]) && table->at[i].st.st_ino == d->st.st_ino &&
			    table->at[i].st.st_dev == d->st.st_dev)
				return table->at[i].id == d->id;
	return true;
}

static int dump_content(struct dump *dump, const char *path, ino_t ino)
{
	int end = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	int err = end < 0 ? -errno : pipe_content_dump(dump, "fifo-data", ino, end, true);

	if (end >= 0)
		close(end);
	return err;
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	FifoEntry fifo = FIFO_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	char path[64];
	int err;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", dump->pid, d->fd);
	fifo.id = d->id;
	fifo.pipe_id = d->st.st_ino;
	fifo.has_regf_id = true;
	fifo.regf_id = dump->next_file_id++;
	file.fifo = &fifo;
	err = file_put_reached(dump, path, d->flags, file_owner(d), fifo.regf_id);
	if (!err && is_first(dump, d))
		err = dump_content(dump, path, d->st.st_ino);
	return err ? err : file_put(dump, d, &file);
}

static int open_end(struct build *b, const FifoEntry *fifo)
{
	uint32_t id = fifo->has_regf_id ? fifo->regf_id : fifo->id;
	const FileEntry *file = id < b->files->count ? b->files->at[id] : NULL;
	char path[PATH_MAX];
	int fd, err = built_files_path(b->files, id, path);

	if (err)
		return err;
	fd = open(path, (file->reg->flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC);
	return fd < 0 ? phaul_fail(b->err, -errno, "descriptors", "opening the named pipe %s for fd %d", file->reg->name,
				   file_number(b, fifo->id)) : file_set_flags(b, fd, file->reg->flags);
}

/* Where both hosts are one kernel (containers that share files) it may be the very pipe that the process had, in which all
 * still is. */
static int fill(struct build *b, const FifoEntry *fifo, const char *path, int both)
{
	int waiting = 0, same;

	if (!ioctl(both, FIONREAD, &waiting) && !waiting)
		return pipe_content_build(b, "fifo-data", fifo->pipe_id, both);
	same = pipe_content_compare(b->images, "fifo-data", fifo->pipe_id, both, waiting);
	if (same > 0)
		return 0;
	return same < 0 ? same : phaul_fail(b->err, -EBUSY, "descriptors", "the named pipe %s has %d bytes in it on this host, which "
					    "others than the process have written: they must be read first", path, waiting);
}

/* All ends at once, while one of ours keeps the content there. */
static int open_all(struct build *b, uint32_t pipe_id)
{
	int err = 0;

	for (size_t id = 0; id < b->files->count && !err; id++) {
		const FifoEntry *fifo = b->files->at[id] ? b->files->at[id]->fifo : NULL;

		if (!fifo || fifo->pipe_id != pipe_id || !b->files->uses[id] || b->files->made[id] >= 0)
			continue;
		b->files->made[id] = open_end(b, fifo);
		err = b->files->made[id] < 0 ? b->files->made[id] : 0;
	}
	return err;
}

static int build(struct build *b, const FileEntry *file)
{
	const FifoEntry *fifo = file->fifo;
	char path[PATH_MAX];
	struct stat st;
	int err = built_files_path(b->files, fifo->has_regf_id ? fifo->regf_id : fifo->id, path), both;

	if (err)
		return err;
	both = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (both < 0 || fstat(both, &st) < 0)
		err = -errno;
	else if (!S_ISFIFO(st.st_mode))
		err = phaul_fail(b->err, -ESTALE, "descriptors", "fd %d is a named pipe, and %s is something else here",
				 file_number(b, fifo->id), path);
	else
		err = fill(b, fifo, path, both) ?: open_all(b, fifo->pipe_id);
	if (both >= 0)
		close(both);
	return err ? err : b->files->made[file->id];
}

const struct descriptor_kind fifo_kind = {
	.name = "a named pipe",
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__FIFO,
};
