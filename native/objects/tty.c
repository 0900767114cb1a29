/* tty.c - descriptors of terminals: pseudo terminals with both ends or without a master, /dev/tty, consoles by their name. What
 * waits in them is tty_data.c's.
 */
#include "tty.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proc_stat.h"
#include "tty_images.h"

static bool is_master(const struct descriptor *d)
{
	return d->st.st_rdev == makedev(5, 2);
}

static bool is(const struct descriptor *d)
{
	unsigned int type = major(d->st.st_rdev);

	return S_ISCHR(d->st.st_mode) && !(d->flags & O_PATH) && (tty_is_slave(d->st.st_rdev) || type == 4 || type == 5);
}

/* Of the pair that a description belongs to; /dev/tty stands for another terminal. */
static bool pty_index(const struct descriptor *d, uint32_t *ret)
{
	unsigned int device = 0;
	uint64_t index;

	if (is_master(d)) {
		if (!fdinfo_number(d, "tty-index", 10, &index))
			return false;
		*ret = index;
		return true;
	}
	if (tty_is_slave(d->st.st_rdev)) {
		*ret = tty_slave_index(d->st.st_rdev);
		return true;
	}
	if (d->st.st_rdev != makedev(5, 0) || d->own < 0 || ioctl(d->own, TIOCGDEV, &device) < 0)
		return false;
	*ret = tty_slave_index(makedev(device >> 8 & 0xfff, (device & 0xff) | (device >> 12 & 0xfff00)));
	return true;
}

/* The kernel marks the name of a slave whose master is closed. */
static bool is_hung_up(const struct descriptor *d)
{
	return tty_is_slave(d->st.st_rdev) && strstr(d->link, " (deleted)");
}

static bool has_master(const struct descriptor_table *t, uint32_t index)
{
	const struct descriptor_table *table;
	uint32_t other;

	for (size_t n = 0; (table = descriptors_table(t, n)); n++)
		for (size_t i = 0; i < table->count; i++)
			if (is(&table->at[i]) && is_master(&table->at[i]) && pty_index(&table->at[i], &other) && other == index)
				return true;
	return false;
}

static void check(struct check *c, const struct descriptor *d)
{
	uint32_t index;

	if (pty_index(d, &index) && !is_hung_up(d) && !has_master(c->descriptors, index))
		refuse(c, d, "FD_TERMINAL",
		       "is a terminal, %s, whose other side (a terminal window, sshd, tmux) is not below the process, and stays here: "
		       "name the one that has it (script, tmux), or start the program apart from a terminal: setsid PROGRAM "
		       "</dev/null >/tmp/log 2>&1 &",
		       d->link);
}

/* ---- dump ---- */

static enum _TtyType type_of(const struct descriptor *d)
{
	if (is_master(d) || tty_is_slave(d->st.st_rdev))
		return TTY_TYPE__PTY;
	if (major(d->st.st_rdev) == 5)
		return minor(d->st.st_rdev) == 0 ? TTY_TYPE__CTTY : TTY_TYPE__CONSOLE;
	return minor(d->st.st_rdev) < 64 ? TTY_TYPE__VT : TTY_TYPE__SERIAL;
}

/* Both ends have one each, other terminals too. */
static uint32_t info_id(const struct descriptor *d, uint32_t index)
{
	uint32_t device = major(d->st.st_rdev) << 12 | minor(d->st.st_rdev);

	return type_of(d) == TTY_TYPE__PTY ? 2 * index + is_master(d) + 2 : 1u << 30 | device;
}

static bool is_known(const struct image_set *images, uint32_t id)
{
	ProtobufCMessage **all;
	size_t count;
	bool found = false;

	if (image_read_all(images, "tty-info", -1, &tty_info_entry__descriptor, &all, &count))
		return false;
	for (size_t i = 0; i < count; i++)
		found |= ((TtyInfoEntry *)all[i])->id == id;
	image_free_all(all, count);
	return found;
}

/* The session and the process group that have it, if they are in the tree. */
static void find_session(const struct descriptor_table *t, uint32_t index, TtyInfoEntry *to)
{
	unsigned int type = PTY_FIRST + index / 256, number = index % 256;
	const struct descriptor_table *table;
	struct proc_stat s;

	for (size_t n = 0; (table = descriptors_table(t, n)); n++) {
		if (proc_stat_read(table->pid, &s) || s.field[STAT_TTY] != (type << 8 | number))
			continue;
		if (s.field[STAT_SID] == (uint64_t)table->pid) {
			to->sid = table->pid;
			to->pgrp = (int64_t)s.field[STAT_TPGID] > 0 ? s.field[STAT_TPGID] : 0;
		}
	}
}

static void fill_termios(TermiosEntry *to, const struct termios2 *from, uint32_t cc[NCCS])
{
	termios_entry__init(to);
	to->c_iflag = from->c_iflag;
	to->c_oflag = from->c_oflag;
	to->c_cflag = from->c_cflag;
	to->c_lflag = from->c_lflag;
	to->c_line = from->c_line;
	to->c_ispeed = from->c_ispeed;
	to->c_ospeed = from->c_ospeed;
	for (int i = 0; i < NCCS; i++)
		cc[i] = from->c_cc[i];
	to->n_c_cc = NCCS;
	to->c_cc = cc;
}

static int put_info(struct dump *dump, const struct descriptor *d, uint32_t id, bool has_index, uint32_t index)
{
	TtyInfoEntry info = TTY_INFO_ENTRY__INIT;
	TermiosEntry termios, locked;
	WinsizeEntry size = WINSIZE_ENTRY__INIT;
	TtyPtyEntry pty = TTY_PTY_ENTRY__INIT;
	uint32_t cc[NCCS], locked_cc[NCCS];
	struct termios2 now = { 0 };
	struct winsize window = { 0 };
	int flag = 0;

	info.id = id;
	info.type = type_of(d);
	info.rdev = d->st.st_rdev;
	info.has_uid = info.has_gid = true;
	info.uid = d->st.st_uid;
	info.gid = d->st.st_gid;
	if (!ioctl(d->own, TCGETS2, &now)) {
		fill_termios(&termios, &now, cc);
		info.termios = &termios;
	}
	memset(&now, 0, sizeof(now));
	if (!ioctl(d->own, TIOCGLCKTRMIOS, &now)) {
		fill_termios(&locked, &now, locked_cc);
		info.termios_locked = &locked;
	}
	if (!ioctl(d->own, TIOCGWINSZ, &window)) {
		size.ws_row = window.ws_row;
		size.ws_col = window.ws_col;
		size.ws_xpixel = window.ws_xpixel;
		size.ws_ypixel = window.ws_ypixel;
		info.winsize = &size;
	}
	info.exclusive = !ioctl(d->own, TIOCGEXCL, &flag) && flag;
	info.locked = is_master(d) && !ioctl(d->own, TIOCGPTLCK, &flag) && flag;
	info.packet_mode = is_master(d) && !ioctl(d->own, TIOCGPKT, &flag) && flag;
	if (has_index) {
		pty.index = index;
		info.pty = &pty;
		find_session(dump->descriptors, index, &info);
	}
	return image_put(dump->images, "tty-info", -1, &info.base);
}

/* The other end, ours: of a slave its master, of a master any slave. */
static int other_end(const struct dump *dump, const struct descriptor *d, uint32_t index)
{
	const struct descriptor_table *table;
	uint32_t other;
	char path[32];

	snprintf(path, sizeof(path), "/dev/pts/%u", index);
	if (is_master(d))
		return open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	for (size_t n = 0; (table = descriptors_table(dump->descriptors, n)); n++)
		for (size_t i = 0; i < table->count; i++)
			if (is(&table->at[i]) && is_master(&table->at[i]) && pty_index(&table->at[i], &other) && other == index)
				return syscall(SYS_pidfd_getfd, table->pidfd, table->at[i].fd, 0);
	return -1;
}

static int put_data(struct dump *dump, const struct descriptor *d, uint32_t id, uint32_t index)
{
	int other = other_end(dump, d, index), err;

	if (other < 0)
		return 0;
	err = tty_data_dump(dump, id, d->own, other);
	close(other);
	return err;
}

static int put_name(struct dump *dump, const struct descriptor *d, uint32_t id)
{
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	char name[PATH_MAX];
	char *mark;

	snprintf(name, sizeof(name), "%s", d->link);
	mark = is_hung_up(d) ? strstr(name, " (deleted)") : NULL;
	if (mark)
		*mark = 0;
	reg.id = file.id = id;
	reg.flags = d->flags;
	reg.fown = file_owner(d);
	reg.name = name;
	reg.has_mode = true;
	reg.mode = d->st.st_mode;
	file.type = FD_TYPES__REG;
	file.reg = &reg;
	return image_put(dump->images, "files", -1, &file.base);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	TtyFileEntry tty = TTY_FILE_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	uint32_t index = 0;
	bool has_index = pty_index(d, &index);
	int err;

	tty.id = d->id;
	tty.flags = d->flags;
	tty.fown = file_owner(d);
	tty.tty_info_id = info_id(d, index);
	tty.has_regf_id = true;
	tty.regf_id = dump->next_file_id++;
	file.tty = &tty;
	err = is_known(dump->images, tty.tty_info_id) ? 0 : put_info(dump, d, tty.tty_info_id, has_index, index) ?:
	      type_of(d) == TTY_TYPE__PTY && has_index ? put_data(dump, d, tty.tty_info_id, index) : 0;
	return err ?: put_name(dump, d, tty.regf_id) ?: file_put(dump, d, &file);
}

/* ---- build ---- */

/* What can be opened here; in its place /dev/tty is opened by the process itself. */
static int build(struct build *b, const FileEntry *file)
{
	const RegFileEntry *reg = tty_name_of(b->files, file);
	int fd;

	if (!reg)
		return -EPROTO;
	if (!strcmp(reg->name, "/dev/tty"))
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	else
		fd = open(reg->name, (file->tty->flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? phaul_fail(b->err, -errno, "terminals", "opening %s for fd %d", reg->name, file_number(b, file->id)) :
	       file_set_flags(b, fd, file->tty->flags);
}

/* The lowest number that is free, which open() gets. */
static int open_own(struct call_stream *s, int fd, const FdinfoEntry *number, int flags)
{
	static const char path[] = "/dev/tty";
	int err = call_stream_room(s, sizeof(path));

	batch_call(&s->batch, "open /dev/tty, the terminal of its session", SYS_openat, AT_FDCWD,
		   batch_bytes(&s->batch, path, sizeof(path)), flags);
	err = err ?: call_stream_room(s, 0);
	batch_call(&s->batch, "put a descriptor on its number", SYS_dup3, fd, number->fd,
		   number->flags & FD_CLOEXEC ? O_CLOEXEC : 0);
	err = err ?: call_stream_room(s, 0);
	batch_call(&s->batch, "close a number in between", SYS_close, fd);
	return err;
}

int ttys_finish(struct build *b, struct call_stream *s, int free_number)
{
	int err = 0;

	for (size_t i = 0; i < b->number_count && !err; i++) {
		const FileEntry *file = b->files->at[b->numbers[i]->id];
		const RegFileEntry *reg = file->tty ? tty_name_of(b->files, file) : NULL;

		if (reg && !strcmp(reg->name, "/dev/tty"))
			err = open_own(s, free_number, b->numbers[i], file->tty->flags & (O_ACCMODE | O_NONBLOCK));
	}
	return err;
}

const struct descriptor_kind tty_kind = {
	.name = "a terminal",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__TTY,
};
