#include "shared_track.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "ghost.h"
#include "objects/memfd.h"
#include "posix_shm.h"
#include "shmem.h"

#define PAGE 4096ul
#define MARK " (deleted)"
#define CLOCK_STEP_NS 20000000	/* more than file systems' clocks go forward at once */

static bool has_mark(const char *name)
{
	size_t n = strlen(name), tail = strlen(MARK);

	return n > tail && !strcmp(name + n - tail, MARK);
}

static bool is_posix(const char *name)
{
	return posix_shm_is_name(name) && !has_mark(name);
}

static void map_file(pid_t pid, const struct vma *vma, char ret[80])
{
	snprintf(ret, 80, "/proc/%d/map_files/%lx-%lx", pid, (unsigned long)vma->start, (unsigned long)vma->end);
}

/* The same as by a descriptor of it: flags of a mapping that is new may be unknown. */
static uint64_t memfd_id_of(pid_t pid, const struct vma *vma)
{
	char path[80];
	struct stat st;

	map_file(pid, vma, path);
	return stat(path, &st) < 0 ? shmem_id_of(vma) : shmem_id(&st);
}

/* 0: it is none. */
static uint64_t id_of(pid_t pid, const struct vma *vma)
{
	if (vma->kind == VMA_SHMEM || vma->kind == VMA_SYSV)
		return shmem_id_of(vma);
	if (vma->kind != VMA_FILE)
		return 0;
	return memfd_is_name(vma->path) ? memfd_id_of(pid, vma) : vma->shared && is_posix(vma->path) ? POSIX_IDS + vma->inode : 0;
}

static bool known(const struct shared_track *t, uint64_t id)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->at[i].id == id)
			return true;
	return false;
}

static size_t pages_of(const struct shared_object *o)
{
	return (o->size + PAGE - 1) / PAGE;
}

static void forget(struct shared_object *o)
{
	if (o->at)
		munmap((void *)o->at, pages_of(o) * PAGE);
	if (o->fd >= 0)
		close(o->fd);
	free(o->sums);
	free(o->name);
	range_list_free(&o->dirty);
}

static int open_object(const char *path, struct shared_object *o)
{
	struct stat st;

	o->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (o->fd < 0 || fstat(o->fd, &st) < 0)
		return -errno;
	o->size = st.st_size;
	o->sums = calloc(pages_of(o) + 1, sizeof(*o->sums));
	if (!o->sums)
		return -ENOMEM;
	if (o->name)
		return 0;
	o->at = mmap(NULL, pages_of(o) * PAGE, PROT_READ, MAP_SHARED, o->fd, 0);
	if (o->at == MAP_FAILED) {
		o->at = NULL;
		return -errno;
	}
	return 0;
}

/* -ENOENT: it is gone meanwhile. */
static int add(struct shared_track *t, uint64_t id, const char *path, const char *name)
{
	struct shared_object object = { .id = id, .fd = -1, .name = name ? strdup(name) : NULL };
	struct shared_object *larger = reallocarray(t->at, t->count + 1, sizeof(*larger));
	int err = larger && (object.name || !name) ? open_object(path, &object) : -ENOMEM;

	t->at = larger ? larger : t->at;
	if (err)
		forget(&object);
	else
		t->at[t->count++] = object;
	return err;
}

static struct shared_object *find_file(const struct shared_track *t, const struct stat *st)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->at[i].id & GHOST_IDS && t->at[i].dev == st->st_dev && t->at[i].ino == st->st_ino)
			return &t->at[i];
	return NULL;
}

uint64_t shared_track_file(const struct shared_track *t, const struct stat *st)
{
	const struct shared_object *o = t ? find_file(t, st) : NULL;

	return o ? o->id : 0;
}

/* What `reached_by` leads to, if it is a file without any name that the target could open it by. */
static int cover_deleted(struct shared_track *t, const char *reached_by, const char *link, bool mapped)
{
	struct shared_object *object;
	char name[PATH_MAX];
	struct stat st;
	int err = 0;

	if (stat(reached_by, &st) < 0)
		return -errno;
	snprintf(name, sizeof(name), "%s", link);
	if (!S_ISREG(st.st_mode) || st.st_nlink || ghost_find_name(name, &st))
		return 0;
	object = find_file(t, &st);
	if (!object) {
		err = add(t, GHOST_IDS + t->count + 1, reached_by, name);
		object = &t->at[t->count - 1];
	}
	if (err)
		return err;
	object->dev = st.st_dev;
	object->ino = st.st_ino;
	object->mapped |= mapped;
	return 0;
}

static bool is_deleted(const struct vma *vma)
{
	return vma->kind == VMA_FILE && has_mark(vma->path) && !memfd_is_name(vma->path);
}

void shared_track_name(const struct shared_track *t, pid_t pid, const struct vma *vma, char ret[PATH_MAX])
{
	uint64_t id = 0;
	char path[80];
	struct stat st;

	snprintf(ret, PATH_MAX, "%s", vma->path);
	map_file(pid, vma, path);
	if (memfd_is_name(vma->path))
		id = memfd_id_of(pid, vma);
	else if (is_deleted(vma) && !stat(path, &st) && !ghost_find_name(ret, &st))
		id = shared_track_file(t, &st);
	if (id)
		snprintf(ret, PATH_MAX, SHMEM_NAME "%llu", (unsigned long long)id);
}

int shared_track_cover(struct shared_track *t, const struct memory_map *map, struct phaul_error *err)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct vma *vma = &map->at[i];
		uint64_t id = id_of(map->tid, vma);
		bool deleted = is_deleted(vma);
		char path[80];
		int code;

		if (!deleted && (!id || known(t, id)))
			continue;
		map_file(map->tid, vma, path);
		code = deleted ? cover_deleted(t, path, vma->path, vma->shared && vma->flags & VMA_MAYWRITE) :
				 add(t, id, path, vma->kind == VMA_FILE ? vma->path : NULL);
		/* Unmapped meanwhile: it is looked for again when it comes again. */
		if (code && code != -ENOENT)
			return phaul_fail(err, code, "track", "opening the shared memory that pid %d has at %llx",
					  map->tid, (unsigned long long)vma->start);
	}
	return 0;
}

/* `path`, below /proc, leads to what has that name. */
static int cover_named(struct shared_track *t, const char *path, const char *name)
{
	struct stat st;
	uint64_t id;

	if (*name == '/' && has_mark(name) && !memfd_is_name(name) && strncmp(name, "/SYSV", 5))
		return cover_deleted(t, path, name, false);
	if ((!memfd_is_name(name) && !is_posix(name)) || stat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	id = memfd_is_name(name) ? shmem_id(&st) : POSIX_IDS + st.st_ino;
	return known(t, id) ? 0 : add(t, id, path, name);
}

/* `number`: "fd/7", or "exe". */
static int cover_link(struct shared_track *t, pid_t pid, const char *number)
{
	char name[PATH_MAX], path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, number);
	n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return 0;
	name[n] = 0;
	return cover_named(t, path, name);
}

static int cover_failed(pid_t pid, int code, struct phaul_error *err)
{
	/* One that is closed meanwhile is as good as none. */
	return code && code != -ENOENT ? phaul_fail(err, code, "track", "opening the memfds and deleted files of pid %d", pid) : 0;
}

int shared_track_cover_open(struct shared_track *t, pid_t pid, struct phaul_error *err)
{
	int code = cover_link(t, pid, "exe");
	struct dirent *entry;
	char path[32];
	DIR *links;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	links = opendir(path);
	while (links && (!code || code == -ENOENT) && (entry = readdir(links))) {
		snprintf(path, sizeof(path), "fd/%.16s", entry->d_name);
		if (entry->d_name[0] != '.')
			code = cover_link(t, pid, path);
	}
	if (links)
		closedir(links);
	return cover_failed(pid, code, err);
}

int shared_track_cover_table(struct shared_track *t, const struct descriptor_table *table, struct phaul_error *err)
{
	int code = cover_link(t, table->pid, "exe");
	char path[64];

	for (size_t i = 0; i < table->count && (!code || code == -ENOENT); i++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", table->pid, table->at[i].fd);
		code = cover_named(t, path, table->at[i].link);
	}
	return cover_failed(table->pid, code, err);
}

/* Only those with a name can change. Of a page that the end was in, no more than that was written on the other host, even if
 * it had grown when it was read: it is sent again. */
static int follow_size(struct shared_object *o)
{
	size_t before = pages_of(o);
	struct stat st;
	uint64_t *sums;

	if (!o->name)
		return 0;
	if (fstat(o->fd, &st) < 0)
		return -errno;
	if (before && (uint64_t)st.st_size > o->size && o->size % PAGE)
		o->sums[before - 1] ^= ~0ull;
	o->size = st.st_size;
	sums = reallocarray(o->sums, pages_of(o) + 1, sizeof(*sums));
	if (!sums)
		return -ENOMEM;
	if (pages_of(o) > before)
		memset(sums + before, 0, (pages_of(o) - before) * sizeof(*sums));
	o->sums = sums;
	return 0;
}

static uint64_t sum_of(const struct shared_object *o, size_t page)
{
	uint64_t words[PAGE / 8];
	ssize_t got;

	if (o->at)
		return page_sum(page * PAGE, (const uint64_t *)(o->at + page * PAGE));
	got = pread(o->fd, words, PAGE, page * PAGE);
	got = got < 0 ? 0 : got;
	memset((uint8_t *)words + got, 0, PAGE - got);
	return page_sum(page * PAGE, words);
}

/* What is in a hole is zero, and reading it by way of a mapping would fill it. */
static int look(struct shared_object *o, size_t from, size_t until, bool hole)
{
	int err = 0;

	for (size_t i = from; i < until && !err; i++) {
		uint64_t sum = hole ? 0 : sum_of(o, i);

		if (sum != o->sums[i])
			err = range_list_add(&o->dirty, i * PAGE, (i + 1) * PAGE);
	}
	return err;
}

static int64_t ns_between(struct timespec from, struct timespec to)
{
	return (to.tv_sec - from.tv_sec) * 1000000000ll + (to.tv_nsec - from.tv_nsec);
}

/* A file that was all clean, and not changed since by the clock of its file system, needs no look. */
static bool is_quiet(struct shared_object *o)
{
	struct stat st;

	return o->id & GHOST_IDS && !o->mapped && o->looked_at.tv_sec && !fstat(o->fd, &st) && (uint64_t)st.st_size == o->size &&
	       ns_between(st.st_ctim, o->looked_at) > CLOCK_STEP_NS;
}

static int look_at_all(struct shared_object *o)
{
	int err = follow_size(o);
	size_t at = 0, count = pages_of(o);

	range_list_reset(&o->dirty);
	while (at < count && !err) {
		off_t data = lseek(o->fd, at * PAGE, SEEK_DATA), hole = data < 0 ? data : lseek(o->fd, data, SEEK_HOLE);
		size_t from = data < 0 ? count : data / PAGE, until = data < 0 ? count : (hole + PAGE - 1) / PAGE;

		/* It may have grown since. */
		from = from < count ? from : count;
		until = until < count ? until : count;
		if (data < 0 ? errno != ENXIO : hole < 0)
			return -errno;
		err = look(o, at, from, true) ?: look(o, from, until, false);
		at = until;
	}
	return err;
}

static int scan(struct shared_object *o)
{
	struct timespec now;
	int err;

	if (is_quiet(o))
		return 0;
	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	err = look_at_all(o);
	o->looked_at = err || o->dirty.count ? (struct timespec){ 0 } : now;
	return err;
}

int64_t shared_track_scan(struct shared_track *t, struct phaul_error *err)
{
	int64_t pages = 0;

	for (size_t i = 0; i < t->count; i++) {
		int code = scan(&t->at[i]);

		if (code)
			return phaul_fail(err, code, "track", "reading the shared memory %llu", (unsigned long long)t->at[i].id);
		pages += t->at[i].dirty.pages;
	}
	return pages;
}

static int put(const struct shared_object *o, struct image_set *to)
{
	uint64_t numbers[] = { o->id, o->size };
	int segment = shmem_segment(o->id), err = o->name || segment < 0 ? 0 : sysv_shm_dump(to, segment);

	/* One that has been removed while nobody had it any more has nothing to say. */
	if (err == -EINVAL || err == -EIDRM)
		return 0;
	err = err ?: image_put_raw(to, "phaul-shared", -1, numbers, sizeof(numbers));
	if (!err && o->id & GHOST_IDS)
		err = ghost_object_put(to, o->fd, o->name, o->id);
	else if (!err && o->name)
		err = memfd_is_name(o->name) ? memfd_put_inode(to, o->fd, o->name, o->id) : posix_shm_put(to, o->fd, o->name, o->id);
	return err;
}

int shared_track_put(const struct shared_track *t, struct image_set *to)
{
	int err = 0;

	for (size_t i = 0; i < t->count && !err; i++)
		err = put(&t->at[i], to);
	return err;
}

void shared_track_leave(const struct shared_track *t)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->at[i].id & POSIX_IDS)
			posix_shm_leave(t->at[i].fd, t->at[i].name);
}

void shared_track_free(struct shared_track *t)
{
	for (size_t i = 0; i < t->count; i++)
		forget(&t->at[i]);
	free(t->at);
	memset(t, 0, sizeof(*t));
}
