/* locks.c - locks on files: flock(2), and those of fcntl(2), of a process or of an open file description. */
#include "locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "locks.pb-c.h"

/* CRIU's numbers. */
enum { KIND_POSIX = 1, KIND_FLOCK = 2, KIND_OFD = 4, KIND_LEASE = 8 };

static const struct { const char *name; int kind; } kinds[] = {
	{ "POSIX", KIND_POSIX }, { "FLOCK", KIND_FLOCK }, { "OFDLCK", KIND_OFD }, { "LEASE", KIND_LEASE },
};

#define LEASE_BREAKING 4	/* beside the type that it is being broken to */

struct lock {
	int kind, type, breaking;
	long long start, len;
};

/* "lock:\t1: POSIX  ADVISORY  WRITE 12 00:2e:345 0 EOF"; returns what follows, NULL after the last. */
static const char *next_lock(const char *text, char name[16], struct lock *ret)
{
	char state[16], type[8], end[24];

	text = strstr(text, "lock:");
	if (!text || sscanf(text, "lock: %*d: %15s %15s %7s %*d %*s %lld %23s", name, state, type, &ret->start, end) != 5)
		return NULL;
	ret->breaking = !strcmp(state, "BREAKING") ? LEASE_BREAKING : 0;
	ret->kind = 0;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].name, name))
			ret->kind = kinds[i].kind;
	ret->type = !strcmp(type, "WRITE") ? F_WRLCK : !strcmp(type, "READ") ? F_RDLCK :
		    ret->breaking && !strcmp(type, "UNLCK") ? F_UNLCK : -1;
	ret->len = strcmp(end, "EOF") ? strtoll(end, NULL, 10) - ret->start + 1 : 0;
	return text + 5;
}

void locks_check(struct check *c, const struct descriptor *d)
{
	const char *text = d->fdinfo;
	char name[16];
	struct lock l;

	while ((text = next_lock(text, name, &l))) {
		if (c->flags & PHAUL_FILE_LOCKS && l.kind && l.type >= 0)
			continue;
		if (c->flags & PHAUL_TO_DIRECTORY && l.kind && l.type >= 0)
			refuse(c, d, "FD_LOCK",
			       "holds a %s lock on %s, which somebody else could take while the process exists only in a "
			       "directory; with --file-locks it is dumped all the same",
			       name, d->link);
		else
			refuse(c, d, "FD_LOCK",
			       "holds a %s lock on %s: locks are not moved yet, and without it two programs "
			       "could write there; let the program give it back, or stop it",
			       name, d->link);
		return;
	}
}

/* Locks of a description are told at each of its numbers, those of a process at its own. */
int locks_dump(struct dump *dump, const struct descriptor *d, bool first_of_all, bool first_of_process)
{
	const char *text = d->fdinfo;
	char name[16];
	struct lock l;
	int err = 0;

	while (!err && (text = next_lock(text, name, &l))) {
		FileLockEntry entry = FILE_LOCK_ENTRY__INIT;

		if (l.kind == KIND_POSIX ? !first_of_process : !first_of_all)
			continue;
		entry.flag = l.kind;
		entry.type = l.type | l.breaking;
		entry.pid = dump->ns_pid;
		entry.fd = d->fd;
		entry.start = l.start;
		entry.len = l.len;
		err = image_put(dump->images, "filelocks", -1, &entry.base);
	}
	return err;
}

/* Somebody wanted the file, and the holder was told: this time it isn't told again. */
static int add_breaking(struct call_stream *s, const FileLockEntry *e)
{
	struct build *b = s->build;
	const FileEntry *file = NULL;
	struct f_owner_ex owner = { F_OWNER_PID, b->pid };
	char path[32];
	int err, broken_to = e->type & ~LEASE_BREAKING;

	for (size_t i = 0; i < b->number_count && !file; i++)
		if ((int)b->numbers[i]->fd == e->fd)
			file = b->files->at[b->numbers[i]->id];
	if (!file || !file->reg)
		return -EPROTO;
	if (file->reg->fown && file->reg->fown->pid)
		owner = (struct f_owner_ex){ file->reg->fown->pid_type, file->reg->fown->pid };
	snprintf(path, sizeof(path), "/proc/self/fd/%d", e->fd);
	for (int i = 0; i < 4; i++) {
		err = call_stream_room(s, sizeof(path) + sizeof(owner));
		if (err)
			return err;
		if (i == 0)
			batch_call(&s->batch, "take a lease of a file again, which somebody else may have open", SYS_fcntl, e->fd,
				   F_SETLEASE, (file->reg->flags & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_WRLCK);
		else if (i == 1)
			batch_call(&s->batch, "take a lease's owner away", SYS_fcntl, e->fd, F_SETOWN, 0);
		else if (i == 2)
			batch_call(&s->batch, NULL, SYS_openat, AT_FDCWD, batch_bytes(&s->batch, path, strlen(path) + 1),
				   (broken_to == F_RDLCK ? O_RDONLY : O_WRONLY) | O_NONBLOCK);
		else
			batch_call(&s->batch, "name a lease's owner", SYS_fcntl, e->fd, F_SETOWN_EX,
				   batch_bytes(&s->batch, &owner, sizeof(owner)));
	}
	return 0;
}

static int add(struct call_stream *s, const FileLockEntry *e)
{
	struct flock lock = { .l_type = e->type, .l_whence = SEEK_SET, .l_start = e->start, .l_len = e->len };
	int err = call_stream_room(s, sizeof(lock));

	if (e->flag == KIND_LEASE)
		batch_call(&s->batch, "take a lease of a file again, which somebody else may have open meanwhile", SYS_fcntl, e->fd,
			   F_SETLEASE, e->type);
	else if (e->flag == KIND_FLOCK)
		batch_call(&s->batch, "take a lock on a file again (flock), which somebody else may have taken meanwhile",
			   SYS_flock, e->fd, (e->type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB);
	else
		batch_call(&s->batch, "take a lock on a file again (fcntl), which somebody else may have taken meanwhile",
			   SYS_fcntl, e->fd, e->flag == KIND_OFD ? F_OFD_SETLK : F_SETLK,
			   batch_bytes(&s->batch, &lock, sizeof(lock)));
	return err;
}

int locks_build(struct build *b, struct call_stream *s)
{
	ProtobufCMessage **entries;
	size_t count;
	int err = image_read_all(b->images, "filelocks", -1, &file_lock_entry__descriptor, &entries, &count);

	for (size_t i = 0; i < count && !err; i++) {
		const FileLockEntry *e = (FileLockEntry *)entries[i];

		if (e->pid != b->pid)
			continue;
		if ((e->flag != KIND_POSIX && e->flag != KIND_FLOCK && e->flag != KIND_OFD && e->flag != KIND_LEASE) ||
		    (e->type > F_WRLCK && e->flag != KIND_LEASE))
			err = phaul_fail(b->err, -EOPNOTSUPP, "locks", "filelocks.img: a lock of kind %u and type %u on fd %d "
					 "of pid %d can't be made here", e->flag, e->type, e->fd, e->pid);
		else
			err = e->type & LEASE_BREAKING ? add_breaking(s, e) : add(s, e);
	}
	image_free_all(entries, count);
	return err;
}
