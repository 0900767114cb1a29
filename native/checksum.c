#include "checksum.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "pagemap.h"
#include "track.h"

#define PAGE 4096ull
#define CHUNK (256 * PAGE)

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	return x;
}

uint64_t page_sum(uint64_t address, const uint64_t *words)
{
	uint64_t lanes[4] = { 1, 2, 3, 4 }, any = 0;

	for (size_t i = 0; i < PAGE / 8; i += 4)
		for (size_t j = 0; j < 4; j++) {
			any |= words[i + j];
			lanes[j] = (lanes[j] ^ words[i + j]) * 0x9e3779b97f4a7c15ull;
			lanes[j] ^= lanes[j] >> 29;
		}
	return any ? mix(lanes[0] ^ mix(lanes[1] ^ mix(lanes[2] ^ mix(lanes[3] ^ address)))) : 0;
}

static int sum_range(int mem, uint64_t start, uint64_t end, uint64_t *buffer, uint64_t *sum)
{
	while (start < end) {
		size_t size = end - start < CHUNK ? end - start : CHUNK;
		ssize_t got = pread(mem, buffer, size, start);

		/* Beyond the end of a mapped file, or a guard region: nothing there on either side. */
		if (got < (ssize_t)PAGE) {
			if (got < 0 && errno != EIO && errno != EFAULT)
				return -errno;
			start += PAGE;
			continue;
		}
		got -= got % PAGE;
		for (ssize_t at = 0; at < got; at += PAGE)
			*sum += page_sum(start + at, buffer + at / 8);
		start += got;
	}
	return 0;
}

static int sum_vma(int mem, int pagemap, const struct vma *vma, uint64_t *buffer, uint64_t *ret)
{
	struct range_list populated = {0};
	int err = 0;

	*ret = 0;
	if (vma->kind == VMA_FILE)
		return sum_range(mem, vma->start, vma->end, buffer, ret);
	err = pagemap_populated(pagemap, vma->start, vma->end, &populated);
	for (size_t i = 0; i < populated.count && !err; i++)
		err = sum_range(mem, populated.at[i].address,
				populated.at[i].address + populated.at[i].pages * PAGE, buffer, ret);
	range_list_free(&populated);
	return err;
}

int checksum(int mem, const struct memory_map *map, char *ret_text, size_t size, struct phaul_error *err)
{
	uint64_t *buffer = aligned_alloc(PAGE, CHUNK);
	char path[32];
	size_t used = 0;
	int pagemap, code = 0;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", map->tid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0 || !buffer)
		code = pagemap < 0 ? -errno : -ENOMEM;
	for (size_t i = 0; i < map->count && !code; i++) {
		const struct vma *vma = &map->at[i];
		uint64_t sum;
		int n;

		if (!vma_has_pages(vma))
			continue;
		code = sum_vma(mem, pagemap, vma, buffer, &sum);
		n = snprintf(ret_text + used, size - used, "%d %llx-%llx %016llx\n", map->tid,
			     (unsigned long long)vma->start, (unsigned long long)vma->end,
			     (unsigned long long)sum);
		used += n;
		if (used >= size)
			code = -ENOBUFS;
	}
	free(buffer);
	if (pagemap >= 0)
		close(pagemap);
	return code ? phaul_fail(err, code, "checksum", "comparing the memory of pid %d", map->tid) : 0;
}

static int by_id(const void *a, const void *b)
{
	const struct shared_view *left = a, *right = b;

	return (left->id > right->id) - (left->id < right->id);
}

int checksum_shared(struct shared_view *views, size_t count, char *ret_text, size_t size, struct phaul_error *err)
{
	size_t used = 0;

	qsort(views, count, sizeof(*views), by_id);
	for (size_t i = 0; i < count; i++) {
		uint64_t sum = 0;

		for (uint64_t offset = 0; offset < views[i].size; offset += PAGE)
			sum += page_sum(offset, (const uint64_t *)(views[i].at + offset));
		used += snprintf(ret_text + used, size - used, "shared %llu %016llx\n", (unsigned long long)views[i].id,
				 (unsigned long long)sum);
		if (used >= size)
			return phaul_fail(err, -ENOBUFS, "checksum", "comparing shared memory");
	}
	return 0;
}
