/* locks.c - locks on files: flock(2), and those of fcntl(2), of a process or of an open file description. */
#include "locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../tree.h"
#include "locks.pb-c.h"

/* CRIU's numbers. */
enum { KIND_POSIX = 1, KIND_FLOCK = 2, KIND_OFD = 4, KIND_LEASE = 8 };

static const struct { const char *name; int kind; } kinds[] = {
	{ "POSIX", KIND_POSIX }, { "FLOCK", KIND_FLOCK }, { "OFDLCK", KIND_OFD }, { "LEASE", KIND_LEASE },
};

#define CODE_PAGE 4096		/* of an area */
#define LEASE_BREAKING 4	/* beside the type that it is being broken to */

static int kind_of(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return kinds[i].kind;
	return 0;
}

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
	ret->kind = kind_of(name);
	ret->type = !strcmp(type, "WRITE") ? F_WRLCK : !strcmp(type, "READ") ? F_RDLCK :
		    ret->breaking && !strcmp(type, "UNLCK") ? F_UNLCK : -1;
	ret->len = strcmp(end, "EOF") ? strtoll(end, NULL, 10) - ret->start + 1 : 0;
	return text + 5;
}

/* Somebody outside who waits for a lock on the file; of the host's processes the kernel tells. */
static pid_t waiting_outside(const struct check *c, const struct descriptor *d)
{
	FILE *all = fopen("/proc/locks", "re");
	char line[256];
	unsigned int major, minor;
	unsigned long ino;
	pid_t found = 0;
	int pid;

	while (all && !found && fgets(line, sizeof(line), all))
		if (sscanf(line, "%*d: -> %*s %*s %*s %d %x:%x:%lu", &pid, &major, &minor, &ino) == 4 && pid > 0 &&
		    ino == d->st.st_ino && makedev(major, minor) == d->st.st_dev && !tree_has(c->tree, pid))
			found = pid;
	if (all)
		fclose(all);
	return found;
}

static void check_wanted(struct check *c, const struct descriptor *d)
{
	pid_t waiting = c->frozen ? 0 : waiting_outside(c, d);

	if (waiting)
		refuse(c, d, "FD_LOCK",
		       "holds a lock on %s, for which pid %d waits: it would get the lock while the process moves; end it first",
		       d->link, waiting);
}

void locks_check(struct check *c, const struct descriptor *d)
{
	const char *text = d->fdinfo;
	char name[16];
	struct lock l;

	while ((text = next_lock(text, name, &l))) {
		if ((c->flags & PHAUL_FILE_LOCKS || !(c->flags & PHAUL_TO_DIRECTORY)) && l.kind && l.type >= 0)
			continue;
		if (l.kind && l.type >= 0)
			refuse(c, d, "FD_LOCK",
			       "holds a %s lock on %s, which somebody else could take while the process exists only in a "
			       "directory; with --file-locks it is dumped all the same",
			       name, d->link);
		else
			refuse(c, d, "FD_LOCK",
			       "holds a lock of an unknown kind (%s) on %s, without which two programs could write there; let the "
			       "program give it back, or stop it",
			       name, d->link);
		return;
	}
	if (strstr(d->fdinfo, "\nlock:") && !(c->flags & PHAUL_TO_DIRECTORY))
		check_wanted(c, d);
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

/* ---- taking them ---- */

static bool is_known(const FileLockEntry *e)
{
	return (e->flag == KIND_POSIX || e->flag == KIND_FLOCK || e->flag == KIND_OFD || e->flag == KIND_LEASE) &&
	       (e->type <= F_WRLCK || e->flag == KIND_LEASE);
}

int locks_read(const struct image_set *images, pid_t pid, struct file_lock **ret, size_t *ret_count, struct phaul_error *err)
{
	ProtobufCMessage **entries;
	size_t count;
	int code = image_read_all(images, "filelocks", -1, &file_lock_entry__descriptor, &entries, &count);

	*ret_count = 0;
	*ret = code ? NULL : calloc(count + 1, sizeof(**ret));
	if (!code && !*ret)
		code = -ENOMEM;
	for (size_t i = 0; i < count && !code; i++) {
		const FileLockEntry *e = (FileLockEntry *)entries[i];

		if (e->pid != pid)
			continue;
		if (!is_known(e))
			code = phaul_fail(err, -EOPNOTSUPP, "locks", "filelocks.img: a lock of kind %u and type %u on fd %d of pid %d can't "
					  "be made here", e->flag, e->type, e->fd, e->pid);
		(*ret)[(*ret_count)++] = (struct file_lock){
			.pid = e->pid, .fd = e->fd, .kind = e->flag, .type = e->type & ~LEASE_BREAKING,
			.breaking = e->type & LEASE_BREAKING, .start = e->start, .len = e->len,
		};
	}
	image_free_all(entries, count);
	if (code) {
		free(*ret);
		*ret = NULL;
		*ret_count = 0;
	}
	return code;
}

static int put_bytes(const struct remote *r, remote_addr at, const void *bytes, size_t size)
{
	struct iovec local = { (void *)bytes, size }, remote = { (void *)at, size };

	return process_vm_writev(r->tid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : -EFAULT;
}

/* Somebody wanted the file, and the holder was told: this time it isn't told again. */
static int64_t take_breaking(struct remote *r, remote_addr scratch, const struct file_lock *l)
{
	char path[32];
	int64_t flags = remote_call(r, SYS_fcntl, l->fd, F_GETFL), fd;
	int64_t err = remote_call(r, SYS_fcntl, l->fd, F_GETOWN_EX, scratch + sizeof(path)) ?:
		      remote_call(r, SYS_fcntl, l->fd, F_SETLEASE, (flags & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_WRLCK) ?:
		      remote_call(r, SYS_fcntl, l->fd, F_SETOWN, 0);

	if (err)
		return err;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", l->fd);
	err = put_bytes(r, scratch, path, sizeof(path));
	fd = err ? err : remote_call(r, SYS_openat, AT_FDCWD, scratch, (l->type == F_RDLCK ? O_RDONLY : O_WRONLY) | O_NONBLOCK);
	if (fd >= 0)
		(void)remote_call(r, SYS_close, fd);
	return remote_call(r, SYS_fcntl, l->fd, F_SETOWN_EX, scratch + sizeof(path));
}

int64_t lock_apply(struct remote *r, remote_addr scratch, const struct file_lock *l, bool take)
{
	struct flock lock = { .l_type = take ? l->type : F_UNLCK, .l_whence = SEEK_SET, .l_start = l->start, .l_len = l->len };
	int64_t err;

	if (l->kind == KIND_LEASE)
		return take && l->breaking ? take_breaking(r, scratch, l) :
					     remote_call(r, SYS_fcntl, l->fd, F_SETLEASE, take ? l->type : F_UNLCK);
	if (l->kind == KIND_FLOCK)
		return remote_call(r, SYS_flock, l->fd, (!take ? LOCK_UN : l->type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB);
	err = put_bytes(r, scratch, &lock, sizeof(lock));
	return err ? err : remote_call(r, SYS_fcntl, l->fd, l->kind == KIND_OFD ? F_OFD_SETLK : F_SETLK, scratch);
}

static const char *kind_name(int kind)
{
	return kind == KIND_FLOCK ? "flock" : kind == KIND_LEASE ? "lease" : "fcntl";
}

/* What the lock is on, as the process has it. */
static void file_of(const struct file_lock *l, char ret[128], struct stat *ret_st)
{
	char path[48];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", l->pid, l->fd);
	n = readlink(path, ret, 127);
	ret[n > 0 ? n : 0] = 0;
	if (stat(path, ret_st) < 0)
		memset(ret_st, 0, sizeof(*ret_st));
}

/* A process of this host that has a lock of this kind on the file. The kernel tells of no other's. */
static pid_t holder_here(const struct file_lock *l, const struct stat *st)
{
	FILE *all = fopen("/proc/locks", "re");
	char line[256], kind[16];
	unsigned int major, minor;
	unsigned long ino;
	pid_t found = 0;
	int pid;

	while (all && !found && fgets(line, sizeof(line), all))
		if (sscanf(line, "%*d: %15s %*s %*s %d %x:%x:%lu", kind, &pid, &major, &minor, &ino) == 5 && pid > 0 &&
		    pid != l->pid && ino == st->st_ino && makedev(major, minor) == st->st_dev && kind_of(kind) == l->kind)
			found = pid;
	if (all)
		fclose(all);
	return found;
}

/* Until the release the process that moves may have it still, if both hosts have the file from the same place. */
static int leave_for_later(struct build *b, const struct file_lock *l)
{
	struct file_lock *larger = reallocarray(b->files->late_locks, b->files->late_lock_count + 1, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	b->files->late_locks = larger;
	larger[b->files->late_lock_count++] = *l;
	return 0;
}

static int refused(struct build *b, const struct file_lock *l, int64_t code)
{
	char name[128];
	struct stat st;
	pid_t holder;

	if (code != -EAGAIN && code != -EACCES && code != -EBUSY)
		return phaul_fail(b->err, code, "locks", "taking a lock (%s) on fd %d of pid %d again", kind_name(l->kind), l->fd, l->pid);
	file_of(l, name, &st);
	holder = holder_here(l, &st);
	if (b->files->moves && !holder)
		return leave_for_later(b, l);
	if (holder)
		return phaul_fail(b->err, -EBUSY, "locks", "pid %d holds a lock (%s) on %s, and on this host pid %d does: end that first",
				  l->pid, kind_name(l->kind), name, holder);
	return phaul_fail(b->err, -EBUSY, "locks", "pid %d holds a lock (%s) on %s, which somebody else has taken meanwhile", l->pid,
			  kind_name(l->kind), name);
}

int locks_build(struct build *b)
{
	struct file_lock *locks;
	size_t count;
	int err = locks_read(b->images, b->pid, &locks, &count, b->err);

	for (size_t i = 0; i < count && !err; i++) {
		int64_t code = lock_apply(b->leader, b->area->at + CODE_PAGE, &locks[i], true);

		err = code < 0 ? refused(b, &locks[i], code) : 0;
	}
	free(locks);
	return err;
}

/* ---- of a process that is complete ---- */

int locks_apply(pid_t pid, remote_addr syscall_at, remote_addr hint, const struct file_lock *locks, size_t count, bool take,
		int64_t *ret)
{
	struct remote_area area;
	struct remote r;
	bool any = false;
	int err;

	for (size_t i = 0; i < count; i++)
		any |= locks[i].pid == pid;
	err = any ? remote_begin(&r, pid, syscall_at) : 0;
	if (err || !any)
		return err;
	err = remote_area_map(&r, hint, 2 * CODE_PAGE, &area);
	for (size_t i = 0; i < count && !err; i++)
		if (locks[i].pid == pid)
			ret[i] = lock_apply(&r, area.at + CODE_PAGE, &locks[i], take);
	return (err ? err : remote_area_unmap(&r, &area)) ?: remote_end(&r);
}

int lock_note(const struct file_lock *l, char *ret, size_t size)
{
	return snprintf(ret, size, "%d %d %d %d %d %lld %lld\n", l->pid, l->fd, l->kind, l->type, l->breaking, (long long)l->start,
			(long long)l->len);
}

int locks_parse(const char *lines, struct file_lock **ret, size_t *ret_count)
{
	size_t count = 0;
	struct file_lock *at;

	for (const char *c = lines; *c; c++)
		count += *c == '\n';
	*ret = at = calloc(count + 1, sizeof(*at));
	*ret_count = 0;
	if (!at)
		return -ENOMEM;
	for (; *lines; lines = strchr(lines, '\n') + 1) {
		struct file_lock *l = &at[*ret_count];
		long long start, len;
		int breaking;

		if (!strchr(lines, '\n') ||
		    sscanf(lines, "%d %d %d %d %d %lld %lld", &l->pid, &l->fd, &l->kind, &l->type, &breaking, &start, &len) != 7) {
			free(at);
			*ret = NULL;
			return -EPROTO;
		}
		l->breaking = breaking;
		l->start = start;
		l->len = len;
		++*ret_count;
	}
	return 0;
}

void lock_describe(const struct file_lock *l, char *ret, size_t size)
{
	char name[128];
	struct stat st;

	file_of(l, name, &st);
	snprintf(ret, size, "fd %d of pid %d (%s, %s)", l->fd, l->pid, name, kind_name(l->kind));
}
