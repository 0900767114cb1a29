/* descriptors.c - all descriptors of a process: reading them, checking them, dumping them. */
#include "descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inet_socket.h"
#include "locks.h"
#include "socket_options.h"

#include "../parallel.h"
#include "../tree.h"

#define SOCKETS_WORTH_THREADS 32

/* ---- reading ---- */

static int pidfd_of(pid_t pid)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);

	return fd < 0 ? -errno : fd;
}

/* These files are made in one go: a short answer is all there is. */
static int text_of(int fd, char **ret)
{
	char small[1024], *text = small;
	size_t size = sizeof(small), used = 0;
	ssize_t got;

	while ((got = read(fd, text + used, size - used - 1)) >= 0) {
		char *larger;

		used += got;
		if (used < size - 1)
			break;
		larger = realloc(text == small ? NULL : text, size * 4);
		if (!larger) {
			errno = ENOMEM;
			got = -1;
			break;
		}
		if (text == small)
			memcpy(larger, small, used);
		text = larger;
		size *= 4;
	}
	if (got < 0) {
		int err = -errno;

		if (text != small)
			free(text);
		return err;
	}
	text[used] = 0;
	*ret = text == small ? strdup(small) : text;
	return *ret ? 0 : -ENOMEM;
}

static int text_at(int dir, const char *name, char **ret)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	int err = fd < 0 ? -errno : text_of(fd, ret);

	if (fd >= 0)
		close(fd);
	return err;
}

bool fdinfo_number(const struct descriptor *d, const char *key, int base, uint64_t *ret)
{
	size_t length = strlen(key);

	for (const char *line = d->fdinfo; line && *line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (!strncmp(line, key, length) && line[length] == ':') {
			*ret = strtoull(line + length + 1, NULL, base);
			return true;
		}
	}
	return false;
}

static void own_end(struct descriptor *d)
{
	if (d->own >= 0)
		close(d->own);
	d->own = -1;
}

static void recognise(struct descriptor *d)
{
	for (size_t i = 0; descriptor_kinds[i] && !d->kind; i++)
		if (descriptor_kinds[i]->is(d))
			d->kind = descriptor_kinds[i];
}

/* What a socket is only the socket itself tells. */
static int own_begin(const struct descriptor_table *t, struct descriptor *d, uint32_t flags)
{
	bool socket = S_ISSOCK(d->st.st_mode);

	/* Only the description itself tells its owner; who has one mostly wants signals, or has a lease. */
	bool owned = d->flags & O_ASYNC || strstr(d->fdinfo, "\nlock:") || flags & PHAUL_TO_DIRECTORY;

	if ((d->flags & O_PATH) || (!socket && !(d->kind && d->kind->asks) && !owned))
		return 0;
	if (d->own < 0)
		d->own = syscall(SYS_pidfd_getfd, t->pidfd, d->fd, 0);
	if (d->own < 0)
		return -errno;
	if (socket)
		recognise(d);
	return 0;
}

static void descriptor_free(struct descriptor *d)
{
	own_end(d);
	free(d->link);
	free(d->fdinfo);
}

/* What has no name in a file system needs no look at its inode. */
static bool describe_by_link(struct descriptor *d)
{
	uint64_t ino;

	if (sscanf(d->link, "pipe:[%lu]", &d->st.st_ino) == 1) {
		d->st.st_mode = S_IFIFO | 0600;
		return true;
	}
	if (sscanf(d->link, "socket:[%lu]", &d->st.st_ino) == 1) {
		d->st.st_mode = S_IFSOCK | 0777;
		return true;
	}
	if (strncmp(d->link, "anon_inode:", 11) || !fdinfo_number(d, "ino", 10, &ino))
		return false;
	d->st.st_ino = ino;
	return true;
}

/* -ENOENT: the number is gone. */
static int descriptor_read(int links, int infos, const char *number, struct descriptor *ret)
{
	char link[4096];
	uint64_t value;
	ssize_t length = readlinkat(links, number, link, sizeof(link) - 1);
	int err;

	*ret = (struct descriptor){ .fd = atoi(number), .own = -1 };
	if (length < 0)
		return -errno;
	err = text_at(infos, number, &ret->fdinfo);
	if (err)
		return err;
	ret->link = strndup(link, length);
	if (!ret->link)
		return -ENOMEM;
	if (!describe_by_link(ret) && fstatat(links, number, &ret->st, 0) < 0)
		return -errno;
	if (fdinfo_number(ret, "pos", 10, &value))
		ret->pos = value;
	if (!fdinfo_number(ret, "flags", 8, &value))
		return -EPROTO;
	/* The kernel shows the number's flag among the description's. */
	ret->cloexec = value & O_CLOEXEC;
	ret->flags = value & ~O_CLOEXEC;
	return 0;
}

static int add(struct descriptor_table *t, size_t *capacity, const struct descriptor *d)
{
	if (t->count == *capacity) {
		size_t larger = *capacity ? *capacity * 2 : 64;
		struct descriptor *at = reallocarray(t->at, larger, sizeof(*at));

		if (!at)
			return -ENOMEM;
		t->at = at;
		*capacity = larger;
	}
	t->at[t->count++] = *d;
	return 0;
}

struct reading {
	struct descriptor_table *table;
	int links, infos;
};

/* One that has vanished has no number any more. */
static int read_one(void *ctx, size_t index, struct phaul_error *err)
{
	struct reading *r = ctx;
	struct descriptor *d = &r->table->at[index];
	char number[16];
	int code;

	snprintf(number, sizeof(number), "%d", d->fd);
	code = descriptor_read(r->links, r->infos, number, d);
	if (code) {
		descriptor_free(d);
		*d = (struct descriptor){ .fd = -1, .own = -1 };
	}
	(void)err;
	return code == -ENOENT ? 0 : code;
}

static int read_all(struct descriptor_table *t, DIR *links, int infos)
{
	struct reading reading = { t, dirfd(links), infos };
	size_t capacity = 0, kept = 0;
	struct dirent *entry;
	int err = 0;

	while (!err && (entry = readdir(links)))
		if (entry->d_name[0] != '.')
			err = add(t, &capacity, &(struct descriptor){ .fd = atoi(entry->d_name), .own = -1 });
	err = err ?: parallel(t->count, read_one, &reading, NULL);
	for (size_t i = 0; i < t->count && !err; i++)
		if (t->at[i].fd >= 0)
			t->at[kept++] = t->at[i];
	if (!err)
		t->count = kept;
	return err;
}

static int by_number(const void *a, const void *b)
{
	const struct descriptor *left = a, *right = b;

	return (left->fd > right->fd) - (left->fd < right->fd);
}

#define ORDER(a, b) \
	if ((a) != (b)) \
		return (a) < (b) ? -1 : 1

/* What shares a description agrees in all of this. Anonymous inodes are all one; of these,
 * eventfds, which come by the thousand, have an identity of their own. */
struct candidate {
	struct descriptor *d;
	uint64_t identity;
	pid_t pid;
};

/* Among those that agree, the kernel knows an order. */
static int by_description(const void *a, const void *b)
{
	const struct candidate *left = a, *right = b;
	long order;

	ORDER(left->d->st.st_dev, right->d->st.st_dev);
	ORDER(left->d->st.st_ino, right->d->st.st_ino);
	ORDER(left->identity, right->identity);
	ORDER(left->d->pos, right->d->pos);
	ORDER(left->d->flags, right->d->flags);
	order = syscall(SYS_kcmp, left->pid, right->pid, KCMP_FILE, left->d->fd, right->d->fd);
	return order == 1 ? -1 : order == 2 ? 1 : 0;
}

static int number_descriptions(struct descriptor_table *tables, size_t count)
{
	struct candidate *sorted;
	uint32_t *ids, group = 0, id = 0;
	size_t all = 0, n = 0;

	for (size_t i = 0; i < count; i++)
		all += tables[i].count;
	sorted = calloc(all + 1, sizeof(*sorted));
	ids = calloc(all + 1, sizeof(*ids));
	for (size_t i = 0; sorted && ids && i < count; i++)
		for (size_t j = 0; j < tables[i].count; j++) {
			struct candidate *c = &sorted[n++];

			*c = (struct candidate){ .d = &tables[i].at[j], .pid = tables[i].pid };
			if (!c->d->st.st_mode)
				(void)fdinfo_number(c->d, "eventfd-id", 10, &c->identity);
		}
	if (n)
		qsort(sorted, n, sizeof(*sorted), by_description);
	for (size_t i = 0; i < n; i++) {
		if (!i || by_description(&sorted[i - 1], &sorted[i]))
			group++;
		sorted[i].d->id = group;
	}
	for (size_t i = 0; n && i < count; i++)
		for (size_t j = 0; j < tables[i].count; j++) {
			uint32_t *known = &ids[tables[i].at[j].id];

			if (!*known)
				*known = ++id;
			tables[i].at[j].id = *known;
		}
	free(sorted);
	free(ids);
	return id || !all ? 0 : -ENOMEM;
}

int descriptors_add_own(struct descriptor_table *t, const int *fds, size_t count)
{
	int links = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int infos = open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC), err = links < 0 || infos < 0 ? -errno : 0;
	size_t capacity = t->count;

	for (size_t i = 0; i < count && !err; i++) {
		struct descriptor d;
		char number[16];

		snprintf(number, sizeof(number), "%d", fds[i]);
		err = descriptor_read(links, infos, number, &d) ?: add(t, &capacity, &d);
		if (err)
			descriptor_free(&d);
		else if (!S_ISSOCK(d.st.st_mode))
			recognise(&t->at[t->count - 1]);
	}
	if (links >= 0)
		close(links);
	if (infos >= 0)
		close(infos);
	return err;
}

int descriptors_group(struct descriptor_table *tables, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		tables[i].group = tables;
		tables[i].group_count = count;
	}
	return number_descriptions(tables, count);
}

int descriptors_read(pid_t pid, struct descriptor_table *ret, struct phaul_error *err)
{
	char path[64];
	DIR *links;
	int infos, failed;

	*ret = (struct descriptor_table){ .pid = pid };
	ret->pidfd = pidfd_of(pid);
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	links = opendir(path);
	failed = links ? 0 : -errno;
	snprintf(path, sizeof(path), "/proc/%d/fdinfo", pid);
	infos = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!failed && infos < 0)
		failed = -errno;
	if (ret->pidfd < 0)
		failed = ret->pidfd;
	if (!failed)
		failed = read_all(ret, links, infos);
	if (links)
		closedir(links);
	if (infos >= 0)
		close(infos);
	if (!failed && ret->count)
		qsort(ret->at, ret->count, sizeof(*ret->at), by_number);
	failed = failed ?: number_descriptions(ret, 1);
	if (failed) {
		descriptors_free(ret);
		return phaul_fail(err, failed, "descriptors", "reading the descriptors of pid %d",
				  pid);
	}
	for (size_t i = 0; i < ret->count; i++)
		if (!S_ISSOCK(ret->at[i].st.st_mode))
			recognise(&ret->at[i]);
	return 0;
}

void descriptors_free(struct descriptor_table *t)
{
	for (size_t i = 0; i < t->count; i++)
		descriptor_free(&t->at[i]);
	free(t->at);
	if (t->pidfd > 0)
		close(t->pidfd);
	memset(t, 0, sizeof(*t));
	t->pidfd = -1;
}

/* ---- checking ---- */

static void say(struct check *c, const struct descriptor *d, char *ret, size_t size,
		const char *format, va_list args)
{
	const struct descriptor_table *t = c->descriptors;
	int others = 0, used = snprintf(ret, size, "fd %d", d->fd);

	for (size_t i = 0; t && i < t->count && others < 4; i++) {
		if (t->at[i].id != d->id || t->at[i].fd == d->fd)
			continue;
		if (others++ < 3)
			used += snprintf(ret + used, size - used, "%sfd %d",
					 others == 1 ? " (also " : ", ", t->at[i].fd);
		else
			used += snprintf(ret + used, size - used, ", ...");
	}
	used += snprintf(ret + used, size - used, others ? ") " : " ");
	vsnprintf(ret + used, size - used, format, args);
}

void refuse(struct check *c, const struct descriptor *d, const char *code, const char *format, ...)
{
	char subject[32], text[4096 + 512];
	va_list args;

	snprintf(subject, sizeof(subject), "fd %d", d->fd);
	va_start(args, format);
	say(c, d, text, sizeof(text), format, args);
	va_end(args);
	obstacle(c, code, subject, "%s", text);
}

void remark(struct check *c, const struct descriptor *d, const char *code, const char *format, ...)
{
	char subject[32], text[4096 + 512];
	va_list args;

	snprintf(subject, sizeof(subject), "fd %d", d->fd);
	va_start(args, format);
	say(c, d, text, sizeof(text), format, args);
	va_end(args);
	notice(c, code, subject, "%s", text);
}

static bool comes_along(const struct check *c, const FownEntry *owner)
{
	for (size_t i = 0; i < c->tree->count; i++)
		if (owner->pid == (uint32_t)(owner->pid_type == F_OWNER_PGRP ? c->tree->tasks[i].pgid : c->tree->tasks[i].pid) ||
		    (owner->pid_type == F_OWNER_TID && task_shares(owner->pid, c->tree->tasks[i].pid, KCMP_VM)))
			return true;
	return false;
}

static void check_owner(struct check *c, struct descriptor *d)
{
	owner_read(d);
	/* In the freeze the tree isn't asked once more. */
	if (c->flags & PHAUL_TO_DIRECTORY || !d->owner.pid || c->frozen || comes_along(c, &d->owner))
		return;
	refuse(c, d, "FD_OWNER",
	       "(%s) sends a signal to pid %d when it is ready (fcntl F_SETOWN), which stays on this host: "
	       "start the program without signal-driven I/O",
	       d->link, (int)d->owner.pid);
}

static void check_one(struct check *c, struct descriptor *d)
{
	if (!d->kind) {
		unmovable_refuse(c, d);
		return;
	}
	locks_check(c, d);
	check_owner(c, d);
	if (d->kind->check)
		d->kind->check(c, d);
}

static uint32_t highest_id(const struct descriptor_table *t)
{
	uint32_t highest = 0;

	for (size_t i = 0; i < t->count; i++)
		highest = t->at[i].id > highest ? t->at[i].id : highest;
	return highest;
}

/* Whether d has the lowest number of its description, in the first process that has it. */
static bool *first_numbers(const struct descriptor_table *t)
{
	bool *first = calloc(t->count + 1, sizeof(*first));
	const struct descriptor_table *before;
	uint32_t seen = 0, id;

	for (size_t i = 0; (before = descriptors_table(t, i)) && before != t; i++) {
		id = highest_id(before);
		seen = id > seen ? id : seen;
	}
	for (size_t i = 0; first && i < t->count; i++) {
		first[i] = t->at[i].id > seen;
		if (first[i])
			seen = t->at[i].id;
	}
	return first;
}

void descriptors_check(struct check *c)
{
	struct descriptor_table *t = c->descriptors;
	bool *first = first_numbers(t);

	for (size_t i = 0; first && i < t->count; i++) {
		/* A running program may have closed it meanwhile. */
		if (!first[i] || own_begin(t, &t->at[i], c->flags))
			continue;
		check_one(c, &t->at[i]);
		own_end(&t->at[i]);
	}
	free(first);
	pipe_holders_free(c);
}

/* ---- dumping ---- */

int file_put(struct dump *dump, const struct descriptor *d, FileEntry *file)
{
	int err;

	file->type = d->kind->type;
	file->id = d->id;
	dump_lock(dump);
	err = image_put(dump->images, "files", -1, &file->base);
	dump_unlock(dump);
	return err;
}

static int dump_number(struct dump *dump, const struct descriptor *d)
{
	FdinfoEntry entry = FDINFO_ENTRY__INIT;

	entry.id = d->id;
	entry.flags = d->cloexec ? FD_CLOEXEC : 0;
	entry.type = d->kind->type;
	entry.fd = d->fd;
	return image_put(dump->images, "fdinfo", dump->ns_pid, &entry.base);
}

/* What came after the check, when the process still ran, is refused here. */
static int check_again(struct dump *dump, struct check *c, struct descriptor *d)
{
	const char *sentence;

	check_one(c, d);
	if (!c->count)
		return 0;
	sentence = strchr(c->text, '\t');
	sentence = sentence ? strchr(sentence + 1, '\t') : NULL;
	return phaul_fail(dump->err, -EOPNOTSUPP, "descriptors", "%.*s",
			  sentence ? (int)strcspn(sentence + 1, "\n") : 64,
			  sentence ? sentence + 1 : "there is one that can't move");
}

static int dump_one(struct dump *dump, struct check *c, struct descriptor *d)
{
	int err = own_begin(dump->descriptors, d, dump->flags);

	if (err)
		return phaul_fail(dump->err, err, "descriptors", "duplicating fd %d (%s)", d->fd,
				  d->link);
	dump->err->code = 0;
	err = check_again(dump, c, d);
	if (!err)
		err = d->kind->dump(dump, d);
	own_end(d);
	if (err && !dump->err->code)
		phaul_fail(dump->err, err, "descriptors", "dumping fd %d (%s)", d->fd, d->link);
	return err;
}

/* By id: what other processes' descriptors, which were dumped before, turned out to be. With room for all. */
static const struct descriptor_kind **kinds_before(const struct descriptor_table *t)
{
	const struct descriptor_kind **kinds;
	const struct descriptor_table *other;
	uint32_t highest = 0, id;

	for (size_t i = 0; (other = descriptors_table(t, i)); i++) {
		id = highest_id(other);
		highest = id > highest ? id : highest;
	}
	kinds = calloc(highest + 1, sizeof(*kinds));
	for (size_t i = 0; kinds && (other = descriptors_table(t, i)) && other != t; i++)
		for (size_t j = 0; j < other->count; j++)
			kinds[other->at[j].id] = other->at[j].kind;
	return kinds;
}

static bool is_lowest(const struct descriptor_table *t, size_t at)
{
	for (size_t i = 0; i < at; i++)
		if (t->at[i].id == t->at[at].id)
			return false;
	return true;
}

/* ---- sockets, side by side ---- */

struct sockets {
	const struct dump *dump;
	struct descriptor **at;
	bool *dumped;			/* of all of the table */
	size_t count;
	pthread_mutex_t lock;
};

/* Sockets of other kinds are left to the one that knows no others. */
static int dump_inet(void *ctx, size_t index, struct phaul_error *err)
{
	struct sockets *s = ctx;
	struct descriptor *d = s->at[index];
	struct dump own = *s->dump;
	char text[8192] = "";
	struct check c = { .pid = own.pid, .flags = own.flags, .proc = -1, .frozen = true, .descriptors = own.descriptors,
			   .text = text, .capacity = sizeof(text) };
	int code = own_begin(own.descriptors, d, own.flags);

	own.err = err;
	own.lock = &s->lock;
	own.blocks = NULL;
	if (!code && d->kind == &inet_socket) {
		owner_read(d);
		code = inet_dump_connection(&own, d);
		code = code > 0 ? 0 : code ?: check_again(&own, &c, d) ?: inet_socket.dump(&own, d);
		s->dumped[d - own.descriptors->at] = true;
	}
	own_end(d);
	dump_free(&own);
	socket_defaults_free(&own.socket_defaults, s->dump->socket_defaults);
	return code && !err->code ? phaul_fail(err, code, "descriptors", "dumping fd %d (%s)", d->fd, d->link) : code;
}

/* A system call takes its time, and a connection takes some eighty. */
static int dump_sockets(struct dump *d, const bool *first, bool *dumped)
{
	struct descriptor_table *t = d->descriptors;
	struct sockets s = { .dump = d, .at = calloc(t->count + 1, sizeof(*s.at)), .dumped = dumped,
			     .lock = PTHREAD_MUTEX_INITIALIZER };
	int err = s.at ? 0 : -ENOMEM;

	for (size_t i = 0; i < t->count && !err; i++)
		if (first[i] && S_ISSOCK(t->at[i].st.st_mode) && !(t->at[i].flags & O_PATH))
			s.at[s.count++] = &t->at[i];
	if (!err && s.count > SOCKETS_WORTH_THREADS) {
		socket_defaults_prepare(&d->socket_defaults);
		err = parallel(s.count, dump_inet, &s, d->err);
	}
	free(s.at);
	return err;
}

int descriptors_dump(struct dump *d)
{
	struct descriptor_table *t = d->descriptors;
	struct phaul_error unwanted, *wanted = d->err;
	char text[8192] = "";
	struct check c = { .pid = d->pid, .flags = d->flags, .proc = -1, .frozen = true,
			   .descriptors = t, .text = text, .capacity = sizeof(text) };
	bool *first = first_numbers(t), *dumped = calloc(t->count + 1, sizeof(*dumped));
	const struct descriptor_kind **kinds = kinds_before(t);
	int err = first && kinds && dumped ? 0 : -ENOMEM;

	if (!d->err)
		d->err = &unwanted;
	err = err ?: dump_sockets(d, first, dumped);
	for (size_t i = 0; i < t->count && !err; i++) {
		if (first[i]) {
			c.size = 0;	/* notices were given in the check */
			err = dumped[i] ? 0 : dump_one(d, &c, &t->at[i]);
			kinds[t->at[i].id] = t->at[i].kind;
		}
		t->at[i].kind = kinds[t->at[i].id];
		/* Ours are not the process's, but wait to be received. */
		if (!err && t->pid != getpid() && !d->shares_files)
			err = dump_number(d, &t->at[i]);
		if (!err && !d->shares_files && strstr(t->at[i].fdinfo, "\nlock:"))
			err = locks_dump(d, &t->at[i], first[i], is_lowest(t, i));
	}
	socket_defaults_free(&d->socket_defaults, NULL);
	free(first);
	free(dumped);
	free(kinds);
	d->err = wanted;
	return err;
}

int descriptors_dump_queued(struct dump *d, struct descriptor_table *ours)
{
	struct dump of_ours = *d;
	int err;

	of_ours.pid = of_ours.ns_pid = ours->pid;
	of_ours.descriptors = ours;
	err = descriptors_dump(&of_ours);
	d->next_file_id = of_ours.next_file_id;
	d->blocks = of_ours.blocks;
	return err;
}
