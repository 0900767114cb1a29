#include "kernel_mappings.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "error.h"

#define PAGE 4096ul

static bool is_kernels(const struct vma *vma)
{
	return vma->kind == VMA_VDSO || vma->kind == VMA_VVAR;
}

/* The kernel's mappings go by way of a place that both layouts leave free: where they are and where they
 * shall be may overlap. */
void kernel_mappings_follow(struct batch *b, const struct memory_map *own, const struct memory_map *map, remote_addr between)
{
	for (int leg = 0; leg < 2; leg++) {
		remote_addr at = between;

		for (size_t i = 0; i < own->count; i++) {
			const struct vma *vma = &own->at[i];
			const struct vma *wanted = memory_map_named(map, vma->path);
			uint64_t size = vma->end - vma->start;

			if (!is_kernels(vma) || !wanted)
				continue;
			batch_call(b, "move the kernel's own mappings (vdso, vvar)", SYS_mremap,
				   leg ? at : vma->start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
				   leg ? wanted->start : at);
			at += size;
		}
	}
}

int kernel_mappings_check(const struct memory_map *own, const struct memory_map *map, struct phaul_error *err)
{
	for (size_t i = 0; i < map->count; i++) {
		const struct vma *wanted = &map->at[i];
		const struct vma *vma;

		if (!is_kernels(wanted))
			continue;
		vma = memory_map_named(own, wanted->path);
		if (!vma || vma->end - vma->start != wanted->end - wanted->start)
			return phaul_fail(err, -EXDEV, "husk", "this host's kernel has another %s than the "
					  "source's: its size differs", wanted->path);
	}
	return 0;
}

remote_addr kernel_mappings_start(const struct memory_map *own)
{
	for (size_t i = 0; i < own->count; i++)
		if (is_kernels(&own->at[i]))
			return own->at[i].start;
	return 0;
}

/* The code finds its data by their distance: all move together. */
int64_t kernel_mappings_aside(struct batch *b, const struct memory_map *own, const struct memory_map *map)
{
	const struct vma *vdso = memory_map_named(own, "[vdso]");
	uint64_t start = kernel_mappings_start(own);
	int64_t by = memory_map_highest_gap(own, map, vdso->end - start + 2 * PAGE) + PAGE - start;

	for (size_t i = 0; i < own->count; i++) {
		uint64_t size = own->at[i].end - own->at[i].start;

		if (is_kernels(&own->at[i]))
			batch_call(b, "move the kernel's own mappings (vdso, vvar) aside", SYS_mremap, own->at[i].start, size, size,
				   MREMAP_MAYMOVE | MREMAP_FIXED, own->at[i].start + by);
	}
	return by;
}
