/* epoll.c - an epoll instance and what it watches. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

struct watch {
	int number;		/* under which it was added */
	uint32_t nth;		/* of those that were added under this number */
	uint32_t events;
	uint64_t data;
	uint64_t pos;
	ino_t ino;
	uint32_t dev;		/* the kernel's own form */
	const struct descriptor *target;
};

static bool is(const struct descriptor *d)
{
	return !strcmp(d->link, "anon_inode:[eventpoll]");
}

static const char *next_watch(const char *text, struct watch *ret)
{
	long long pos;
	unsigned long ino;
	unsigned long long data;

	text = strstr(text, "tfd:");
	if (!text || sscanf(text, "tfd: %d events: %x data: %llx pos:%lli ino:%lx sdev:%x",
			    &ret->number, &ret->events, &data, &pos, &ino, &ret->dev) != 6)
		return NULL;
	ret->data = data;
	ret->pos = pos;
	ret->ino = ino;
	return text + 4;
}

/* `t` has the epoll instance, `of` the candidate. */
static bool leads_to(const struct descriptor_table *t, const struct descriptor *epoll, const struct watch *w,
		     const struct descriptor_table *of, const struct descriptor *candidate)
{
	struct kcmp_epoll_slot slot = { .efd = epoll->fd, .tfd = w->number, .toff = w->nth };

	/* A socket's inode is its own, which spares a walk through all that is watched. */
	if (S_ISSOCK(candidate->st.st_mode))
		return candidate->st.st_ino == w->ino;
	return !syscall(SYS_kcmp, of->pid, t->pid, KCMP_EPOLL_TFD, candidate->fd, &slot);
}

static int by_number(const void *key, const void *at)
{
	const int *fd = key;
	const struct descriptor *d = at;

	return (*fd > d->fd) - (*fd < d->fd);
}

static const struct descriptor *find_target_in(const struct descriptor_table *of, const struct descriptor_table *t,
					       const struct descriptor *epoll, const struct watch *w)
{
	for (size_t i = 0; i < of->count; i++) {
		const struct descriptor *d = &of->at[i];

		if (d->st.st_ino == w->ino && leads_to(t, epoll, w, of, d))
			return d;
	}
	return NULL;
}

/* On its way through a unix socket: no process has a number for it, and what it watches may be anybody's. */
static bool is_on_its_way(const struct descriptor_table *t)
{
	return t->pid == getpid();
}

/* What is watched is a description, and the number it was added under may be another's by now. */
static const struct descriptor *find_target(const struct descriptor_table *t,
					    const struct descriptor *epoll, const struct watch *w)
{
	const struct descriptor *same = is_on_its_way(t) ? NULL : bsearch(&w->number, t->at, t->count, sizeof(*t->at), by_number);
	const struct descriptor_table *of;

	if (same && leads_to(t, epoll, w, t, same))
		return same;
	same = find_target_in(t, t, epoll, w);
	for (size_t n = 0; !same && is_on_its_way(t) && (of = descriptors_table(t, n)); n++)
		same = find_target_in(of, t, epoll, w);
	return same;
}

static int add(struct watch **at, size_t *count, size_t *capacity, const struct watch *w)
{
	if (*count == *capacity) {
		size_t larger = *capacity ? *capacity * 2 : 16;
		struct watch *moved = reallocarray(*at, larger, sizeof(*moved));

		if (!moved)
			return -ENOMEM;
		*at = moved;
		*capacity = larger;
	}
	(*at)[(*count)++] = *w;
	return 0;
}

/* `nth` counts how many before it in the text, which is in the kernel's order, have the same
 * number. */
static int count_numbers(struct watch *at, size_t count)
{
	int highest = 0;
	uint32_t *seen;

	for (size_t i = 0; i < count; i++)
		if (at[i].number > highest)
			highest = at[i].number;
	seen = calloc(highest + 1, sizeof(*seen));
	if (!seen)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		at[i].nth = seen[at[i].number]++;
	free(seen);
	return 0;
}

static int read_watches(const struct descriptor_table *t, const struct descriptor *d,
			struct watch **ret)
{
	size_t count = 0, capacity = 0;
	struct watch *at = NULL, w = { 0 };
	int err = 0;

	for (const char *text = d->fdinfo; !err && (text = next_watch(text, &w));)
		err = add(&at, &count, &capacity, &w);
	if (!err)
		err = count_numbers(at, count);
	for (size_t i = 0; i < count && !err; i++)
		at[i].target = find_target(t, d, &at[i]);
	if (err) {
		free(at);
		return err;
	}
	*ret = at;
	return count;
}

/* In a running process a number can have been closed between two looks: is it still as it was? */
static bool still_lost(struct check *c, const struct descriptor *d, const struct watch *w)
{
	char path[64], line[256], expected[64];
	bool found = false;
	FILE *fdinfo;

	if (c->frozen)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", c->pid, w->number);
	if (!faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", c->pid, d->fd);
	snprintf(expected, sizeof(expected), "tfd: %8d ", w->number);
	fdinfo = fopen(path, "re");
	while (fdinfo && !found && fgets(line, sizeof(line), fdinfo))
		found = !strncmp(line, expected, strlen(expected));
	if (fdinfo)
		fclose(fdinfo);
	return found;
}

static void check(struct check *c, const struct descriptor *d)
{
	struct watch *watches;
	int count = read_watches(c->descriptors, d, &watches);

	if (count < 0)
		return;
	for (int i = 0; i < count; i++)
		if (!watches[i].target && still_lost(c, d, &watches[i]))
			refuse(c, d, "FD_EPOLL",
			       "is an epoll instance that watches what was fd %d, which "
			       "only another process still has open: that can't be watched from "
			       "the target; "
			       "stop that process first",
			       watches[i].number);
	free(watches);
}

/* By the number in its process; what is on its way has none there, and is known by its id. */
static void put_watch(const struct dump *dump, const struct watch *w, uint32_t id, EventpollTfdEntry *e)
{
	bool on_its_way = is_on_its_way(dump->descriptors);

	eventpoll_tfd_entry__init(e);
	e->id = id;
	e->tfd = on_its_way ? w->number : w->target->fd;
	e->events = w->events;
	e->data = w->data;
	e->has_dev = e->has_inode = e->has_pos = true;
	e->dev = w->dev;
	e->inode = w->ino;
	e->pos = w->pos;
	e->has_phaul_added_as = w->number != (int)e->tfd;
	e->phaul_added_as = w->number;
	e->has_phaul_file = on_its_way;
	e->phaul_file = w->target->id;
}

static int put(struct dump *dump, const struct descriptor *d, const struct watch *watches,
	       int count)
{
	EventpollTfdEntry *entries = calloc(count + 1, sizeof(*entries));
	EventpollTfdEntry **list = calloc(count + 1, sizeof(*list));
	EventpollFileEntry epoll = EVENTPOLL_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	int err = -ENOMEM;

	for (int i = 0; i < count && entries && list; i++) {
		list[i] = &entries[i];
		put_watch(dump, &watches[i], d->id, list[i]);
	}
	epoll.id = d->id;
	epoll.flags = d->flags;
	epoll.fown = file_owner(d);
	epoll.n_tfd = count;
	epoll.tfd = list;
	file.epfd = &epoll;
	if (entries && list)
		err = file_put(dump, d, &file);
	free(entries);
	free(list);
	return err;
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	struct watch *watches = NULL;
	int count = read_watches(dump->descriptors, d, &watches);
	int err = count < 0 ? count : 0;

	for (int i = 0; i < count && !err; i++)
		if (!watches[i].target)
			err = -ENOENT;
	if (!err)
		err = put(dump, d, watches, count);
	free(watches);
	return err;
}

static int build(struct build *b, const FileEntry *file)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);

	return fd < 0 ? -errno : file_set_flags(b, fd, file->epfd->flags);
}

static int add_watch(struct call_stream *s, int epoll, int number, const EventpollTfdEntry *e)
{
	/* A one-shot watch that went off has no events left but the marks of its kind. */
	struct epoll_event event = { .events = e->events, .data.u64 = e->data };
	int err = call_stream_room(s, sizeof(event));

	batch_call(&s->batch, "watch a descriptor with epoll", SYS_epoll_ctl, epoll, EPOLL_CTL_ADD,
		   number, batch_bytes(&s->batch, &event, sizeof(event)));
	return err;
}

static int call(struct call_stream *s, const char *name, long nr, uint64_t a, uint64_t b,
		uint64_t c)
{
	int err = call_stream_room(s, 0);

	batch_call(&s->batch, name, nr, a, b, c);
	return err;
}

/* Added under a number that is no longer its own, and may be another's: puts that one aside
 * meanwhile. */
static int add_watch_elsewhere(struct call_stream *s, int epoll, const EventpollTfdEntry *e)
{
	const FdinfoEntry *occupant = NULL;
	int number = e->phaul_added_as, err = 0;

	for (size_t i = 0; i < s->build->number_count && !occupant; i++)
		if ((int)s->build->numbers[i]->fd == number)
			occupant = s->build->numbers[i];
	if (occupant)
		err = call(s, "put a descriptor aside", SYS_dup3, number, s->spare, O_CLOEXEC);
	if (!err)
		err = call(s, "lend a number", SYS_dup3, e->tfd, number, O_CLOEXEC);
	if (!err)
		err = add_watch(s, epoll, number, e);
	if (err)
		return err;
	if (!occupant)
		return call(s, "take a number back", SYS_close, number, 0, 0);
	err = call(s, "put a descriptor back", SYS_dup3, s->spare, number,
		   occupant->flags ? O_CLOEXEC : 0);
	return err ? err : call(s, "free a number", SYS_close, s->spare, 0, 0);
}

static int finish(struct build *b, const FileEntry *file, int fd, struct call_stream *s)
{
	const EventpollFileEntry *image = file->epfd;
	int err = 0;

	(void)b;
	for (size_t i = 0; i < image->n_tfd && !err; i++) {
		const EventpollTfdEntry *e = image->tfd[i];

		if (e->has_phaul_added_as && e->phaul_added_as != e->tfd)
			err = add_watch_elsewhere(s, fd, e);
		else
			err = add_watch(s, fd, e->tfd, e);
	}
	return err;
}

/* ---- on its way ---- */

#define NUMBERS (1u << 30)		/* of descriptors: fs.nr_open is less */

struct watching {
	struct build *build;
	const EventpollFileEntry *image;
	int epoll, code;
};

/* CRIU knows what is watched by its number in the process. */
static uint32_t file_of(const struct build *b, const EventpollTfdEntry *e)
{
	for (size_t i = 0; !e->has_phaul_file && i < b->number_count; i++)
		if (b->numbers[i]->fd == e->tfd)
			return b->numbers[i]->id;
	return e->phaul_file;
}

/* In a thread that has a table of descriptors of its own, so that any number can be given for a moment: first all goes
 * above those that are wanted. */
static int watch_apart(const struct watching *w)
{
	const EventpollFileEntry *image = w->image;
	int *targets = calloc(image->n_tfd + 1, sizeof(*targets)), above = 0, epoll, err;

	for (size_t i = 0; i < image->n_tfd; i++)
		above = (int)image->tfd[i]->tfd >= above ? (int)image->tfd[i]->tfd + 1 : above;
	err = !targets ? -ENOMEM : unshare(CLONE_FILES) < 0 ? -errno : 0;
	epoll = err ? -1 : fcntl(w->epoll, F_DUPFD, above);
	for (size_t i = 0; i < image->n_tfd && !err; i++) {
		targets[i] = fcntl(w->build->files->made[file_of(w->build, image->tfd[i])], F_DUPFD, above);
		err = epoll < 0 || targets[i] < 0 ? -errno : 0;
	}
	for (size_t i = 0; i < image->n_tfd && !err; i++) {
		const EventpollTfdEntry *e = image->tfd[i];
		struct epoll_event event = { .events = e->events, .data.u64 = e->data };

		if (dup2(targets[i], e->tfd) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, e->tfd, &event) < 0)
			err = -errno;
	}
	free(targets);
	return err;
}

static void *run_apart(void *arg)
{
	struct watching *w = arg;

	w->code = watch_apart(w);
	return NULL;
}

int epoll_finish_on_its_way(struct build *b, const FileEntry *file, int fd)
{
	struct watching w = { b, file->epfd, fd, 0 };
	pthread_t thread;
	int err = 0;

	for (size_t i = 0; i < file->epfd->n_tfd && !err; i++) {
		uint32_t id = file_of(b, file->epfd->tfd[i]);

		if (file->epfd->tfd[i]->tfd >= NUMBERS)
			return phaul_fail(b->err, -EPROTO, "epoll", "files.img says that fd %u is watched, which nobody can have",
					  file->epfd->tfd[i]->tfd);
		/* What its process has got already is no longer ours. */
		if (id >= b->files->count || (b->files->made[id] < 0 && !b->files->uses[id]))
			err = -ENOENT;
		else
			err = file_make(b, id) < 0 ? b->err->code : 0;
	}
	b->files->finished[file->id] = true;
	err = err ?: -pthread_create(&thread, NULL, run_apart, &w);
	if (!err)
		pthread_join(thread, NULL);
	err = err ?: w.code;
	return err && b->err->code != err ? phaul_fail(b->err, err, "epoll", "watching %zu descriptors by an epoll instance that is on "
						       "its way through a unix socket", file->epfd->n_tfd) : err;
}

const struct descriptor_kind epoll_kind = {
	.name = "an epoll instance",
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.finish = finish,
	.type = FD_TYPES__EVENTPOLL,
};
