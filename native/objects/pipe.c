/* pipe.c - pipes with their content. An end that another process holds can't come along: standard
 * input is at its end on the target, and standard output and error go to a file there (pipe_log.h).
 */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "pipe_content.h"
#include "pipe_log.h"

static bool is(const struct descriptor *d)
{
	return S_ISFIFO(d->st.st_mode) && !strncmp(d->link, "pipe:[", 6);
}

static bool reads(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_WRONLY;
}

static bool writes(uint32_t flags)
{
	return (flags & O_ACCMODE) != O_RDONLY;
}

/* What the process itself has of a pipe. */
struct ends {
	bool read, write;
	bool packets;
	int input;	/* 0 if standard input reads from it, else -1 */
	int output;	/* 1 or 2 if standard output or error writes to it, else -1 */
};

static void add_end(struct ends *ends, const struct descriptor *d, ino_t ino)
{
	if (d->st.st_ino != ino || !is(d))
		return;
	ends->read |= reads(d->flags);
	ends->write |= writes(d->flags);
	ends->packets |= !!(d->flags & O_DIRECT);
	if (d->fd == 0 && reads(d->flags))
		ends->input = 0;
	if ((d->fd == 1 || d->fd == 2) && writes(d->flags) && ends->output < 0)
		ends->output = d->fd;
}

static struct ends ends_of(const struct descriptor_table *t, ino_t ino)
{
	struct ends ends = { .input = -1, .output = -1 };
	const struct descriptor_table *table;

	for (size_t n = 0; (table = descriptors_table(t, n)); n++)
		for (size_t i = 0; i < table->count; i++)
			add_end(&ends, &table->at[i], ino);
	return ends;
}

/* Whether anybody at all has the other end. */
static bool is_connected(const struct descriptor *d)
{
	struct pollfd end = { .fd = d->own, .events = 0 };

	if (poll(&end, 1, 0) < 0)
		return true;
	return !(end.revents & (writes(d->flags) ? POLLERR : POLLHUP));
}

static void check_writer(struct check *c, const struct descriptor *d, const struct ends *ends)
{
	const struct pipe_holder *h = pipe_holder_find(c, d, true, false);
	char path[64], who[64] = "another process";

	if (h)
		snprintf(who, sizeof(who), "pid %d (%s)", h->pid, h->name);
	if (ends->output < 0) {
		refuse(c, d, "FD_PIPE",
		       "is a pipe that %s reads, which stays here: what is written there would "
		       "be lost; move them apart, or let the program close it",
		       who);
		return;
	}
	pipe_log_path(path, sizeof(path), c->pid, ends->output);
	remark(c, d, "FD_PIPE_LOG",
	       "is a pipe read by %s, which stays here: on the target it is written to %s", who,
	       path);
}

static void check_reader(struct check *c, const struct descriptor *d, const struct ends *ends)
{
	const struct pipe_holder *h = pipe_holder_find(c, d, false, true);
	char who[64] = "another process";

	if (h)
		snprintf(who, sizeof(who), "pid %d (%s)", h->pid, h->name);
	if (ends->input < 0)
		refuse(c, d, "FD_PIPE",
		       "is a pipe that %s writes, which stays here: nothing would come any "
		       "more; move them apart, or let the program close it",
		       who);
	else
		remark(c, d, "FD_PIPE_END",
		       "is a pipe written by %s, which stays here: on the target it is at "
		       "its end once what is in it now was read",
		       who);
}

static void check(struct check *c, const struct descriptor *d)
{
	struct ends ends = ends_of(c->descriptors, d->st.st_ino);
	const struct pipe_holder *h;
	int waiting = 0;

	if (ends.packets && !ioctl(d->own, FIONREAD, &waiting) && waiting)
		refuse(c, d, "FD_PIPE",
		       "is a pipe of packets (O_DIRECT) with %d bytes in it: where one packet "
		       "ends can't be seen from outside; try again when it is empty",
		       waiting);
	if (ends.read && ends.write) {
		h = pipe_holder_find(c, d, true, true);
		if (h)
			refuse(c, d, "FD_PIPE",
			       "is a pipe that pid %d (%s) holds too, which stays here; stop "
			       "that process first",
			       h->pid, h->name);
	/* What no process holds waits in a unix socket to be received; if in none of the tree's, the freeze shows it. */
	} else if (is_connected(d) && (c->frozen || !(c->flags & PHAUL_TO_DIRECTORY) ||
				       pipe_holder_find(c, d, ends.write, ends.read))) {
		if (ends.write)
			check_writer(c, d, &ends);
		else
			check_reader(c, d, &ends);
	}
}

/* The one description of a pipe that its content is written with. */
static bool carries_content(const struct dump *dump, const struct descriptor *d)
{
	const struct descriptor_table *table;
	struct ends ends = ends_of(dump->descriptors, d->st.st_ino);

	if (!reads(d->flags))
		return !ends.read;
	for (size_t n = 0; (table = descriptors_table(dump->descriptors, n)); n++)
		for (size_t i = 0; i < table->count; i++)
			if (table->at[i].st.st_ino == d->st.st_ino && is(&table->at[i]) && reads(table->at[i].flags))
				return table->at[i].id == d->id;
	return true;
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	PipeEntry pipe = PIPE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	struct ends ends = ends_of(dump->descriptors, d->st.st_ino);

	pipe.id = d->id;
	pipe.pipe_id = d->st.st_ino;
	pipe.flags = d->flags;
	pipe.fown = file_owner(d);
	if (!ends.read && is_connected(d)) {
		pipe.has_phaul_reader_outside = true;
		pipe.phaul_reader_outside = true;
	}
	file.pipe = &pipe;
	if (carries_content(dump, d)) {
		/* What is in a pipe whose reader stays here is the reader's. */
		int err = pipe_content_dump(dump, "pipes-data", d->st.st_ino, d->own, reads(d->flags));

		if (err)
			return err;
	}
	return file_put(dump, d, &file);
}

/* Gives a description its end: the pipe's own if it is still to be had, or another one of the same.
 */
static int claim(struct build *b, const PipeEntry *pipe, int ends[2], bool claimed[2])
{
	int side = writes(pipe->flags), fd;
	char path[32];

	if (!claimed[side] && !(reads(pipe->flags) && writes(pipe->flags))) {
		claimed[side] = true;
		fd = ends[side];
	} else {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[side]);
		fd = open(path, (pipe->flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC);
		if (fd < 0)
			return phaul_fail(b->err, -errno, "descriptors",
					  "opening a pipe once more");
	}
	return file_set_flags(b, fd, pipe->flags);
}

static int start_log(struct build *b, uint32_t pipe_id, int end)
{
	int number = -1, err;
	char path[64];

	for (size_t i = 0; i < b->number_count && number < 1; i++) {
		const FdinfoEntry *n = b->numbers[i];
		const FileEntry *file = n->id < b->files->count ? b->files->at[n->id] : NULL;

		if (file && file->pipe && file->pipe->pipe_id == pipe_id)
			number = n->fd;
	}
	pipe_log_path(path, sizeof(path), b->pid, number);
	(void)fcntl(end, F_SETFL, 0);
	err = pipe_log_start(end, path);
	return err ? phaul_fail(b->err, err, "descriptors",
				"starting cat for fd %d, to write to %s", number, path)
		   : 0;
}

/* Builds all descriptions of the pipe, whichever of them is asked for first. */
static int build(struct build *b, const FileEntry *file)
{
	uint32_t pipe_id = file->pipe->pipe_id;
	bool claimed[2] = { false, false }, logged = false;
	int ends[2], err;

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	err = pipe_content_build(b, "pipes-data", pipe_id, ends[1]);
	for (size_t id = 0; id < b->files->count && !err; id++) {
		const PipeEntry *pipe = b->files->at[id] ? b->files->at[id]->pipe : NULL;

		if (!pipe || pipe->pipe_id != pipe_id || !b->files->uses[id])
			continue;
		b->files->made[id] = claim(b, pipe, ends, claimed);
		err = b->files->made[id] < 0 ? b->files->made[id] : 0;
		logged |= pipe->phaul_reader_outside;
	}
	if (!err && logged && !claimed[0])
		err = start_log(b, pipe_id, ends[0]);
	for (int side = 0; side < 2; side++)
		if (!claimed[side])
			close(ends[side]);
	return err ? err : b->files->made[file->id];
}

const struct descriptor_kind pipe_kind = {
	.name = "a pipe",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__PIPE,
};
