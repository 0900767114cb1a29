/* tty.c - terminals: pseudo terminals with both ends or without a master, /dev/tty, consoles by their name. What
 * waits in them is tty_data.c's.
 */
#include "tty.h"

#include <asm/termbits.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../husk.h"
#include "../tree.h"
#include "proc_stat.h"
#include "tty.pb-c.h"

#define MASTERS_MAX 4096	/* kernel.pty.max */
#define PTY_FIRST 136		/* majors of slaves */
#define PTY_LAST 143

static bool is_master(const struct descriptor *d)
{
	return d->st.st_rdev == makedev(5, 2);
}

static bool is_slave(dev_t device)
{
	return major(device) >= PTY_FIRST && major(device) <= PTY_LAST;
}

static bool is(const struct descriptor *d)
{
	unsigned int type = major(d->st.st_rdev);

	return S_ISCHR(d->st.st_mode) && !(d->flags & O_PATH) && (is_slave(d->st.st_rdev) || type == 4 || type == 5);
}

static uint32_t slave_index(dev_t device)
{
	return (major(device) - PTY_FIRST) * 256 + minor(device);
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
	if (is_slave(d->st.st_rdev)) {
		*ret = slave_index(d->st.st_rdev);
		return true;
	}
	if (d->st.st_rdev != makedev(5, 0) || d->own < 0 || ioctl(d->own, TIOCGDEV, &device) < 0)
		return false;
	*ret = slave_index(makedev(device >> 8 & 0xfff, (device & 0xff) | (device >> 12 & 0xfff00)));
	return true;
}

/* The kernel marks the name of a slave whose master is closed. */
static bool is_hung_up(const struct descriptor *d)
{
	return is_slave(d->st.st_rdev) && strstr(d->link, " (deleted)");
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
	if (is_master(d) || is_slave(d->st.st_rdev))
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

struct ttys {
	struct built_files *f;
	const struct image_set *images;
	struct tty_masters *made;
	TtyInfoEntry **infos;
	size_t count;
	struct phaul_error *err;
};

static int read_infos(const struct image_set *images, TtyInfoEntry ***ret, size_t *count, struct phaul_error *err)
{
	ProtobufCMessage **all;
	int code = image_read_all(images, "tty-info", -1, &tty_info_entry__descriptor, &all, count);

	*ret = (TtyInfoEntry **)all;
	return code ? phaul_fail(err, code, "terminals", "reading tty-info.img") : 0;
}

static const RegFileEntry *name_of(const struct built_files *f, const FileEntry *file)
{
	uint32_t id = file->tty->has_regf_id ? file->tty->regf_id : file->id;

	return id < f->count && f->at[id] ? f->at[id]->reg : NULL;
}

/* Masters get the lowest number that is free. */
static int open_new_master(const char *path, uint32_t index, bool any, struct phaul_error *error)
{
	int below[MASTERS_MAX], fd = -1, err = 0;
	size_t count = 0;
	unsigned int number;

	while (fd < 0 && !err) {
		fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (fd < 0 || ioctl(fd, TIOCGPTN, &number) < 0)
			err = phaul_fail(error, -errno, "terminals", "opening a pseudo terminal (%s)", path);
		else if (!any && number > index)
			err = phaul_fail(error, -EBUSY, "terminals", "the terminal /dev/pts/%u is taken on this host; its name can't "
					 "change under the program that has it. Close that one first", index);
		if (err || any || number == index)
			continue;
		if (count == MASTERS_MAX)
			err = -EMFILE;
		else
			below[count++] = fd;
		fd = -1;
	}
	while (count)
		close(below[--count]);
	if (err && fd >= 0)
		close(fd);
	return err ? err : fd;
}

static int take_master(struct tty_masters *made, uint32_t index)
{
	for (size_t i = 0; made && i < made->count; i++)
		if (made->at[i].index == index && made->at[i].fd >= 0) {
			int fd = made->at[i].fd;

			made->at[i].fd = -1;
			return fd;
		}
	return -1;
}

static int open_master(struct ttys *t, const char *path, uint32_t index, bool any)
{
	int fd = any ? -1 : take_master(t->made, index);

	return fd < 0 ? open_new_master(path, index, any, t->err) : fd;
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
	const RegFileEntry *reg = name_of(t->f, file);
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

static const TtyInfoEntry *info_of(const struct ttys *t, const FileEntry *file)
{
	for (size_t i = 0; i < t->count; i++)
		if (file && file->tty && t->infos[i]->id == file->tty->tty_info_id)
			return t->infos[i];
	return NULL;
}

static bool is_master_info(const TtyInfoEntry *e)
{
	return e->rdev == makedev(5, 2);
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
		const TtyInfoEntry *e = info_of(t, f->at[id]);

		if (!e || !e->pty || e->pty->index != pair->pty->index || e->type != TTY_TYPE__PTY || !is_master_info(e))
			continue;
		if (master_id != ~0u)
			return phaul_fail(t->err, -EPROTO, "terminals", "the master of /dev/pts/%u is open twice", pair->pty->index);
		master_id = id;
		path = name_of(f, f->at[id]) ? name_of(f, f->at[id])->name : path;
	}
	/* A slave whose master is closed has only its number's name. */
	master = open_master(t, path, pair->pty->index, master_id == ~0u);
	if (master < 0)
		return master;
	(void)ioctl(master, TIOCSPTLCK, &off);
	for (size_t id = 0; id < f->count && !err; id++) {
		const TtyInfoEntry *e = info_of(t, f->at[id]);

		if (!e || !e->pty || e->pty->index != pair->pty->index || e->type != TTY_TYPE__PTY || is_master_info(e))
			continue;
		f->made[id] = open_slave(t, f->at[id], e, master);
		if (f->made[id] >= 0)
			set_up(f->made[id], e);
		err = f->made[id] < 0 ? f->made[id] : tty_data_build(t->images, e->id, master);
		slave = f->made[id];
	}
	if (master_id != ~0u && !err)
		err = put_to_master(t, info_of(t, f->at[master_id]), slave, pair->pty->index);
	if (master_id == ~0u || err) {
		close(master);
		return err;
	}
	set_up(master, info_of(t, f->at[master_id]));
	f->made[master_id] = master;
	return 0;
}

int ttys_make(struct built_files *f, const struct image_set *images, struct tty_masters *made, struct phaul_error *err)
{
	struct ttys t = { .f = f, .images = images, .made = made, .err = err };
	int code = read_infos(images, &t.infos, &t.count, err);

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

/* ---- sessions ---- */

/* Asks the leader for an ioctl on our descriptor of its terminal. */
static int64_t ask(struct remote *leader, int ours, unsigned long request, uint64_t argument)
{
	int64_t us = remote_call(leader, SYS_pidfd_open, getpid(), 0), fd, result;

	if (us < 0)
		return us;
	fd = remote_call(leader, SYS_pidfd_getfd, us, ours, 0);
	result = fd < 0 ? fd : remote_call(leader, SYS_ioctl, fd, request, argument);
	if (fd >= 0)
		(void)remote_call(leader, SYS_close, fd);
	(void)remote_call(leader, SYS_close, us);
	return result;
}

static int64_t give_to_group(struct husk *session, int ours, pid_t group)
{
	remote_addr at = husk_scratch(session);
	struct iovec local = { &group, sizeof(group) }, remote = { (void *)at, sizeof(group) };

	if (process_vm_writev(session->pid, &local, 1, &remote, 1, 0) != sizeof(group))
		return -EFAULT;
	return ask(&session->leader, ours, TIOCSPGRP, at);
}

/* An end that is a terminal. */
static int slave_of(const struct ttys *t, uint32_t index)
{
	for (size_t id = 0; id < t->f->count; id++) {
		const TtyInfoEntry *e = info_of(t, t->f->at[id]);

		if (e && e->pty && e->pty->index == index && e->type == TTY_TYPE__PTY && !is_master_info(e) && t->f->made[id] >= 0)
			return fcntl(t->f->made[id], F_DUPFD_CLOEXEC, 0);
	}
	return -1;
}

int ttys_take(const struct built_files *f, const struct image_set *images, struct husk *session, bool group,
	      struct phaul_error *err)
{
	struct ttys t = { .f = (struct built_files *)f, .err = err };
	int code = read_infos(images, &t.infos, &t.count, err);

	for (size_t i = 0; i < t.count && !code; i++) {
		const TtyInfoEntry *e = t.infos[i];
		char path[32];
		int64_t done;
		int fd;

		if ((pid_t)e->sid != session->pid || !e->pty || (group && !e->pgrp))
			continue;
		snprintf(path, sizeof(path), "/dev/pts/%u", e->pty->index);
		fd = slave_of(&t, e->pty->index);
		if (fd < 0)
			fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
		done = fd < 0 ? -errno : group ? give_to_group(session, fd, e->pgrp) : ask(&session->leader, fd, TIOCSCTTY, 0);
		if (done < 0)
			code = phaul_fail(err, done, "terminals", "making %s the terminal of session %d%s", path, session->pid,
					  group ? ", in its foreground" : "");
		if (fd >= 0)
			close(fd);
		break;	/* both ends tell of it */
	}
	image_free_all(t.infos, t.count);
	return code;
}

/* ---- rounds ---- */

static bool has_master_open(pid_t pid, uint32_t index)
{
	char path[64], link[64], line[64];
	struct dirent *entry;
	bool found = false;
	unsigned int number;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		FILE *info;

		if (n < 5 || memcmp(link + n - 5, "/ptmx", 5))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", pid, entry->d_name);
		info = fopen(path, "re");
		while (info && !found && fgets(line, sizeof(line), info))
			found = sscanf(line, "tty-index: %u", &number) == 1 && number == index;
		if (info)
			fclose(info);
	}
	if (dir)
		closedir(dir);
	return found;
}

static int put_session(struct image_set *to, const struct task *leader, uint32_t index)
{
	TtyInfoEntry info = TTY_INFO_ENTRY__INIT;
	TtyPtyEntry pty = TTY_PTY_ENTRY__INIT;

	pty.index = index;
	info.id = 2 * index + 2;
	info.type = TTY_TYPE__PTY;
	info.pty = &pty;
	info.sid = leader->pid;
	return image_put(to, "tty-info", -1, &info.base);
}

int ttys_put_sessions(const struct tree *tree, struct image_set *to)
{
	int err = 0;

	for (size_t i = 0; i < tree->count && !err; i++) {
		const struct task *leader = &tree->tasks[i];
		dev_t device = makedev(leader->tty >> 8 & 0xfff, (leader->tty & 0xff) | (leader->tty >> 12 & 0xfff00));
		bool found = false;

		if (leader->sid != leader->pid || leader->state == TASK_DEAD || !is_slave(device))
			continue;
		for (size_t n = 0; n < tree->count && !found; n++)
			found = tree->tasks[n].state != TASK_DEAD && has_master_open(tree->tasks[n].pid, slave_index(device));
		if (found)
			err = put_session(to, leader, slave_index(device));
	}
	return err;
}

static bool is_reserved(const struct tty_masters *m, uint32_t index)
{
	for (size_t i = 0; i < m->count; i++)
		if (m->at[i].index == index)
			return true;
	return false;
}

static int reserve(struct tty_masters *m, uint32_t index, struct phaul_error *err)
{
	struct tty_master *larger = reallocarray(m->at, m->count + 1, sizeof(*larger));
	int fd, off = 0;

	if (!larger)
		return phaul_fail(err, -ENOMEM, "terminals", "listing terminals");
	m->at = larger;
	fd = open_new_master("/dev/ptmx", index, false, err);
	if (fd < 0)
		return fd;
	(void)ioctl(fd, TIOCSPTLCK, &off);
	m->at[m->count++] = (struct tty_master){ index, fd };
	return 0;
}

int ttys_reserve(struct tty_masters *m, const struct image_set *images, struct phaul_error *err)
{
	TtyInfoEntry **infos;
	size_t count;
	int code = read_infos(images, &infos, &count, err);

	for (size_t i = 0; i < count && !code; i++)
		if (infos[i]->pty && !is_reserved(m, infos[i]->pty->index))
			code = reserve(m, infos[i]->pty->index, err);
	image_free_all(infos, count);
	return code;
}

void tty_masters_free(struct tty_masters *m)
{
	for (size_t i = 0; i < m->count; i++)
		if (m->at[i].fd >= 0)
			close(m->at[i].fd);
	free(m->at);
	memset(m, 0, sizeof(*m));
}

/* ---- descriptors ---- */

/* What can be opened here; in its place /dev/tty is opened by the process itself. */
static int build(struct build *b, const FileEntry *file)
{
	const RegFileEntry *reg = name_of(b->files, file);
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
		const RegFileEntry *reg = file->tty ? name_of(b->files, file) : NULL;

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
