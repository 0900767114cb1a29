#include "shared_track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checksum.h"
#include "error.h"
#include "shmem.h"

#define PAGE 4096ul

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
	range_list_free(&o->dirty);
}

static int open_object(const char *path, struct shared_object *o)
{
	struct stat st;

	o->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (o->fd < 0 || fstat(o->fd, &st) < 0)
		return -errno;
	o->size = st.st_size;
	o->sums = calloc(pages_of(o), sizeof(*o->sums));
	if (!o->sums)
		return -ENOMEM;
	o->at = mmap(NULL, pages_of(o) * PAGE, PROT_READ, MAP_SHARED, o->fd, 0);
	if (o->at == MAP_FAILED) {
		o->at = NULL;
		return -errno;
	}
	return 0;
}

int shared_track_cover(struct shared_track *t, const struct memory_map *map, struct phaul_error *err)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct vma *vma = &map->at[i];
		struct shared_object object = { .fd = -1 }, *larger;
		char path[80];
		int code;

		if ((vma->kind != VMA_SHMEM && vma->kind != VMA_SYSV) || known(t, shmem_id_of(vma)))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", map->tid, (unsigned long)vma->start,
			 (unsigned long)vma->end);
		object.id = shmem_id_of(vma);
		code = open_object(path, &object);
		larger = code ? NULL : reallocarray(t->at, t->count + 1, sizeof(*larger));
		if (!larger) {
			forget(&object);
			/* Unmapped meanwhile: it is looked for again when it comes again. */
			if (code == -ENOENT)
				continue;
			return phaul_fail(err, code ? code : -ENOMEM, "track", "opening the shared memory that pid %d has at %llx",
					  map->tid, (unsigned long long)vma->start);
		}
		t->at = larger;
		t->at[t->count++] = object;
	}
	return 0;
}

/* What is in a hole is zero, and reading it by way of a mapping would fill it. */
static int look(struct shared_object *o, size_t from, size_t until, bool hole)
{
	int err = 0;

	for (size_t i = from; i < until && !err; i++) {
		uint64_t sum = hole ? 0 : page_sum(i * PAGE, (const uint64_t *)(o->at + i * PAGE));

		if (sum != o->sums[i])
			err = range_list_add(&o->dirty, i * PAGE, (i + 1) * PAGE);
	}
	return err;
}

static int scan(struct shared_object *o)
{
	size_t at = 0, count = pages_of(o);
	int err = 0;

	range_list_reset(&o->dirty);
	while (at < count && !err) {
		off_t data = lseek(o->fd, at * PAGE, SEEK_DATA), hole = data < 0 ? data : lseek(o->fd, data, SEEK_HOLE);
		size_t from = data < 0 ? count : data / PAGE, until = data < 0 ? count : (hole + PAGE - 1) / PAGE;

		if (data < 0 ? errno != ENXIO : hole < 0)
			return -errno;
		err = look(o, at, from, true) ?: look(o, from, until, false);
		at = until;
	}
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

int shared_track_put(const struct shared_track *t, struct image_set *to)
{
	int err = 0;

	for (size_t i = 0; i < t->count && !err; i++) {
		const struct shared_object *o = &t->at[i];
		uint64_t numbers[] = { o->id, o->size };
		int segment = shmem_segment(o->id);

		err = image_put_raw(to, "phaul-shared", -1, numbers, sizeof(numbers));
		/* One that has been removed while nobody had it any more has nothing to say. */
		if (!err && segment >= 0) {
			err = sysv_shm_dump(to, segment);
			err = err == -EINVAL || err == -EIDRM ? 0 : err;
		}
	}
	return err;
}

void shared_track_free(struct shared_track *t)
{
	for (size_t i = 0; i < t->count; i++)
		forget(&t->at[i]);
	free(t->at);
	memset(t, 0, sizeof(*t));
}
