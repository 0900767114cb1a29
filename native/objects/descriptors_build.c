/* descriptors_build.c - makes all descriptions in our process, then lets the husk fetch each and
 *put it on its numbers.
 *
 *	ours          husk, while fd 5 and 9 get one description
 *	made 37       pidfd_getfd(us, 37) -> 3, the lowest that is free
 *	              dup3(3, 5)  dup3(3, 9)  close(3)
 *
 * The lowest free number is known beforehand, so that all calls go in a few batches.
 */
#include "descriptors.h"
#include "locks.h"
#include "tty.h"
#include "unix_socket.h"

#include "../ghost.h"
#include "../stand_in.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the kernel allows at most (fs.nr_open); images are not trusted to stay below. */
#define NUMBER_MAX (1 << 20)
#ifndef FILE_ID_MAX	/* less for the fuzzers, which would have no time for anything else */
#define FILE_ID_MAX (1 << 22)
#endif
#define CODE_PAGE 4096

int file_number(const struct build *b, uint32_t id)
{
	for (size_t i = 0; i < b->number_count; i++)
		if (b->numbers[i]->id == id)
			return b->numbers[i]->fd;
	return -1;
}

int file_set_flags(struct build *b, int fd, uint32_t flags)
{
	int now = fcntl(fd, F_GETFL);
	int changeable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME, err;

	if (now >= 0 && ((now ^ flags) & changeable) == 0)
		return fd;
	if (now >= 0 && !fcntl(fd, F_SETFL, (now & ~changeable) | (flags & changeable)))
		return fd;
	err = phaul_fail(b->err, -errno, "descriptors", "setting the flags %o of a descriptor",
			 flags);
	close(fd);
	return err;
}

/* ---- calls in the husk ---- */

static int stream_begin(struct call_stream *s)
{
	struct remote_area *area = s->build->area;
	size_t capacity = (area->size - CODE_PAGE) * 3 / 4 / 64;

	remote_area_reset(area);
	return batch_begin(&s->batch, area, s->build->leader,
			   capacity < CALL_STREAM_MAX ? capacity : CALL_STREAM_MAX);
}

static int stream_run(struct call_stream *s)
{
	int err = s->batch.error;

	if (s->batch.count && !err)
		err = batch_run(&s->batch, 1, s->build->err);
	if (s->batch.count && !err)
		err = batch_check(&s->batch, s->build->err);
	batch_free(&s->batch);
	while (s->handed_count)
		close(s->handed[--s->handed_count]);
	return err;
}

int call_stream_room(struct call_stream *s, size_t bytes)
{
	const struct remote_area *area = s->build->area;
	int err;

	if (s->batch.count < s->batch.capacity && area->used + bytes + 32 <= area->size - CODE_PAGE)
		return s->batch.error;
	err = stream_run(s);
	return err ? err : stream_begin(s);
}

static int call(struct call_stream *s, const char *name, long nr, uint64_t a, uint64_t b,
		uint64_t c)
{
	int err = call_stream_room(s, 0);

	if (err)
		return err;
	return batch_call(&s->batch, name, nr, a, b, c) < 0 ? s->batch.error : 0;
}

/* ---- the husk's table, as it will be ---- */

struct table {
	bool *taken;
	int size;
	int lowest;	/* free */
	int us;		/* where the husk has a pidfd of us */
};

static void take(struct table *t, int number)
{
	t->taken[number] = true;
	while (t->lowest < t->size - 1 && t->taken[t->lowest])
		t->lowest++;
}

/* What staging left open stays where it is. */
static int see_taken(struct build *b, struct table *t)
{
	struct dirent *entry;
	char path[32];
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", b->pid);
	dir = opendir(path);
	if (!dir)
		return phaul_fail(b->err, -errno, "descriptors", "reading %s", path);
	while ((entry = readdir(dir))) {
		int number = atoi(entry->d_name);

		if (entry->d_name[0] != '.' && number < t->size)
			take(t, number);
	}
	closedir(dir);
	for (size_t i = 0; i < b->number_count; i++)
		if (t->taken[b->numbers[i]->fd])
			return phaul_fail(b->err, -EBUSY, "descriptors",
					  "fd %u is taken in the new process", b->numbers[i]->fd);
	return 0;
}

/* Two numbers above the highest are ours while we build. */
static int raise_limit(struct build *b, int highest, struct rlimit *ret_before)
{
	struct rlimit limit;
	rlim_t needed = highest + 3;

	if (prlimit(b->pid, RLIMIT_NOFILE, NULL, ret_before) < 0)
		return phaul_fail(b->err, -errno, "descriptors", "asking for the limits of pid %d",
				  b->pid);
	if (ret_before->rlim_cur >= needed)
		return 0;
	limit = *ret_before;
	limit.rlim_cur = needed;
	if (limit.rlim_max < needed)
		limit.rlim_max = needed;
	if (prlimit(b->pid, RLIMIT_NOFILE, &limit, NULL) < 0)
		return phaul_fail(b->err, -errno, "descriptors",
				  "making room for fd %d: no more than %lu are "
				  "allowed here (ulimit -Hn)",
				  highest, (unsigned long)ret_before->rlim_max);
	return 0;
}

static int lower_limit(struct build *b, const struct rlimit *before)
{
	return prlimit(b->pid, RLIMIT_NOFILE, before, NULL) < 0 ? -errno : 0;
}

int descriptors_reserve(struct build *b, int highest)
{
	struct rlimit before;
	int64_t fd, high;
	int err;

	if (highest < 0 || highest >= NUMBER_MAX)
		return highest < 0 ? 0 : -EMFILE;
	err = raise_limit(b, highest, &before);
	if (err)
		return err;
	fd = remote_call(b->leader, SYS_eventfd2, 0, O_CLOEXEC);
	high = fd < 0 ? fd : remote_call(b->leader, SYS_dup3, fd, highest + 2, O_CLOEXEC);
	if (fd >= 0)
		(void)remote_call(b->leader, SYS_close, fd);
	if (high >= 0)
		(void)remote_call(b->leader, SYS_close, high);
	err = lower_limit(b, &before);
	if (high < 0)
		err = high;
	return err ? phaul_fail(b->err, err, "descriptors", "making room for %d descriptors",
				highest + 1)
		   : 0;
}

void descriptors_reserve_own(size_t count)
{
	int fd = open("/", O_PATH | O_CLOEXEC), high = fd < 0 || count > NUMBER_MAX ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, fd + (int)count);

	if (fd >= 0)
		close(fd);
	if (high >= 0)
		close(high);
}

/* ---- images ---- */

static int by_number(const void *a, const void *b)
{
	const FdinfoEntry *left = *(FdinfoEntry *const *)a, *right = *(FdinfoEntry *const *)b;

	return (left->fd > right->fd) - (left->fd < right->fd);
}

/* Takes the messages over, each to the place of its id. */
static int sort_files(struct built_files *f, FileEntry **files, size_t count, struct phaul_error *err)
{
	uint32_t highest = 0;

	for (size_t i = 0; i < count; i++)
		if (files[i]->id > highest)
			highest = files[i]->id;
	if (highest > FILE_ID_MAX)
		return image_wrong("files", -1, err, "id %u is higher than any (%u)", highest, FILE_ID_MAX);
	f->count = highest + 1;
	f->at = calloc(f->count, sizeof(*f->at));
	f->made = malloc(f->count * sizeof(*f->made));
	f->ghosts = malloc(f->count * sizeof(*f->ghosts));
	f->uses = calloc(f->count, sizeof(*f->uses));
	f->kept = calloc(f->count, sizeof(*f->kept));
	f->finished = calloc(f->count, sizeof(*f->finished));
	if (!f->at || !f->made || !f->ghosts || !f->uses || !f->kept || !f->finished)
		return phaul_fail(err, -ENOMEM, "descriptors", "listing %u files", highest);
	memset(f->made, -1, f->count * sizeof(*f->made));
	memset(f->ghosts, -1, f->count * sizeof(*f->ghosts));
	for (size_t i = 0; i < count; i++) {
		if (f->at[files[i]->id])
			return image_wrong("files", -1, err, "id %u is there twice", files[i]->id);
		f->at[files[i]->id] = files[i];
		files[i] = NULL;
	}
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const FdinfoEntry *left = *(FdinfoEntry *const *)a, *right = *(FdinfoEntry *const *)b;

	return (left->id > right->id) - (left->id < right->id);
}

/* One for each description that the process has, under however many numbers. */
static int count_uses(const struct image_set *images, pid_t pid, struct built_files *f, struct phaul_error *err)
{
	ProtobufCMessage **numbers;
	size_t count;
	int code = image_read_all(images, "fdinfo", pid, &fdinfo_entry__descriptor, &numbers, &count);
	FdinfoEntry **sorted = (FdinfoEntry **)numbers;

	if (count)
		qsort(sorted, count, sizeof(*sorted), by_id);
	for (size_t i = 0; i < count; i++)
		if (sorted[i]->id < f->count && (!i || sorted[i]->id != sorted[i - 1]->id))
			f->uses[sorted[i]->id]++;
	image_free_all(numbers, count);
	return code ? image_malformed("fdinfo", pid, err) : 0;
}

int built_files_read(const struct image_set *images, const pid_t *tables, size_t count, struct built_files *ret,
		     struct phaul_error *err)
{
	ProtobufCMessage **files;
	uint32_t flags = ret->flags;
	bool moves = ret->moves;
	size_t file_count;
	int code;

	memset(ret, 0, sizeof(*ret));
	ret->flags = flags;
	ret->moves = moves;
	if (image_read_all(images, "files", -1, &file_entry__descriptor, &files, &file_count))
		code = image_malformed("files", -1, err);
	else
		code = sort_files(ret, (FileEntry **)files, file_count, err);
	image_free_all(files, file_count);
	for (size_t i = 0; i < count && !code; i++)
		code = count_uses(images, tables[i], ret, err);
	if (!code && unix_queues_count_uses(images, ret))
		code = image_malformed("sk-queues", -1, err);
	if (code)
		built_files_free(ret);
	return code;
}

void built_files_free(struct built_files *f)
{
	for (size_t id = 0; f->made && id < f->count; id++)
		if (f->made[id] >= 0 && !(f->kept && f->kept[id]))
			close(f->made[id]);
	for (size_t id = 0; f->ghosts && id < f->count; id++)
		if (f->ghosts[id] >= 0)
			close(f->ghosts[id]);
	stand_ins_end(f);
	ghosts_keep_files(f, false);
	for (size_t i = 0; i < f->watching_count; i++)
		close(f->watching[i]);
	free(f->watching);
	for (size_t i = 0; i < f->sealed_count; i++)
		close(f->sealed[i].fd);
	free(f->sealed);
	for (size_t i = 0; i < f->paused_count; i++) {
		close(f->paused[i].fd);
		free(f->paused[i].closing);
	}
	free(f->paused);
	unix_names_free(f);
	free(f->late_locks);
	image_free_all(f->at, f->count);
	free(f->made);
	free(f->ghosts);
	free(f->uses);
	free(f->kept);
	free(f->finished);
	memset(f, 0, sizeof(*f));
}

int built_files_path(const struct built_files *f, uint32_t id, char ret[PATH_MAX])
{
	const FileEntry *file = id < f->count ? f->at[id] : NULL;

	if (!file || (f->ghosts[id] < 0 && (!file->reg || strlen(file->reg->name) >= PATH_MAX)))
		return -ENOENT;
	if (f->ghosts[id] >= 0)
		snprintf(ret, PATH_MAX, "/proc/%d/fd/%d", getpid(), f->ghosts[id]);
	else
		strcpy(ret, file->reg->name);
	return 0;
}

static int read_images(struct build *b)
{
	ProtobufCMessage **numbers;
	int err;

	if (b->table < 0)
		return 0;
	err = image_read_all(b->images, "fdinfo", b->table, &fdinfo_entry__descriptor, &numbers,
			    &b->number_count);
	b->numbers = (FdinfoEntry **)numbers;
	if (err)
		return image_malformed("fdinfo", b->table, b->err);
	if (b->number_count)
		qsort(b->numbers, b->number_count, sizeof(*b->numbers), by_number);
	return 0;
}

static int check_numbers(struct build *b)
{
	for (size_t i = 0; i < b->number_count; i++) {
		const FdinfoEntry *n = b->numbers[i];

		if (n->fd >= NUMBER_MAX || (i && n->fd == b->numbers[i - 1]->fd))
			return image_wrong("fdinfo", b->table, b->err, "fd %u is there twice, or higher than any", n->fd);
		if (n->id >= b->files->count || !b->files->at[n->id])
			return image_wrong("fdinfo", b->table, b->err, "fd %u has id %u, which is not in files.img", n->fd, n->id);
	}
	return 0;
}

/* ---- making and placing ---- */

static const struct descriptor_kind *kind_of(const FileEntry *file)
{
	bool complete = file->type == FD_TYPES__REG ? file->reg != NULL :
			file->type == FD_TYPES__PIPE ? file->pipe != NULL :
			file->type == FD_TYPES__UNIXSK ? file->usk != NULL :
			file->type == FD_TYPES__MEMFD ? file->memfd != NULL :
			file->type == FD_TYPES__PIDFD ? file->pidfd != NULL :
			file->type == FD_TYPES__TTY ? file->tty != NULL :
			file->type == FD_TYPES__INOTIFY ? file->ify != NULL :
			file->type == FD_TYPES__FANOTIFY ? file->ffy != NULL :
			file->type == FD_TYPES__NETLINKSK ? file->nlsk && file->nlsk->opts :
			file->type == FD_TYPES__NS ? file->nsf != NULL :
			file->type == FD_TYPES__PACKETSK ? file->psk && file->psk->opts :
			file->type == FD_TYPES__FIFO ? file->fifo != NULL :
			file->type == FD_TYPES__INETSK ? file->isk && file->isk->opts :
			file->type == FD_TYPES__EVENTFD ? file->efd != NULL :
			file->type == FD_TYPES__EVENTPOLL ? file->epfd != NULL :
			file->type == FD_TYPES__SIGNALFD ? file->sgfd != NULL :
			file->type == FD_TYPES__TIMERFD ? file->tfd != NULL : false;

	for (size_t i = 0; complete && descriptor_kinds[i]; i++)
		if (descriptor_kinds[i]->build && descriptor_kinds[i]->type == (int)file->type)
			return descriptor_kinds[i];
	return NULL;
}

int file_make(struct build *b, uint32_t id)
{
	const FileEntry *file = id < b->files->count ? b->files->at[id] : NULL;
	const struct descriptor_kind *kind = file ? kind_of(file) : NULL;
	int fd;

	if (!file || !kind)
		return phaul_fail(b->err, -EPROTO, "descriptors",
				  "fd %d: nothing here builds files of type %d (number %u)", file_number(b, id),
				  file ? (int)file->type : -1, id);
	if (b->files->made[id] >= 0)
		return b->files->made[id];
	b->err->code = 0;
	fd = kind->build(b, file);
	if (fd >= 0) {
		b->files->made[id] = fd;
		return fd;
	}
	if (!b->err->code)
		phaul_fail(b->err, fd, "descriptors", "making fd %d, %s", file_number(b, id), kind->name);
	return fd;
}

/* Puts the description on the numbers from `first` on that share it. */
static int place(struct call_stream *s, struct table *t, const FdinfoEntry *const *shared,
		 size_t count)
{
	struct built_files *files = s->build->files;
	uint32_t id = shared[0]->id;
	int fetched = t->lowest, ours = files->made[id];
	int err = call(s, "fetch a descriptor", SYS_pidfd_getfd, t->us, ours, 0);
	bool keep = false;

	if (err)
		return err;
	/* The last process that has it: the fewer we hold the better. */
	if (!--files->uses[id]) {
		if (!files->kept[id])
			s->handed[s->handed_count++] = ours;
		files->made[id] = -1;
	}
	for (size_t i = 0; i < count && !err; i++) {
		bool cloexec = shared[i]->flags & FD_CLOEXEC;

		if ((int)shared[i]->fd != fetched) {
			err = call(s, "put a descriptor on its number", SYS_dup3, fetched,
				   shared[i]->fd, cloexec ? O_CLOEXEC : 0);
			continue;
		}
		keep = true;
		if (!cloexec)
			err = call(s, "keep a descriptor on exec", SYS_fcntl, fetched, F_SETFD, 0);
	}
	if (!keep && !err)
		err = call(s, "close a number in between", SYS_close, fetched, 0, 0);
	for (size_t i = 0; i < count; i++)
		take(t, shared[i]->fd);
	return err;
}

/* The numbers of each description side by side, in the order of the lowest of each. */
static const FdinfoEntry **by_description(const struct build *b)
{
	const FdinfoEntry **sorted = calloc(b->number_count + 1, sizeof(*sorted));
	uint32_t *start = calloc(b->files->count + 1, sizeof(*start));
	uint32_t next = 0;

	/* First how many each has, kept at its first; then where the next of each goes. */
	for (size_t i = 0; sorted && start && i < b->number_count; i++)
		start[b->numbers[i]->id]++;
	for (size_t i = 0; sorted && start && i < b->number_count; i++) {
		uint32_t *at = &start[b->numbers[i]->id];

		if (!(*at & 1u << 31)) {
			uint32_t count = *at;

			*at = next | 1u << 31;
			next += count;
		}
		sorted[(*at)++ & ~(1u << 31)] = b->numbers[i];
	}
	free(start);
	return sorted;
}

/* What is below /proc may tell of descriptors that are placed by then. */
static bool comes_last(const struct build *b, uint32_t id)
{
	const FileEntry *file = b->files->at[id];

	return file->reg && !strncmp(file->reg->name, "/proc/", 6);
}

static int place_some(struct call_stream *s, struct table *t, const FdinfoEntry **sorted, bool last)
{
	struct build *b = s->build;
	int err = 0;
	size_t i = 0;

	while (i < b->number_count && !err) {
		size_t count = 1;

		while (i + count < b->number_count && sorted[i + count]->id == sorted[i]->id)
			count++;
		if (comes_last(b, sorted[i]->id) != last) {
			i += count;
			continue;
		}
		err = file_make(b, sorted[i]->id);
		if (err >= 0)
			err = owner_build(b, b->files->at[sorted[i]->id], err) ?: place(s, t, sorted + i, count);
		i += count;
	}
	return err;
}

/* First: what waits in them may have to do with others, which are not ours any more when they are placed. */
static int make_unix_sockets(struct build *b)
{
	for (size_t i = 0; i < b->number_count; i++)
		if (b->files->at[b->numbers[i]->id]->usk) {
			int fd = file_make(b, b->numbers[i]->id);

			return fd < 0 ? fd : 0;
		}
	return 0;
}

static int place_all(struct call_stream *s, struct table *t)
{
	const FdinfoEntry **sorted = by_description(s->build);
	int err = sorted ? make_unix_sockets(s->build) ?: place_some(s, t, sorted, false) : -ENOMEM;

	for (size_t i = 0; i < s->build->number_count && !err; i++)
		if (comes_last(s->build, sorted[i]->id)) {
			err = stream_run(s) ?: stream_begin(s) ?: place_some(s, t, sorted, true);
			break;
		}
	free(sorted);
	return err;
}

static int finish_all(struct call_stream *s)
{
	struct build *b = s->build;
	int err = 0;

	for (size_t i = 0; i < b->number_count && !err; i++) {
		const FileEntry *file = b->files->at[b->numbers[i]->id];
		const struct descriptor_kind *kind = kind_of(file);

		if (b->files->finished[file->id])
			continue;
		b->files->finished[file->id] = true;
		err = owner_finish(s, file, b->numbers[i]->fd);
		if (!err && kind->finish)
			err = kind->finish(b, file, b->numbers[i]->fd, s);
	}
	return err;
}

/* The husk's pidfd of us goes above all numbers, which also makes the table as large as it gets. */
static int fetch_us(struct call_stream *s, struct table *t)
{
	int fetched = t->lowest;
	int err = call(s, "open a pidfd of the engine", SYS_pidfd_open, getpid(), 0, 0);

	if (!err)
		err = call(s, "make room for descriptors", SYS_dup3, fetched, t->us, O_CLOEXEC);
	take(t, t->us);
	return err ? err : call(s, "close a number in between", SYS_close, fetched, 0, 0);
}

static int build_all(struct build *b, int highest)
{
	struct table t = { .size = highest + 3, .us = highest + 1 };
	struct call_stream s = { .build = b, .spare = highest + 2 };
	int err;

	t.taken = calloc(t.size, sizeof(*t.taken));
	if (!t.taken)
		return -ENOMEM;
	err = see_taken(b, &t);
	if (!err)
		err = stream_begin(&s);
	if (!err)
		err = fetch_us(&s, &t);
	if (!err)
		err = place_all(&s, &t);
	if (!err)
		err = finish_all(&s) ?: ttys_finish(b, &s, t.lowest);
	if (!err)
		err = call(&s, "close the pidfd of the engine", SYS_close, t.us, 0, 0);
	if (!err)
		err = stream_run(&s) ?: locks_build(b);
	else
		batch_free(&s.batch);
	while (s.handed_count)
		close(s.handed[--s.handed_count]);
	free(t.taken);
	return err;
}

int descriptors_build(struct build *b, uint32_t *ret_count)
{
	struct phaul_error unwanted, *wanted = b->err;
	struct rlimit before;
	int err, highest;

	if (!b->err)
		b->err = &unwanted;
	b->number_count = 0;
	b->numbers = NULL;
	err = read_images(b);
	if (!err)
		err = check_numbers(b);
	*ret_count = b->number_count;
	highest = err || !b->number_count ? -1 : (int)b->numbers[b->number_count - 1]->fd;
	if (highest >= 0)
		err = raise_limit(b, highest, &before);
	if (highest >= 0 && !err) {
		err = build_all(b, highest);
		if (!err)
			err = lower_limit(b, &before);
	}
	image_free_all(b->numbers, b->number_count);
	b->numbers = NULL;
	b->number_count = 0;
	b->err = wanted;
	return err;
}
