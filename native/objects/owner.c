/* owner.c - who gets a signal when a descriptor is ready: fcntl F_SETOWN, F_SETSIG. */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

void owner_read(struct descriptor *d)
{
	struct f_owner_ex owner = { 0 };
	uid_t uids[2] = { 0 };

	fown_entry__init(&d->owner);
	if (d->own < 0 || d->flags & O_PATH || fcntl(d->own, F_GETOWN_EX, &owner) < 0)
		return;
	d->owner.signum = fcntl(d->own, F_GETSIG);
	if (!owner.pid)
		return;
	(void)fcntl(d->own, F_GETOWNER_UIDS, uids);
	d->owner.pid_type = owner.type;
	d->owner.pid = owner.pid;
	d->owner.uid = uids[0];
	d->owner.euid = uids[1];
}

/* Those of a named pipe are with its name. */
static const FileEntry *described_by(const struct build *b, const FileEntry *f)
{
	uint32_t id = f->fifo && f->fifo->has_regf_id ? f->fifo->regf_id : f->id;

	return id < b->files->count && b->files->at[id] ? b->files->at[id] : f;
}

static const FownEntry *owner_of(const FileEntry *f)
{
	return f->reg ? f->reg->fown : f->pipe ? f->pipe->fown : f->isk ? f->isk->fown : f->usk ? f->usk->fown : f->nlsk ? f->nlsk->fown :
	       f->ify ? f->ify->fown : f->ffy ? f->ffy->fown :
	       f->memfd ? f->memfd->fown : f->tty ? f->tty->fown : f->efd ? f->efd->fown : f->epfd ? f->epfd->fown : f->sgfd ? f->sgfd->fown : f->tfd ? f->tfd->fown : NULL;
}

static uint32_t flags_of(const FileEntry *f)
{
	return f->reg ? f->reg->flags : f->pipe ? f->pipe->flags : f->isk ? f->isk->flags : f->usk ? f->usk->flags :
	       f->memfd ? f->memfd->flags : f->tty ? f->tty->flags : f->ify ? f->ify->flags : 0;
}

/* The kernel remembers whose rights the owner was named with: the calling thread's. */
static int set_owner(const FownEntry *owner, int fd)
{
	struct f_owner_ex to = { .type = owner->pid_type, .pid = owner->pid };
	bool other = owner->uid || owner->euid;
	int err;

	if (other && syscall(SYS_setresuid, owner->uid, owner->euid, 0) < 0)
		return -errno;
	err = fcntl(fd, F_SETOWN_EX, &to) < 0 ? -errno : 0;
	if (other && syscall(SYS_setresuid, 0, 0, 0) < 0)
		err = -errno;
	return err;
}

int owner_build(struct build *b, const FileEntry *file, int fd)
{
	const FileEntry *described = described_by(b, file);
	const FownEntry *owner = owner_of(described);
	int err = 0;

	if (owner && owner->pid)
		err = set_owner(owner, fd);
	if ((!err || err == -ESRCH) && owner && owner->signum && fcntl(fd, F_SETSIG, owner->signum) < 0)
		err = -errno;
	/* One that has ended gets none. */
	err = err == -ESRCH ? 0 : err;
	return err ? phaul_fail(b->err, err, "descriptors", "naming process %u as the owner of fd %d, to which signals go when it "
				"is ready", owner ? owner->pid : 0, file_number(b, file->id)) : 0;
}

/* The signal tells the number by which the process has asked for it. */
int owner_finish(struct call_stream *s, const FileEntry *file, int fd)
{
	uint32_t flags = flags_of(described_by(s->build, file));
	int err = flags & O_ASYNC ? call_stream_room(s, 0) : 0;

	if (flags & O_ASYNC && !err)
		batch_call(&s->batch, "ask for a signal when a descriptor is ready", SYS_fcntl, fd, F_SETFL,
			   flags & (O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | O_ASYNC));
	return err;
}
