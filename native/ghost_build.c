/* ghost_build.c - all files without a name that the images tell of, under their old names for a moment. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ghost_file.h"
#include "shmem.h"
#include "stand_in.h"


struct ghosts {
	struct built_files *files;
	const struct image_set *images;
	int directory;			/* that their content is in, or -1: */
	struct shmem_set *sent;
	RemapFilePathEntry **entries;
	size_t count;
	struct ghost_parents parents;
	struct phaul_error *err;
};

int ghost_source_make(const char *name, const GhostFileEntry *ghost, struct ghost_source *s)
{
	int err = 0;

	s->mode = ghost->mode;
	if (S_ISDIR(s->mode))
		return 0;
	if (S_ISREG(s->mode) && ghost_is_nameless(name)) {
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

static int place(struct ghosts *g, struct ghost_source *s, const char *name, int *ret)
{
	bool made;
	int err;

	if (S_ISDIR(s->mode) && s->fd >= 0) {
		*ret = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
		return *ret < 0 ? -errno : 0;
	}
	if (S_ISDIR(s->mode)) {
		err = ghost_parents_make(&g->parents, name);
		made = ghost_parents_has(&g->parents, name);
		if (!err && !made)
			err = mkdir(name, s->mode & 07777) < 0 ? -errno : 0;
		err = err ?: ghost_open_name(name, ret) ?: ghost_open_name(name, &s->fd);
		return !err && !made && rmdir(name) < 0 ? -errno : err;
	}
	if (!*s->temporary) {
		*ret = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
		return *ret < 0 ? -errno : 0;
	}
	return ghost_give_name(s->fd, name, ret);
}

/* What was below /proc for a process that is dead by now. */
static int keep_dead(struct ghosts *g, const char *name, pid_t pid, int *ret)
{
	return stand_in_for(g->files, pid) ?: ghost_open_name(name, ret);
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

static int open_ghost(struct ghosts *g, const char *name, struct image_reader *r, struct ghost_source *s)
{
	ProtobufCMessage *message = NULL;
	int err = image_next(r, &ghost_file_entry__descriptor, &message) == 1 ? 0 : -EPROTO;
	const GhostFileEntry *ghost = (GhostFileEntry *)message;

	err = err ?: ghost_parents_make(&g->parents, name) ?: ghost_source_make(name, ghost, s);
	if (!err && S_ISREG(s->mode))
		err = ghost_fill(r, ghost, s->fd);
	if (!err && s->fd >= 0)
		err = ghost_give_attributes(s->fd, ghost);
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
	return err;
}

/* The image may be as large as the file that it holds. */
static int read_ghost(struct ghosts *g, const char *name, uint32_t id, struct ghost_source *s)
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

static int read_link(struct ghosts *g, uint32_t id, struct ghost_source *s)
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

/* All names that it had lead to the one entry that it has. */
static int take_object(struct ghosts *g, size_t first)
{
	uint32_t number = g->entries[first]->remap_id;
	GhostFileEntry *entry = NULL;
	int named = shmem_take_ghost(g->sent, GHOST_IDS + number);
	int err = named < 0 ? named : ghost_read_entry(g->images, number, &entry) ?: ghost_give_attributes(named, entry);

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

/* One file with all names that it had: entry `first` and those after it that mean the same. */
static int make_one(struct ghosts *g, size_t first)
{
	const RemapFilePathEntry *e = g->entries[first];
	bool linked = e->has_remap_type && e->remap_type == REMAP_TYPE__LINKED;
	const char *name = name_of(g, e);
	struct ghost_source s = { .fd = -1 };
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
	struct ghost_source s = { .fd = -1 };
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
	ghost_parents_remove(&g.parents, false);
	code = code ?: make_all_memory(&g, images);
	ghost_parents_remove(&g.parents, !code);
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
