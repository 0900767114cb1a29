/* ghost_dump.c - files without a name into the directory of the images, or among what is sent. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ghost_file.h"
#include "image_sink.h"
#include "shared_track.h"

#define MEMORY_PLACE "/dev/shm/"

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

/* Of regular files without what is in them, which is sent as pages. */
static int send_ghost(struct dump *d, const char *reached_by, const struct stat *st, const char *name, uint32_t *ret_id)
{
	uint64_t id = S_ISREG(st->st_mode) ? shared_track_file(d->ghosts->sent, st) : GHOST_IDS + SENT_WHOLE + d->ghosts->count;
	struct ghost_description ghost;

	if (!id)
		return phaul_fail(d->err, -EOPNOTSUPP, "ghost", "%s, which was deleted, is in use by pid %d but open in none that moves: "
				  "it is watched, or waits in a unix socket to be received", name, d->pid);
	*ret_id = id - GHOST_IDS;
	if (!add(d->ghosts, st, *ret_id))
		return -ENOMEM;
	return ghost_describe(reached_by, st, &ghost) ?: image_put(d->images, "ghost-file", *ret_id, &ghost.entry.base);
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
	err = fd < 0 ? -errno : ghost_write(reached_by, st, fd);
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
