#include "ghost.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ghosts.pb-c.h"
#include "image_sink.h"
#include "shared_track.h"
#include "shmem.h"

#define MARK " (deleted)"
#define GHOST_FILE "ghost-file-%x.img"
#define TRIES_MAX 1000		/* names that others have */
#define MEMORY_PLACE "/dev/shm/"
#define SENT_WHOLE (1u << 24)	/* numbers of those that are no regular files, apart from those of objects */
#define MEMORY_FILES "phaul-files"	/* an image as "remap-fpath", of those there */

/* ---- dump ---- */

static bool leads_to(const char *name, const struct stat *st)
{
	struct stat named;

	return !lstat(name, &named) && named.st_dev == st->st_dev && named.st_ino == st->st_ino;
}

bool ghost_has_name(char *name, const struct stat *st)
{
	size_t length = strlen(name), tail = strlen(MARK);

	if (leads_to(name, st))
		return true;
	if (length <= tail || strcmp(name + length - tail, MARK))
		return false;
	name[length - tail] = 0;
	return leads_to(name, st);
}

/* A name of the file in this directory, in place of what follows `name`'s last slash. */
static bool find_other_name(char name[PATH_MAX], const struct stat *st)
{
	int base = strrchr(name, '/') + 1 - name;
	char other[PATH_MAX];
	bool found = false;
	struct dirent *entry;
	DIR *dir;

	snprintf(other, sizeof(other), "%.*s", base, name);
	dir = opendir(other);
	while (dir && !found && (entry = readdir(dir))) {
		if (entry->d_ino != st->st_ino || base + strlen(entry->d_name) >= PATH_MAX)
			continue;
		strcpy(other + base, entry->d_name);
		found = leads_to(other, st);
	}
	if (dir)
		closedir(dir);
	if (found)
		strcpy(name, other);
	return found;
}

bool ghost_find_name(char name[PATH_MAX], const struct stat *st)
{
	return ghost_has_name(name, st) || (S_ISREG(st->st_mode) && st->st_nlink && *name == '/' && find_other_name(name, st));
}

static struct ghost *find(const struct ghost_set *set, const struct stat *st)
{
	for (size_t i = 0; i < set->count; i++)
		if (set->at[i].dev == st->st_dev && set->at[i].ino == st->st_ino)
			return &set->at[i];
	return NULL;
}

static struct ghost *add(struct ghost_set *set, const struct stat *st, uint32_t id)
{
	struct ghost *larger = reallocarray(set->at, set->count + 1, sizeof(*larger));

	if (!larger)
		return NULL;
	set->at = larger;
	set->at[set->count] = (struct ghost){ st->st_dev, st->st_ino, id };
	return &set->at[set->count++];
}

static int write_all(int fd, const void *bytes, size_t size)
{
	for (size_t done = 0; done < size; ) {
		ssize_t put = write(fd, (const uint8_t *)bytes + done, size - done);

		if (put < 0)
			return -errno;
		done += put;
	}
	return 0;
}

static int write_message(int to, const ProtobufCMessage *message)
{
	uint32_t size = protobuf_c_message_get_packed_size(message);
	uint8_t bytes[PATH_MAX + 256];

	if (size > sizeof(bytes) - sizeof(size))
		return -EFBIG;
	memcpy(bytes, &size, sizeof(size));
	protobuf_c_message_pack(message, bytes + sizeof(size));
	return write_all(to, bytes, sizeof(size) + size);
}

static int write_chunk(int from, off_t at, off_t until, int to)
{
	GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
	int err;

	chunk.off = at;
	chunk.len = until - at;
	err = write_message(to, &chunk.base);
	while (at < until && !err) {
		ssize_t put = sendfile(to, from, &at, until - at);

		err = put < 0 ? -errno : put ? 0 : -EIO;
	}
	return err;
}

/* Holes stay holes. */
static int write_content(int from, off_t size, int to)
{
	off_t at = 0, until;
	int err = 0;

	while (at < size && !err && (at = lseek(from, at, SEEK_DATA)) >= 0) {
		until = lseek(from, at, SEEK_HOLE);
		err = until < 0 ? -errno : write_chunk(from, at, until, to);
		at = until;
	}
	return err ? err : at < 0 && errno != ENXIO ? -errno : 0;
}

static int read_symlink(const char *reached_by, char ret[PATH_MAX])
{
	int fd = open(reached_by, O_PATH | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : readlinkat(fd, "", ret, PATH_MAX - 1);
	int err = n < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	ret[n > 0 ? n : 0] = 0;
	return err;
}

struct description {
	GhostFileEntry entry;
	Timeval accessed, changed;
	char target[PATH_MAX];		/* of a symbolic link */
};

static int describe(const char *reached_by, const struct stat *st, struct description *ret)
{
	GhostFileEntry *ghost = &ret->entry;

	ghost_file_entry__init(ghost);
	timeval__init(&ret->accessed);
	timeval__init(&ret->changed);
	ghost->uid = st->st_uid;
	ghost->gid = st->st_gid;
	ghost->mode = st->st_mode;
	ghost->has_dev = ghost->has_ino = true;
	ghost->dev = st->st_dev;
	ghost->ino = st->st_ino;
	ghost->has_rdev = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
	ghost->rdev = st->st_rdev;
	ret->accessed.tv_sec = st->st_atim.tv_sec;
	ret->accessed.tv_usec = st->st_atim.tv_nsec / 1000;
	ret->changed.tv_sec = st->st_mtim.tv_sec;
	ret->changed.tv_usec = st->st_mtim.tv_nsec / 1000;
	ghost->atim = &ret->accessed;
	ghost->mtim = &ret->changed;
	ghost->has_chunks = ghost->chunks = ghost->has_size = S_ISREG(st->st_mode);
	ghost->size = st->st_size;
	if (!S_ISLNK(st->st_mode))
		return 0;
	ghost->symlnk_target = ret->target;
	return read_symlink(reached_by, ret->target);
}

static int write_ghost(const char *reached_by, const struct stat *st, int to)
{
	struct description ghost;
	int from = S_ISREG(st->st_mode) ? open(reached_by, O_RDONLY | O_CLOEXEC | O_NOATIME) : -1, err;

	if (S_ISREG(st->st_mode) && from < 0)
		return -errno;
	err = describe(reached_by, st, &ghost) ?: image_write_magic(to, "ghost-file") ?: write_message(to, &ghost.entry.base);
	if (from >= 0) {
		err = err ?: write_content(from, st->st_size, to);
		close(from);
	}
	return err ? err : fsync(to) < 0 ? -errno : 0;
}

int ghost_object_put(struct image_set *to, int fd, const char *name, uint64_t id)
{
	struct description ghost;
	struct stat st;
	int err = fstat(fd, &st) < 0 ? -errno : describe(NULL, &st, &ghost);

	if (err)
		return err;
	ghost.entry.phaul_name = (char *)name;
	return image_put(to, "ghost-file", id - GHOST_IDS, &ghost.entry.base);
}

/* Of regular files without what is in them, which is sent as pages. */
static int send_ghost(struct dump *d, const char *reached_by, const struct stat *st, const char *name, uint32_t *ret_id)
{
	uint64_t id = S_ISREG(st->st_mode) ? shared_track_file(d->ghosts->sent, st) : GHOST_IDS + SENT_WHOLE + d->ghosts->count;
	struct description ghost;

	if (!id)
		return phaul_fail(d->err, -EOPNOTSUPP, "ghost", "%s, which was deleted, is in use by pid %d but open in none that moves: "
				  "it is watched, or waits in a unix socket to be received", name, d->pid);
	*ret_id = id - GHOST_IDS;
	if (!add(d->ghosts, st, *ret_id))
		return -ENOMEM;
	return describe(reached_by, st, &ghost) ?: image_put(d->images, "ghost-file", *ret_id, &ghost.entry.base);
}

static int dump_ghost(struct dump *d, const char *reached_by, const struct stat *st, const char *name, uint32_t *ret_id)
{
	struct ghost *ghost = add(d->ghosts, st, d->ghosts->count + 1);
	char file[64];
	int fd, err;

	if (!ghost)
		return -ENOMEM;
	*ret_id = ghost->id;
	snprintf(file, sizeof(file), GHOST_FILE, ghost->id);
	fd = openat(d->ghosts->directory, file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	err = fd < 0 ? -errno : write_ghost(reached_by, st, fd);
	if (fd >= 0)
		close(fd);
	return err ? phaul_fail(d->err, err, "ghost", "writing %s, which was deleted but is in use by pid %d, to %s", name,
				d->pid, file) : 0;
}

static int put_link(struct dump *d, const struct stat *st, char *name, uint32_t id)
{
	FileEntry file = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry fown = FOWN_ENTRY__INIT;

	reg.id = file.id = id;
	reg.flags = O_RDONLY;
	reg.fown = &fown;
	reg.name = name;
	reg.has_mode = true;
	reg.mode = st->st_mode;
	file.type = FD_TYPES__REG;
	file.reg = &reg;
	return image_put(d->images, "files", -1, &file.base);
}

/* By another name in the same directory: nothing is made for it. */
static int send_link(struct dump *d, const struct stat *st, const char *name, uint32_t *ret_id)
{
	char other[PATH_MAX];

	snprintf(other, sizeof(other), "%s", name);
	if (!ghost_find_name(other, st))
		return phaul_fail(d->err, -EOPNOTSUPP, "ghost", "pid %d uses %s, which was deleted under this name, and has another "
				  "that is not in the same directory: make a link there (ln)", d->pid, name);
	*ret_id = d->next_file_id++;
	return add(d->ghosts, st, *ret_id) ? put_link(d, st, other, *ret_id) : -ENOMEM;
}

static int dump_link(struct dump *d, const char *reached_by, const struct stat *st, const char *name, uint32_t *ret_id)
{
	const char *slash = strrchr(name, '/');
	char **links = reallocarray(d->ghosts->links, d->ghosts->link_count + 1, sizeof(*links)), *link = NULL;
	int err = -EEXIST;

	if (!links || !slash)
		return -ENOMEM;
	d->ghosts->links = links;
	for (int i = 1; i < TRIES_MAX && err == -EEXIST; i++) {
		free(link);
		if (asprintf(&link, "%.*s/link_remap.%d", (int)(slash - name), name, i) < 0)
			return -ENOMEM;
		err = linkat(AT_FDCWD, reached_by, AT_FDCWD, link, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
	}
	if (err) {
		err = phaul_fail(d->err, err, "ghost", "pid %d uses %s, which was deleted under this name and has another: "
				 "making a link %s, by which it can be found again", d->pid, name, link);
		free(link);
		return err;
	}
	links[d->ghosts->link_count++] = link;
	*ret_id = d->next_file_id++;
	return add(d->ghosts, st, *ret_id) ? put_link(d, st, link, *ret_id) : -ENOMEM;
}

/* POSIX shared memory: files that another host doesn't have, and this one no more after its next start. */
static int dump_memory(struct dump *d, const char *reached_by, const struct stat *st, uint32_t id, const char *name)
{
	RemapFilePathEntry remap = REMAP_FILE_PATH_ENTRY__INIT;

	if (find(d->ghosts, st))
		return 0;
	remap.orig_id = id;
	return dump_ghost(d, reached_by, st, name, &remap.remap_id) ?: image_put(d->images, MEMORY_FILES, -1, &remap.base);
}

int ghost_dump(struct dump *d, const char *reached_by, const struct stat *st, uint32_t id, char *name)
{
	RemapFilePathEntry remap = REMAP_FILE_PATH_ENTRY__INIT;
	const struct ghost *known;
	int err = 0;

	bool sent = d->ghosts && d->ghosts->directory < 0;

	if (!d->ghosts)
		return 0;
	if (ghost_has_name(name, st))
		return !sent && S_ISREG(st->st_mode) && !strncmp(name, MEMORY_PLACE, strlen(MEMORY_PLACE)) ?
		       dump_memory(d, reached_by, st, id, name) : 0;
	known = find(d->ghosts, st);
	remap.orig_id = id;
	remap.has_remap_type = true;
	if (sscanf(name, "/proc/%u", &remap.remap_id) == 1) {
		remap.remap_type = REMAP_TYPE__PROCFS;
		return image_put(d->images, "remap-fpath", -1, &remap.base);
	}
	remap.remap_type = st->st_nlink ? REMAP_TYPE__LINKED : REMAP_TYPE__GHOST;
	if (known)
		remap.remap_id = known->id;
	else if (st->st_nlink)
		err = sent ? send_link(d, st, name, &remap.remap_id) : dump_link(d, reached_by, st, name, &remap.remap_id);
	else
		err = sent ? send_ghost(d, reached_by, st, name, &remap.remap_id) :
			     dump_ghost(d, reached_by, st, name, &remap.remap_id);
	return err ? err : image_put(d->images, "remap-fpath", -1, &remap.base);
}

int ghost_set_send(const struct ghost_set *set, struct image_sink *to)
{
	int code = 0;

	for (size_t i = 0; i < set->count && !code; i++) {
		char file[64];

		snprintf(file, sizeof(file), GHOST_FILE, (unsigned int)i + 1);
		/* Some are links. */
		code = faccessat(set->directory, file, F_OK, 0) ? 0 : image_sink_copy(to, set->directory, file);
	}
	return code;
}

void ghost_set_free(struct ghost_set *set, bool keep_links)
{
	for (size_t i = 0; i < set->link_count; i++) {
		if (!keep_links)
			(void)unlink(set->links[i]);
		free(set->links[i]);
	}
	free(set->links);
	free(set->at);
}

/* ---- restore ---- */

/* A file that is to be had under old names: by a descriptor, and until all have it by a name of its own. */
struct source {
	int fd;
	mode_t mode;
	char temporary[PATH_MAX];	/* "" if it has none */
};

struct ghosts {
	struct built_files *files;
	const struct image_set *images;
	int directory;			/* that their content is in, or -1: */
	struct shmem_set *sent;
	RemapFilePathEntry **entries;
	size_t count;
	char **made;			/* directories that were missing, outer ones first */
	size_t made_count;
	struct phaul_error *err;
};

static int make_parents(struct ghosts *g, const char *name)
{
	char path[PATH_MAX];

	for (const char *slash = strchr(name + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		char **larger;

		snprintf(path, sizeof(path), "%.*s", (int)(slash - name), name);
		if (!mkdir(path, 0700)) {
			larger = reallocarray(g->made, g->made_count + 1, sizeof(*larger));
			if (!larger)
				return -ENOMEM;
			g->made = larger;
			g->made[g->made_count++] = strdup(path);
		} else if (errno != EEXIST) {
			return -errno;
		}
	}
	return 0;
}

static bool is_made(const struct ghosts *g, const char *path)
{
	for (size_t i = 0; i < g->made_count; i++)
		if (g->made[i] && !strcmp(g->made[i], path))
			return true;
	return false;
}

/* `keep`: what lies in them stays. */
static void remove_parents(struct ghosts *g, bool keep)
{
	while (g->made_count) {
		char *path = g->made[--g->made_count];

		if (path && !keep)
			(void)rmdir(path);
		free(path);
	}
	free(g->made);
	g->made = NULL;
}

static int fill_chunks(struct image_reader *r, int fd)
{
	ProtobufCMessage *message;
	int more, err = 0;

	while (!err && (more = image_next(r, &ghost_chunk_entry__descriptor, &message)) != 0) {
		const GhostChunkEntry *chunk = (GhostChunkEntry *)message;
		const void *bytes = NULL;

		err = more < 0 ? more : image_next_raw(r, chunk->len, &bytes);
		for (uint64_t done = 0; !err && done < chunk->len; ) {
			ssize_t put = pwrite(fd, (const uint8_t *)bytes + done, chunk->len - done, chunk->off + done);

			err = put < 0 ? -errno : 0;
			done += put > 0 ? put : 0;
		}
		if (message)
			protobuf_c_message_free_unpacked(message, NULL);
	}
	return err;
}

static int fill(struct image_reader *r, const GhostFileEntry *ghost, int fd)
{
	size_t size = image_left(r);
	const void *bytes;
	int err;

	if (ghost->has_chunks && ghost->chunks)
		err = fill_chunks(r, fd);
	else
		err = image_next_raw(r, size, &bytes) ?: write_all(fd, bytes, size);
	if (!err && ghost->has_size && ftruncate(fd, ghost->size) < 0)
		err = -errno;
	return err;
}

/* What has no name from the start: O_TMPFILE names are "#" and the number of the inode. */
static bool is_nameless(const char *name)
{
	const char *base = strrchr(name, '/') + 1;

	return *base == '#' && base[1] && strspn(base + 1, "0123456789") == strlen(base + 1);
}

static int make_source(const char *name, const GhostFileEntry *ghost, struct source *s)
{
	int err = 0;

	s->mode = ghost->mode;
	if (S_ISDIR(s->mode))
		return 0;
	if (S_ISREG(s->mode) && is_nameless(name)) {
		char place[PATH_MAX];

		snprintf(place, sizeof(place), "%.*s", (int)(strrchr(name, '/') - name), name);
		s->fd = open(*place ? place : "/", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		return s->fd < 0 ? -errno : 0;
	}
	for (int i = 0; i < TRIES_MAX; i++) {
		snprintf(s->temporary, sizeof(s->temporary), "%s.ghost.%d", name, i);
		if (S_ISREG(s->mode))
			s->fd = open(s->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		else if (S_ISLNK(s->mode) ? ghost->symlnk_target && !symlink(ghost->symlnk_target, s->temporary) :
			 !mknod(s->temporary, (s->mode & S_IFMT) | 0600, ghost->has_rdev ? ghost->rdev : 0))
			s->fd = open(s->temporary, O_PATH | O_CLOEXEC | O_NOFOLLOW);
		err = s->fd < 0 ? -errno : 0;
		if (err != -EEXIST)
			break;
	}
	if (err)
		*s->temporary = 0;
	return err;
}

static int give_attributes(int fd, const GhostFileEntry *ghost)
{
	char path[32];
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (ghost->atim && ghost->mtim) {
		times[0] = (struct timespec){ ghost->atim->tv_sec, ghost->atim->tv_usec * 1000 };
		times[1] = (struct timespec){ ghost->mtim->tv_sec, ghost->mtim->tv_usec * 1000 };
	}
	if (chown(path, ghost->uid, ghost->gid) < 0 ||
	    (!S_ISLNK(ghost->mode) && chmod(path, ghost->mode & 07777) < 0) ||
	    utimensat(AT_FDCWD, path, times, 0) < 0)
		return -errno;
	return 0;
}

/* Opens what is under `name` now. */
static int keep(const char *name, int *ret)
{
	*ret = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return *ret < 0 ? -errno : 0;
}

/* What has the name stays under it: for an instant the two change places. */
static int take_turns(const char *source, const char *name, int *ret)
{
	char aside[PATH_MAX];
	int err;

	snprintf(aside, sizeof(aside), "%s.aside", name);
	if (linkat(AT_FDCWD, source, AT_FDCWD, aside, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	if (renameat2(AT_FDCWD, aside, AT_FDCWD, name, RENAME_EXCHANGE) < 0) {
		err = -errno;
		(void)unlink(aside);
		return err;
	}
	err = keep(name, ret);
	return rename(aside, name) < 0 ? -errno : err;
}

/* For a moment the file has the name. */
static int give_name(int fd, const char *name, int *ret)
{
	char path[32];
	int err;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW) < 0)
		return errno == EEXIST ? take_turns(path, name, ret) : -errno;
	err = keep(name, ret);
	return unlink(name) < 0 ? -errno : err;
}

static int place(struct ghosts *g, struct source *s, const char *name, int *ret)
{
	bool made;
	int err;

	if (S_ISDIR(s->mode) && s->fd >= 0) {
		*ret = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
		return *ret < 0 ? -errno : 0;
	}
	if (S_ISDIR(s->mode)) {
		err = make_parents(g, name);
		made = is_made(g, name);
		if (!err && !made)
			err = mkdir(name, s->mode & 07777) < 0 ? -errno : 0;
		err = err ?: keep(name, ret) ?: keep(name, &s->fd);
		return !err && !made && rmdir(name) < 0 ? -errno : err;
	}
	if (!*s->temporary) {
		*ret = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
		return *ret < 0 ? -errno : 0;
	}
	return give_name(s->fd, name, ret);
}

int stand_in_for(struct built_files *f, pid_t pid)
{
	struct clone_args args = { .set_tid = (uintptr_t)&pid, .set_tid_size = 1 };
	pid_t *larger = reallocarray(f->stand_ins, f->stand_in_count + 1, sizeof(*larger)), child;

	if (!larger)
		return -ENOMEM;
	f->stand_ins = larger;
	child = syscall(SYS_clone3, &args, sizeof(args));
	/* Should we be killed, it goes too. */
	if (!child)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (!child)
		pause();
	if (child > 0)
		f->stand_ins[f->stand_in_count++] = child;
	/* One that lives is as good. */
	return child < 0 && errno != EEXIST ? -errno : 0;
}

void stand_ins_end(struct built_files *f)
{
	while (f->stand_in_count) {
		pid_t pid = f->stand_ins[--f->stand_in_count];

		(void)kill(pid, SIGKILL);
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	free(f->stand_ins);
	f->stand_ins = NULL;
}

/* What was below /proc for a process that is dead by now. */
static int keep_dead(struct ghosts *g, const char *name, pid_t pid, int *ret)
{
	return stand_in_for(g->files, pid) ?: keep(name, ret);
}

static const char *name_of(const struct ghosts *g, const RemapFilePathEntry *e)
{
	const FileEntry *file = e->orig_id < g->files->count ? g->files->at[e->orig_id] : NULL;
	const char *name = file && file->reg ? file->reg->name : NULL;

	return name && name[0] == '/' && strlen(name) < PATH_MAX - 64 ? name : NULL;
}

/* Under the same name it is the same entry of the directory: when one of a deleted file goes, the kernel ends watches of the
 * file, although another is in use. -1: there is none yet. */
static int same_place(struct ghosts *g, size_t first, size_t i)
{
	const char *name = name_of(g, g->entries[i]), *other;

	for (; first < i; first++) {
		if (g->entries[first]->remap_id != g->entries[i]->remap_id ||
		    g->entries[first]->remap_type != g->entries[i]->remap_type)
			continue;
		other = name_of(g, g->entries[first]);
		if (name && other && !strcmp(name, other))
			return fcntl(g->files->ghosts[g->entries[first]->orig_id], F_DUPFD_CLOEXEC, 0);
	}
	return -1;
}

static int open_ghost(struct ghosts *g, const char *name, struct image_reader *r, struct source *s)
{
	ProtobufCMessage *message = NULL;
	int err = image_next(r, &ghost_file_entry__descriptor, &message) == 1 ? 0 : -EPROTO;
	const GhostFileEntry *ghost = (GhostFileEntry *)message;

	err = err ?: make_parents(g, name) ?: make_source(name, ghost, s);
	if (!err && S_ISREG(s->mode))
		err = fill(r, ghost, s->fd);
	if (!err && s->fd >= 0)
		err = give_attributes(s->fd, ghost);
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
	return err;
}

/* The image may be as large as the file that it holds. */
static int read_ghost(struct ghosts *g, const char *name, uint32_t id, struct source *s)
{
	char file[64];
	struct image_reader r;
	struct stat st;
	void *bytes;
	int fd, err;

	if (g->directory < 0)
		return image_read(g->images, "ghost-file", id, &r) ?: open_ghost(g, name, &r, s);
	snprintf(file, sizeof(file), GHOST_FILE, id);
	fd = openat(g->directory, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0 || !st.st_size) {
		err = fd < 0 ? -errno : -EPROTO;
		if (fd >= 0)
			close(fd);
		return err;
	}
	bytes = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	err = bytes == MAP_FAILED ? -errno : image_read_bytes("ghost-file", bytes, st.st_size, &r);
	close(fd);
	err = err ?: open_ghost(g, name, &r, s);
	if (bytes != MAP_FAILED)
		munmap(bytes, st.st_size);
	return err;
}

static int read_link(struct ghosts *g, uint32_t id, struct source *s)
{
	const FileEntry *file = id < g->files->count ? g->files->at[id] : NULL;
	struct stat st;

	if (!file || !file->reg)
		return -EPROTO;
	s->fd = open(file->reg->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (s->fd < 0 || fstat(s->fd, &st) < 0)
		return -errno;
	s->mode = st.st_mode;
	snprintf(s->temporary, sizeof(s->temporary), "%s", file->reg->name);
	return 0;
}

/* ---- whose content was sent ---- */

static int read_entry(const struct image_set *images, uint32_t number, GhostFileEntry **ret)
{
	struct image_reader r;
	ProtobufCMessage *message = NULL;
	int err = image_read(images, "ghost-file", number, &r);

	if (!err)
		err = image_next(&r, &ghost_file_entry__descriptor, &message) == 1 ? 0 : -EPROTO;
	*ret = (GhostFileEntry *)message;
	return err;
}

/* One that never had a name, where the file system can do that: a phaul that is killed leaves none. */
static int make_nameless(const char *name, struct source *s)
{
	char place[PATH_MAX];
	const GhostFileEntry regular = { .mode = S_IFREG };

	snprintf(place, sizeof(place), "%.*s", (int)(strrchr(name, '/') - name), name);
	s->fd = open(*place ? place : "/", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (s->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return s->fd < 0 ? -errno : 0;
	return make_source(name, &regular, s);
}

/* The entry that it is known by is the only one it may have: kernel-notes.md, on watches of deleted files. */
static int open_again(struct source *s, int named)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", named);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	close(s->fd);
	s->fd = fd;
	return 0;
}

static int make_empty(struct ghosts *g, const char *name, uint64_t size, struct source *s, int *ret_named)
{
	char path[32];
	int err = make_parents(g, name) ?: make_nameless(name, s);

	if (!err && ftruncate(s->fd, size) < 0)
		err = -errno;
	if (!err && is_nameless(name)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
		*ret_named = open(path, O_PATH | O_CLOEXEC);
		err = *ret_named < 0 ? -errno : 0;
	} else if (!err) {
		err = give_name(s->fd, name, ret_named) ?: open_again(s, *ret_named);
	}
	if (*s->temporary)
		(void)unlink(s->temporary);
	remove_parents(g, false);
	return err;
}

int ghost_object_make(const struct image_set *images, uint64_t id, uint64_t size, int *ret_named, struct phaul_error *err)
{
	struct ghosts g = { .images = images, .directory = -1, .err = err };
	struct source s = { .fd = -1 };
	GhostFileEntry *entry;
	const char *name;
	int code = read_entry(images, id - GHOST_IDS, &entry);

	*ret_named = -1;
	if (code == -ENOENT)
		return code;
	name = entry ? entry->phaul_name : NULL;
	if (!code && (!name || *name != '/' || strlen(name) >= PATH_MAX - 64))
		code = -EPROTO;
	code = code ?: make_empty(&g, name, size, &s, ret_named);
	if (code) {
		phaul_fail(err, code, "ghost", "making %s, which was deleted but is in use, with %llu bytes", name ? name : "a file",
			   (unsigned long long)size);
		if (s.fd >= 0)
			close(s.fd);
		if (*ret_named >= 0)
			close(*ret_named);
		*ret_named = -1;
	}
	if (entry)
		ghost_file_entry__free_unpacked(entry, NULL);
	return code ? code : s.fd;
}

/* All names that it had lead to the one entry that it has. */
static int take_object(struct ghosts *g, size_t first)
{
	uint32_t number = g->entries[first]->remap_id;
	GhostFileEntry *entry = NULL;
	int named = shmem_take_ghost(g->sent, GHOST_IDS + number);
	int err = named < 0 ? named : read_entry(g->images, number, &entry) ?: give_attributes(named, entry);

	for (size_t i = first; i < g->count && !err; i++) {
		const RemapFilePathEntry *e = g->entries[i];

		if (e->remap_id != number || e->remap_type != REMAP_TYPE__GHOST)
			continue;
		if (e->orig_id >= g->files->count || g->files->ghosts[e->orig_id] >= 0) {
			err = -EPROTO;
			break;
		}
		g->files->ghosts[e->orig_id] = fcntl(named, F_DUPFD_CLOEXEC, 0);
		err = g->files->ghosts[e->orig_id] < 0 ? -errno : 0;
	}
	if (entry)
		ghost_file_entry__free_unpacked(entry, NULL);
	if (named >= 0)
		close(named);
	return err ? phaul_fail(g->err, err, "ghost", "giving a file, which had been deleted, what it had") : 0;
}

/* ---- all of them ---- */

/* One file with all names that it had: entry `first` and those after it that mean the same. */
static int make_one(struct ghosts *g, size_t first)
{
	const RemapFilePathEntry *e = g->entries[first];
	bool linked = e->has_remap_type && e->remap_type == REMAP_TYPE__LINKED;
	const char *name = name_of(g, e);
	struct source s = { .fd = -1 };
	bool dead = e->has_remap_type && e->remap_type == REMAP_TYPE__PROCFS;
	int err = !name ? -EPROTO : dead ? 0 : linked ? read_link(g, e->remap_id, &s) : read_ghost(g, name, e->remap_id, &s);

	if (err)
		phaul_fail(g->err, err, "ghost", "making %s again, which had been deleted before the dump",
			   name ? name : "a file");
	for (size_t i = first; i < g->count && !err; i++) {
		int same;

		if (g->entries[i]->remap_id != e->remap_id || g->entries[i]->remap_type != e->remap_type)
			continue;
		name = name_of(g, g->entries[i]);
		same = same_place(g, first, i);
		if (name && same >= 0 && g->files->ghosts[g->entries[i]->orig_id] < 0) {
			g->files->ghosts[g->entries[i]->orig_id] = same;
			continue;
		}
		if (same >= 0)
			close(same);
		err = !name || g->files->ghosts[g->entries[i]->orig_id] >= 0 ? -EPROTO :
		      dead ? keep_dead(g, name, e->remap_id, &g->files->ghosts[g->entries[i]->orig_id]) :
		      place(g, &s, name, &g->files->ghosts[g->entries[i]->orig_id]);
		if (err)
			phaul_fail(g->err, err, "ghost", "giving %s its name for a moment", name ? name : "a file");
	}
	if (*s.temporary && !linked)
		(void)unlink(s.temporary);
	if (s.fd >= 0)
		close(s.fd);
	return err;
}

/* What is there already is what it was, or what has become of it. */
static int make_memory(struct ghosts *g, const RemapFilePathEntry *e)
{
	const char *name = name_of(g, e);
	char **larger = reallocarray(g->files->new_files, g->files->new_file_count + 1, sizeof(*larger));
	struct source s = { .fd = -1 };
	int err = !name ? -EPROTO : larger ? 0 : -ENOMEM;

	g->files->new_files = larger ? larger : g->files->new_files;
	if (!err && !access(name, F_OK))
		return 0;
	err = err ?: read_ghost(g, name, e->remap_id, &s);
	if (!err && rename(s.temporary, name) < 0)
		err = -errno;
	if (!err)
		g->files->new_files[g->files->new_file_count++] = strdup(name);
	else if (*s.temporary)
		(void)unlink(s.temporary);
	if (s.fd >= 0)
		close(s.fd);
	return err ? phaul_fail(g->err, err, "ghost", "making %s again", name ? name : "a file") : 0;
}

static int make_all_memory(struct ghosts *g, const struct image_set *images)
{
	ProtobufCMessage **entries;
	size_t count;
	int err = image_read_all(images, MEMORY_FILES, -1, &remap_file_path_entry__descriptor, &entries, &count);

	for (size_t i = 0; i < count && !err; i++)
		err = make_memory(g, (RemapFilePathEntry *)entries[i]);
	image_free_all(entries, count);
	return err;
}

void ghosts_keep_files(struct built_files *f, bool keep)
{
	while (f->new_file_count) {
		char *name = f->new_files[--f->new_file_count];

		if (!keep && name)
			(void)unlink(name);
		free(name);
	}
	free(f->new_files);
	f->new_files = NULL;
}

static bool seen_before(const struct ghosts *g, size_t i)
{
	for (size_t n = 0; n < i; n++)
		if (g->entries[n]->remap_id == g->entries[i]->remap_id &&
		    g->entries[n]->remap_type == g->entries[i]->remap_type)
			return true;
	return false;
}

static bool is_object(const struct ghosts *g, const RemapFilePathEntry *e)
{
	return g->directory < 0 && e->has_remap_type && e->remap_type == REMAP_TYPE__GHOST && e->remap_id < SENT_WHOLE;
}

int ghosts_make(struct built_files *f, const struct image_set *images, int directory, struct shmem_set *sent,
		struct phaul_error *err)
{
	struct ghosts g = { .files = f, .images = images, .directory = directory, .sent = sent, .err = err };
	ProtobufCMessage **entries;
	int code = image_read_all(images, "remap-fpath", -1, &remap_file_path_entry__descriptor, &entries, &g.count);

	g.entries = (RemapFilePathEntry **)entries;
	if (code)
		phaul_fail(err, code, "ghost", "reading remap-fpath.img");
	for (size_t i = 0; i < g.count && !code; i++)
		if (!seen_before(&g, i))
			code = is_object(&g, g.entries[i]) ? take_object(&g, i) : make_one(&g, i);
	remove_parents(&g, false);
	code = code ?: make_all_memory(&g, images);
	remove_parents(&g, !code);
	image_free_all(entries, g.count);
	return code;
}

void ghosts_forget_links(struct built_files *f, const struct image_set *images)
{
	ProtobufCMessage **entries;
	size_t count;

	if (image_read_all(images, "remap-fpath", -1, &remap_file_path_entry__descriptor, &entries, &count))
		return;
	for (size_t i = 0; i < count; i++) {
		const RemapFilePathEntry *e = (RemapFilePathEntry *)entries[i];

		if (e->has_remap_type && e->remap_type == REMAP_TYPE__LINKED && e->remap_id < f->count &&
		    f->at[e->remap_id] && f->at[e->remap_id]->reg)
			(void)unlink(f->at[e->remap_id]->reg->name);
	}
	image_free_all(entries, count);
}
