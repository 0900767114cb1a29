#include "shmem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "ghost.h"
#include "objects/memfd.h"
#include "posix_shm.h"

#define PAGE 4096ul
#define HUGE_IDS 0x40000000ul

static struct shmem *find(const struct shmem_set *set, uint64_t id)
{
	for (size_t i = 0; i < set->count; i++)
		if (set->at[i].id == id)
			return &set->at[i];
	return NULL;
}

static struct shmem *add(struct shmem_set *set, uint64_t id)
{
	struct shmem *larger = reallocarray(set->at, set->count + 1, sizeof(*larger));

	if (!larger)
		return NULL;
	set->at = larger;
	set->at[set->count] = (struct shmem){ .id = id, .fd = -1, .named = -1 };
	return &set->at[set->count++];
}

uint64_t shmem_id_of(const struct vma *vma)
{
	return vma->inode + (vma->kind == VMA_SYSV ? SYSV_IDS : vma->flags & VMA_HUGETLB ? HUGE_IDS : 0);
}

static bool is_shared(const struct vma *vma)
{
	return vma->kind == VMA_SHMEM || vma->kind == VMA_SYSV;
}

/* Of a mapping that was read from images, where ids of other objects are what they are. */
static uint64_t id_in_images(const struct vma *vma)
{
	if (vma->kind == VMA_FILE)
		return strtoull(vma->path + strlen(SHMEM_NAME), NULL, 10);
	return vma->inode + (vma->kind == VMA_SYSV ? SYSV_IDS : 0);
}

int shmem_segment(uint64_t id)
{
	return id >= SYSV_IDS && id < HUGE_IDS ? (int)(id - SYSV_IDS) : -1;
}

static bool is_segment(const struct shmem *object)
{
	return shmem_segment(object->id) >= 0;
}

static int read_object(void *ctx, uint64_t at, uint8_t *to, size_t size)
{
	size_t done = 0;
	ssize_t got = 1;

	/* Behind the end of a page that is used in part there are zeros. */
	while (done < size && (got = pread(*(int *)ctx, to + done, size - done, at + done)) > 0)
		done += got;
	memset(to + done, 0, size - done);
	return got < 0 ? -errno : 0;
}

/* Holes stay holes. */
static int dump_object(int object, struct page_writer *w)
{
	off_t from = 0, until;
	int err = 0;

	while (!err && (from = lseek(object, from, SEEK_DATA)) >= 0) {
		until = lseek(object, from, SEEK_HOLE);
		if (until < 0)
			return -errno;
		err = page_writer_put(w, from, (until - from + PAGE - 1) / PAGE, read_object, &object);
		from = until;
	}
	return err ? err : errno == ENXIO ? 0 : -errno;
}

uint64_t shmem_id(const struct stat *st)
{
	return st->st_ino + (st->st_blksize > (long)PAGE ? HUGE_IDS : 0);
}

bool shmem_known(const struct shmem_set *set, uint64_t id)
{
	return find(set, id);
}

int shmem_dump_object(struct shmem_set *known, uint64_t id, int object, struct page_writer *w)
{
	if (find(known, id))
		return 0;
	if (!add(known, id))
		return -ENOMEM;
	/* Of processes that move it is sent. */
	if (!w)
		return 0;
	return page_writer_begin(w, "pagemap-shmem", id) ?: dump_object(object, w) ?: page_writer_end(w);
}

int shmem_dump(const struct memory_map *map, struct shmem_set *known, struct page_writer *w)
{
	int err = 0;

	for (size_t i = 0; i < map->count && !err; i++) {
		const struct vma *vma = &map->at[i];
		char path[80];
		int object;

		if (!is_shared(vma) || find(known, shmem_id_of(vma)))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", map->tid, (unsigned long)vma->start,
			 (unsigned long)vma->end);
		object = open(path, O_RDONLY | O_CLOEXEC);
		err = object < 0 ? -errno : shmem_dump_object(known, shmem_id_of(vma), object, w);
		if (!err && vma->kind == VMA_SYSV)
			err = sysv_shm_dump(w->images, vma->inode);
		if (object >= 0)
			close(object);
	}
	return err;
}

int shmem_note(struct shmem_set *set, const struct memory_map *map, pid_t pid, struct phaul_error *err)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct vma *vma = &map->at[i];
		uint64_t size = vma->offset + (vma->end - vma->start);
		struct shmem *object;

		if (!is_shared(vma))
			continue;
		if (size < vma->offset || size > INT64_MAX)
			return image_wrong("mm", pid, err, "mapping %llx-%llx: pgoff %llx is behind the end of any memory",
					   (unsigned long long)vma->start, (unsigned long long)vma->end, (unsigned long long)vma->offset);
		object = find(set, id_in_images(vma)) ?: add(set, id_in_images(vma));
		if (!object)
			return phaul_fail(err, -ENOMEM, "shared memory", "listing it");
		/* One that is made has its size. */
		if (object->at || object->fd >= 0)
			continue;
		object->huge_shift = vma->huge_shift;
		object->size = size > object->size ? size : object->size;
	}
	return 0;
}

static bool is_ghost(const struct shmem *object)
{
	return object->id & GHOST_IDS;
}

/* Of it as it is now: its pages end with it, whatever is mapped. */
static bool has_pages(const struct shmem *object, uint64_t at, uint64_t pages)
{
	bool there = object->at || (is_ghost(object) && object->fd >= 0);
	uint64_t size = there ? (object->there + PAGE - 1) & ~(PAGE - 1) : 0;

	return !(at % PAGE) && at <= size && pages <= (size - at) / PAGE;
}

static int place(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err)
{
	const struct shmem *object = ctx;

	if (!has_pages(object, at, pages))
		return phaul_fail(err, -EPROTO, "shared memory", "pagemap-shmem-%llu.img tells of page %llx, which nobody "
				  "has mapped", (unsigned long long)object->id, (unsigned long long)at);
	memcpy(object->at + at, bytes, pages * PAGE);
	return 0;
}

/* Of one that has a descriptor. What is on a disk is not mapped: that may be full. */
static int map_again(struct shmem *object)
{
	struct stat st;

	object->there = object->size;
	if (is_ghost(object))
		return 0;
	object->at = object->size ? mmap(NULL, object->size, PROT_READ | PROT_WRITE, MAP_SHARED, object->fd, 0) : NULL;
	if (object->at != MAP_FAILED && !fstat(object->fd, &st)) {
		if ((uint64_t)st.st_size < object->size)
			object->there = st.st_size;
		return 0;
	}
	if (object->at != MAP_FAILED && object->at)
		munmap(object->at, object->size);
	object->at = NULL;
	return -errno;
}

static int resize(struct shmem *object, uint64_t size)
{
	if (ftruncate(object->fd, size) < 0)
		return -errno;
	if (object->at)
		munmap(object->at, object->size);
	object->size = size;
	return map_again(object);
}

int shmem_take_memfd(struct shmem_set *set, uint64_t id)
{
	struct shmem *object = find(set, id);

	if (!object || object->fd < 0 || object->name)
		return -ENOENT;
	if (object->at)
		munmap(object->at, object->size);
	object->at = NULL;
	return fcntl(object->fd, F_DUPFD_CLOEXEC, 0);
}

int shmem_take_ghost(struct shmem_set *set, uint64_t id)
{
	struct shmem *object = find(set, id);

	if (!object || object->named < 0)
		return -ENOENT;
	/* What is open for writing can't be executed. */
	if (object->fd >= 0)
		close(object->fd);
	object->fd = -1;
	return fcntl(object->named, F_DUPFD_CLOEXEC, 0);
}

int shmem_note_sizes(struct shmem_set *set, const struct image_set *images, struct phaul_error *err)
{
	struct image_reader reader;
	const void *bytes;
	uint64_t numbers[2];
	int code = image_read(images, "phaul-shared", -1, &reader);

	while (!code && image_left(&reader)) {
		struct shmem *object;

		if (image_next_raw(&reader, sizeof(numbers), &bytes))
			return image_malformed("phaul-shared", -1, err);
		memcpy(numbers, bytes, sizeof(numbers));
		if (numbers[1] > INT64_MAX)
			return image_wrong("phaul-shared", -1, err, "shared memory %llu has %llu bytes, which is more than any",
					   (unsigned long long)numbers[0], (unsigned long long)numbers[1]);
		object = find(set, numbers[0]) ?: add(set, numbers[0]);
		if (!object)
			return phaul_fail(err, -ENOMEM, "shared memory", "listing it");
		if (!object->at && object->fd < 0 && numbers[1] > object->size)
			object->size = numbers[1];
		else if (object->fd >= 0 && numbers[1] != object->size && (code = resize(object, numbers[1])))
			phaul_fail(err, code, "shared memory", "making it %llu bytes large", (unsigned long long)numbers[1]);
	}
	return code == -ENOENT ? 0 : code;
}

static int make_named(struct shmem *object, const struct image_set *images, struct phaul_error *err)
{
	int code;

	object->fd = is_ghost(object) ? ghost_object_make(images, object->id, object->size, &object->named, err) :
		     object->id & POSIX_IDS ? posix_shm_make(images, object->id, object->size, &object->name, err) :
					      memfd_make_empty(images, object->id, err);
	if (object->fd < 0) {
		code = object->fd;
		object->fd = -1;
		return code;
	}
	code = map_again(object);
	return code ? phaul_fail(err, code, "shared memory", "mapping %llu bytes of it", (unsigned long long)object->size) : 0;
}

static int make(struct shmem *object, const struct image_set *images, bool named, struct phaul_error *err)
{
	int code = named ? make_named(object, images, err) : -ENOENT;

	if (code != -ENOENT)
		return code;

	if (is_segment(object)) {
		code = sysv_shm_make(images, shmem_segment(object->id), &object->sysv, err);
		object->at = object->sysv.at;
		object->there = object->size;
		if (!code && object->size > ((object->sysv.size + PAGE - 1) & ~(PAGE - 1)))
			code = phaul_fail(err, -EPROTO, "shared memory", "System V shared memory %d is mapped beyond its end",
					  object->sysv.id);
		return code;
	}
	object->at = mmap(NULL, object->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE |
			  (object->huge_shift ? MAP_HUGETLB | object->huge_shift << MAP_HUGE_SHIFT : 0), -1, 0);
	object->there = object->size;
	if (object->at != MAP_FAILED)
		return 0;
	object->at = NULL;
	return phaul_fail(err, -errno, "shared memory", "making %llu bytes of it", (unsigned long long)object->size);
}

int shmem_make(struct shmem_set *set, const struct image_set *images, const struct chain *chain, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < set->count && !code; i++) {
		struct shmem *object = &set->at[i];

		if (object->at || object->fd >= 0)
			continue;
		code = make(object, images, !chain, err);
		if (!code && chain)
			code = page_file_read(chain, "pagemap-shmem", object->id, place, object, err);
	}
	return code;
}

/* Zeros where nothing was are not written: the size is right, and a hole stays one. */
static int write_file(const struct shmem *object, const struct page_extent *e, const uint8_t *data, struct phaul_error *err)
{
	uint64_t end = e->address + e->pages * PAGE;
	size_t size = (end < object->size ? end : object->size) - e->address;
	ssize_t put;

	if (e->flags & PAGE_EXTENT_ZERO && !fallocate(object->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, e->address, e->pages * PAGE))
		return 0;
	for (size_t done = 0; done < size; done += put) {
		static const uint8_t zeros[16 * PAGE];
		bool zero = e->flags & PAGE_EXTENT_ZERO;
		size_t most = zero && size - done > sizeof(zeros) ? sizeof(zeros) : size - done;

		put = pwrite(object->fd, zero ? zeros : data + done, most, e->address + done);
		if (put <= 0)
			return phaul_fail(err, put < 0 ? -errno : -EIO, "shared memory", "writing %zu bytes of %s", size, object->name ?: "a deleted file");
	}
	return 0;
}

int shmem_pages(const struct shmem_set *set, uint64_t id, const struct page_extent *extents, size_t count,
		const uint8_t *data, struct phaul_error *err)
{
	const struct shmem *object = find(set, id);
	/* A file system may be full, of which memory that is mapped tells by a signal. */
	bool file = object && (is_ghost(object) || object->name);
	int code = 0;

	for (size_t i = 0; i < count && !code; i++) {
		uint64_t bytes = extents[i].pages * PAGE;

		if (!object || !has_pages(object, extents[i].address, extents[i].pages))
			return phaul_fail(err, -EPROTO, "shared memory", "the source sent page %llx of shared memory %llu, which has "
					  "none there", (unsigned long long)extents[i].address, (unsigned long long)id);
		if (file) {
			code = write_file(object, &extents[i], data, err);
			data += extents[i].flags & PAGE_EXTENT_ZERO ? 0 : bytes;
			continue;
		}
		if (extents[i].flags & PAGE_EXTENT_ZERO) {
			memset(object->at + extents[i].address, 0, bytes);
			continue;
		}
		memcpy(object->at + extents[i].address, data, bytes);
		data += bytes;
	}
	return code;
}

bool shmem_attachable(const struct shmem_set *set, const struct vma *vma)
{
	const struct shmem *object = set ? find(set, id_in_images(vma)) : NULL;

	return object && object->at && !vma->offset && vma->end - vma->start == object->size;
}

int shmem_path(const struct shmem_set *set, const struct vma *vma, char *ret, size_t size)
{
	const struct shmem *object = set ? find(set, id_in_images(vma)) : NULL;
	unsigned long at;

	if (!object || (!object->at && object->fd < 0 && object->named < 0))
		return -ENOENT;
	if (object->fd >= 0 || object->named >= 0) {
		snprintf(ret, size, "/proc/%d/fd/%d", getpid(), object->named >= 0 ? object->named : object->fd);
		return 0;
	}
	at = (unsigned long)object->at;
	snprintf(ret, size, "/proc/%d/map_files/%lx-%lx", getpid(), at, at + (unsigned long)object->size);
	return 0;
}

void shmem_free(struct shmem_set *set, bool done)
{
	for (size_t i = 0; i < set->count; i++) {
		if (is_segment(&set->at[i]))
			sysv_shm_end(&set->at[i].sysv, done);
		else if (set->at[i].at)
			munmap(set->at[i].at, set->at[i].size);
		if (set->at[i].fd >= 0)
			close(set->at[i].fd);
		if (set->at[i].named >= 0)
			close(set->at[i].named);
		if (set->at[i].name && !done)
			(void)unlink(set->at[i].name);
		free(set->at[i].name);
	}
	free(set->at);
	memset(set, 0, sizeof(*set));
}
