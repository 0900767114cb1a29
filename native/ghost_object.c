/* ghost_object.c - deleted files whose content is sent as that of shared memory: objects of shmem.h. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ghost_file.h"

int ghost_object_put(struct image_set *to, int fd, const char *name, uint64_t id)
{
	struct ghost_description ghost;
	struct stat st;
	int err = fstat(fd, &st) < 0 ? -errno : ghost_describe(NULL, &st, &ghost);

	if (err)
		return err;
	ghost.entry.phaul_name = (char *)name;
	return image_put(to, "ghost-file", id - GHOST_IDS, &ghost.entry.base);
}

/* One that never had a name, where the file system can do that: a phaul that is killed leaves none. */
static int make_nameless(const char *name, struct ghost_source *s)
{
	char place[PATH_MAX];
	const GhostFileEntry regular = { .mode = S_IFREG };

	snprintf(place, sizeof(place), "%.*s", (int)(strrchr(name, '/') - name), name);
	s->fd = open(*place ? place : "/", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (s->fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return s->fd < 0 ? -errno : 0;
	return ghost_source_make(name, &regular, s);
}

/* The entry that it is known by is the only one it may have: kernel-notes.md, on watches of deleted files. */
static int open_again(struct ghost_source *s, int named)
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

static int make_empty(const char *name, uint64_t size, struct ghost_source *s, int *ret_named)
{
	struct ghost_parents parents = {0};
	char path[32];
	int err = ghost_parents_make(&parents, name) ?: make_nameless(name, s);

	if (!err && ftruncate(s->fd, size) < 0)
		err = -errno;
	if (!err && ghost_is_nameless(name)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", s->fd);
		*ret_named = open(path, O_PATH | O_CLOEXEC);
		err = *ret_named < 0 ? -errno : 0;
	} else if (!err) {
		err = ghost_give_name(s->fd, name, ret_named) ?: open_again(s, *ret_named);
	}
	if (*s->temporary)
		(void)unlink(s->temporary);
	ghost_parents_remove(&parents, false);
	return err;
}

int ghost_object_make(const struct image_set *images, uint64_t id, uint64_t size, int *ret_named, struct phaul_error *err)
{
	struct ghost_source s = { .fd = -1 };
	GhostFileEntry *entry;
	const char *name;
	int code = ghost_read_entry(images, id - GHOST_IDS, &entry);

	*ret_named = -1;
	if (code == -ENOENT)
		return code;
	name = entry ? entry->phaul_name : NULL;
	if (!code && (!name || *name != '/' || strlen(name) >= PATH_MAX - 64))
		code = -EPROTO;
	code = code ?: make_empty(name, size, &s, ret_named);
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
