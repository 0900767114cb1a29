/* tty_pair.c - pseudo terminals of the images: both ends, with their settings, and what waits in them. */
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tty_images.h"

int tty_infos_read(const struct image_set *images, TtyInfoEntry ***ret, size_t *count, struct phaul_error *err)
{
	ProtobufCMessage **all;
	int code = image_read_all(images, "tty-info", -1, &tty_info_entry__descriptor, &all, count);

	*ret = (TtyInfoEntry **)all;
	return code ? phaul_fail(err, code, "terminals", "reading tty-info.img") : 0;
}

const RegFileEntry *tty_name_of(const struct built_files *f, const FileEntry *file)
{
	uint32_t id = file->tty->has_regf_id ? file->tty->regf_id : file->id;

	return id < f->count && f->at[id] ? f->at[id]->reg : NULL;
}

const TtyInfoEntry *tty_info_of(const struct ttys *t, const FileEntry *file)
{
	for (size_t i = 0; i < t->count; i++)
		if (file && file->tty && t->infos[i]->id == file->tty->tty_info_id)
			return t->infos[i];
	return NULL;
}

bool tty_is_master(const TtyInfoEntry *e)
{
	return e->rdev == makedev(5, 2);
}

static int open_master(struct ttys *t, const char *path, uint32_t index, bool any)
{
	int fd = any ? -1 : tty_take_master(t->made, index);

	return fd < 0 ? tty_open_master(path, index, any, t->err) : fd;
}

static void set_termios(int fd, unsigned long request, const TermiosEntry *e)
{
	struct termios2 to = {
		.c_iflag = e->c_iflag, .c_oflag = e->c_oflag, .c_cflag = e->c_cflag, .c_lflag = e->c_lflag,
		.c_line = e->c_line, .c_ispeed = e->c_ispeed, .c_ospeed = e->c_ospeed,
	};

	for (size_t i = 0; i < e->n_c_cc && i < NCCS; i++)
		to.c_cc[i] = e->c_cc[i];
	(void)ioctl(fd, request, &to);
}

static void set_up(int fd, const TtyInfoEntry *e)
{
	struct winsize size;
	int on = 1;

	if (e->termios)
		set_termios(fd, TCSETS2, e->termios);
	if (e->termios_locked)
		set_termios(fd, TIOCSLCKTRMIOS, e->termios_locked);
	if (e->winsize) {
		size = (struct winsize){ e->winsize->ws_row, e->winsize->ws_col, e->winsize->ws_xpixel, e->winsize->ws_ypixel };
		(void)ioctl(fd, TIOCSWINSZ, &size);
	}
	if (e->packet_mode)
		(void)ioctl(fd, TIOCPKT, &on);
	if (e->locked)
		(void)ioctl(fd, TIOCSPTLCK, &on);
	if (e->exclusive)
		(void)ioctl(fd, TIOCEXCL, 0);
}

static int open_slave(struct ttys *t, const FileEntry *file, const TtyInfoEntry *e, int master)
{
	const RegFileEntry *reg = tty_name_of(t->f, file);
	int flags = (file->tty->flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC;
	unsigned int number = 0;
	char path[64];
	int fd;

	(void)ioctl(master, TIOCGPTN, &number);
	snprintf(path, sizeof(path), "/dev/pts/%u", number);
	fd = open(reg && number == e->pty->index ? reg->name : path, flags);
	if (fd < 0)
		return phaul_fail(t->err, -errno, "terminals", "opening %s", path);
	if (reg && (fchown(fd, e->uid, e->gid) < 0 || fchmod(fd, reg->mode & 07777) < 0)) {
		int err = phaul_fail(t->err, -errno, "terminals", "giving %s its owner", path);

		close(fd);
		return err;
	}
	return fd;
}

static int put_to_master(struct ttys *t, const TtyInfoEntry *e, int slave, uint32_t index)
{
	char path[32];
	int own = -1, err;

	snprintf(path, sizeof(path), "/dev/pts/%u", index);
	if (slave < 0)
		slave = own = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	err = slave < 0 ? -errno : tty_data_build(t->images, e->id, slave);
	if (own >= 0)
		close(own);
	return err ? phaul_fail(t->err, err, "terminals", "putting back what waits to be read from the master of %s", path) : 0;
}

/* Both ends of a pair, as far as the images have them. */
static int make_pair(struct ttys *t, const TtyInfoEntry *pair)
{
	struct built_files *f = t->f;
	uint32_t master_id = ~0u;
	const char *path = "/dev/ptmx";
	int master, slave = -1, err = 0, off = 0;

	for (size_t id = 0; id < f->count; id++) {
		const TtyInfoEntry *e = tty_info_of(t, f->at[id]);

		if (!e || !e->pty || e->pty->index != pair->pty->index || e->type != TTY_TYPE__PTY || !tty_is_master(e))
			continue;
		if (master_id != ~0u)
			return phaul_fail(t->err, -EPROTO, "terminals", "the master of /dev/pts/%u is open twice", pair->pty->index);
		master_id = id;
		path = tty_name_of(f, f->at[id]) ? tty_name_of(f, f->at[id])->name : path;
	}
	/* A slave whose master is closed has only its number's name. */
	master = open_master(t, path, pair->pty->index, master_id == ~0u);
	if (master < 0)
		return master;
	(void)ioctl(master, TIOCSPTLCK, &off);
	for (size_t id = 0; id < f->count && !err; id++) {
		const TtyInfoEntry *e = tty_info_of(t, f->at[id]);

		if (!e || !e->pty || e->pty->index != pair->pty->index || e->type != TTY_TYPE__PTY || tty_is_master(e))
			continue;
		f->made[id] = open_slave(t, f->at[id], e, master);
		if (f->made[id] >= 0)
			set_up(f->made[id], e);
		err = f->made[id] < 0 ? f->made[id] : tty_data_build(t->images, e->id, master);
		slave = f->made[id];
	}
	if (master_id != ~0u && !err)
		err = put_to_master(t, tty_info_of(t, f->at[master_id]), slave, pair->pty->index);
	if (master_id == ~0u || err) {
		close(master);
		return err;
	}
	set_up(master, tty_info_of(t, f->at[master_id]));
	f->made[master_id] = master;
	return 0;
}

int ttys_make(struct built_files *f, const struct image_set *images, struct tty_masters *made, struct phaul_error *err)
{
	struct ttys t = { .f = f, .images = images, .made = made, .err = err };
	int code = tty_infos_read(images, &t.infos, &t.count, err);

	for (size_t i = 0; i < t.count && !code; i++) {
		bool done = t.infos[i]->type != TTY_TYPE__PTY || !t.infos[i]->pty;

		for (size_t n = 0; n < i && !done; n++)
			done = t.infos[n]->type == TTY_TYPE__PTY && t.infos[n]->pty &&
			       t.infos[n]->pty->index == t.infos[i]->pty->index;
		code = done ? 0 : make_pair(&t, t.infos[i]);
	}
	image_free_all(t.infos, t.count);
	return code;
}
