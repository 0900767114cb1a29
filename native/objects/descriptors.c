/* descriptors.c - all descriptors of a process: checking them, dumping them. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "inet_socket.h"
#include "locks.h"
#include "socket_options.h"

#include "../parallel.h"
#include "../tree.h"

#define SOCKETS_WORTH_THREADS 32
#define CALLS_AT_ONCE 1024

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
		if (!first[i] || descriptor_own(t, &t->at[i], c->flags))
			continue;
		check_one(c, &t->at[i]);
		descriptor_disown(&t->at[i]);
	}
	free(first);
	pipe_holders_free(c);
}

/* ---- dumping ---- */

int descriptors_ask(struct dump *d, struct remote *leader)
{
	struct descriptor_table *t = d->descriptors;
	size_t asked = 0, answered = 0;
	int code = 0;

	while (answered < t->count && !code && !d->shares_files) {
		struct batch b;

		remote_area_reset(d->area);
		code = batch_begin(&b, d->area, leader, CALLS_AT_ONCE);
		for (; asked < t->count && b.count < CALLS_AT_ONCE; asked++)
			if (t->at[asked].asks_cloexec)
				batch_call(&b, "tell a flag of its descriptor", SYS_fcntl, t->at[asked].fd, F_GETFD);
		/* Most processes have no socket, and need not be run for that. */
		code = code ?: !b.count ? 0 : batch_run(&b, 1, d->err) ?: batch_check(&b, d->err);
		for (int call = 0; answered < asked && !code; answered++)
			if (t->at[answered].asks_cloexec)
				t->at[answered].cloexec = batch_result(&b, call++) & FD_CLOEXEC;
		batch_free(&b);
	}
	return code;
}

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
	int err = descriptor_own(dump->descriptors, d, dump->flags);

	if (err)
		return phaul_fail(dump->err, err, "descriptors", "duplicating fd %d (%s)", d->fd,
				  d->link);
	dump->err->code = 0;
	err = check_again(dump, c, d);
	if (!err)
		err = d->kind->dump(dump, d);
	descriptor_disown(d);
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
	int code = descriptor_own(own.descriptors, d, own.flags);

	own.err = err;
	own.lock = &s->lock;
	own.blocks = NULL;
	if (!code && d->kind == &inet_socket) {
		owner_read(d);
		code = inet_dump_connection(&own, d);
		code = code > 0 ? 0 : code ?: check_again(&own, &c, d) ?: inet_socket.dump(&own, d);
		s->dumped[d - own.descriptors->at] = true;
	}
	descriptor_disown(d);
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
		descriptor_disown(&t->at[i]);
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
