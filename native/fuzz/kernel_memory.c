/* kernel_memory.c - mappings of our own, and System V shared memory. */
#include "kernel_inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define MAPPINGS_MAX 1024
#define MAPPING_MAX (64ul << 20)

static struct { void *at; size_t size; } mappings[MAPPINGS_MAX];
static size_t mapping_count;

static void *note_mapping(void *at, size_t size)
{
	if (mapping_count == MAPPINGS_MAX)
		abort();
	mappings[mapping_count].at = at;
	mappings[mapping_count++].size = size;
	return at;
}

static bool forget_mapping(void *at, size_t size)
{
	for (size_t i = 0; i < mapping_count; i++)
		if (mappings[i].at == at && mappings[i].size == size) {
			munmap(at, mappings[i].size);
			mappings[i] = mappings[--mapping_count];
			return true;
		}
	return false;
}

/* Behind the end of a file there is nothing: whoever touches that would get a SIGBUS. */
static void *map_file(const struct file *f, size_t length)
{
	uint64_t whole = (f->size + PAGE - 1) & ~(PAGE - 1);
	uint8_t *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		return at;
	if (whole < length)
		mprotect(at + whole, length - whole, PROT_NONE);
	if (f->bytes)
		memcpy(at, f->bytes, f->size < length ? f->size : length);
	return at;
}

void *kernel_mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset)
{
	const struct file *f = fd < 0 ? NULL : kernel_file(fd);

	(void)at;
	(void)protection;
	(void)offset;
	if (kernel_refuses() || (fd >= 0 && !f))
		return MAP_FAILED;
	length = (length + PAGE - 1) & ~(PAGE - 1);
	if (!length || length > (1ul << 46) || (!(flags & MAP_NORESERVE) && !f && length > MAPPING_MAX)) {
		errno = length ? ENOMEM : EINVAL;
		return MAP_FAILED;
	}
	at = f ? map_file(f, length) : mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return at == MAP_FAILED ? at : note_mapping(at, length);
}

int kernel_munmap(void *at, size_t length)
{
	if (forget_mapping(at, (length + PAGE - 1) & ~(PAGE - 1)))
		return 0;
	fprintf(stderr, "kernel: %zu bytes at %p were unmapped, which were not mapped\n", length, at);
	abort();
}

static struct shmid_ds segment;

int kernel_shmget(key_t key, size_t size, int flags)
{
	(void)flags;
	if (size > MAPPING_MAX || !size) {
		errno = EINVAL;
		return -1;
	}
	segment = (struct shmid_ds){ .shm_segsz = size, .shm_perm.__key = key };
	return kernel_answer(atoi(kernel_next_id));
}

/* There is the one that was made last. */
int kernel_shmctl(int id, int command, struct shmid_ds *ds)
{
	if (command == IPC_STAT && (!segment.shm_segsz || id != atoi(kernel_next_id))) {
		errno = EINVAL;
		return -1;
	}
	if (command == IPC_STAT)
		*ds = segment;
	return kernel_answer(0);
}

void *kernel_shmat(int id, const void *at, int flags)
{
	(void)id;
	(void)at;
	return kernel_refuses() ? (void *)-1 : kernel_mmap(NULL, segment.shm_segsz, 0, flags & 0, -1, 0);
}

int kernel_shmdt(const void *at)
{
	for (size_t i = 0; i < mapping_count; i++)
		if (mappings[i].at == at)
			return kernel_munmap((void *)at, mappings[i].size);
	errno = EINVAL;
	return -1;
}


void kernel_memory_begin(void)
{
	segment = (struct shmid_ds){ 0 };
}

void kernel_memory_end(void)
{
	if (!mapping_count)
		return;
	fprintf(stderr, "kernel: %zu mappings were left, the first of %zu bytes\n", mapping_count, mappings[0].size);
	abort();
}
