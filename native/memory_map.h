/* memory_map.h - the mappings of a process as /proc shows them. */
#ifndef PHAUL_MEMORY_MAP_H
#define PHAUL_MEMORY_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "phaul.h"

enum vma_kind {
	VMA_ANON,	/* private, no file */
	VMA_FILE,	/* a file by path, private or shared */
	VMA_VDSO,
	VMA_VVAR,	/* [vvar], [vvar_vclock]: the kernel's, moved with the vdso */
	VMA_VSYSCALL,
	VMA_SHMEM,	/* shared anonymous; the inode says which */
	VMA_SYSV,	/* System V shared memory; the inode is the segment's id */
	VMA_AIO,	/* a ring of io_setup(), that the kernel writes to */
	VMA_SOCKET,	/* the rings of a packet socket; the inode is the socket's */
	VMA_OTHER,	/* what can't move: devices, ... */
};

/* From VmFlags of smaps; zero where smaps wasn't read. */
enum {
	VMA_KNOWN = 1 << 0,		/* the flags below were read */
	VMA_GROWSDOWN = 1 << 1,
	VMA_LOCKED = 1 << 2,
	VMA_LOCK_ON_FAULT = 1 << 3,
	VMA_HUGEPAGE = 1 << 4,
	VMA_NOHUGEPAGE = 1 << 5,
	VMA_DONTFORK = 1 << 6,
	VMA_DONTDUMP = 1 << 7,
	VMA_WIPEONFORK = 1 << 8,
	VMA_NORESERVE = 1 << 9,
	VMA_ACCOUNT = 1 << 10,		/* was writable once, or still is */
	VMA_MERGEABLE = 1 << 11,
	VMA_SEQUENTIAL = 1 << 12,
	VMA_RANDOM = 1 << 13,
	VMA_HUGETLB = 1 << 14,
	VMA_SEALED = 1 << 15,
	VMA_DROPPABLE = 1 << 16,
	VMA_IO = 1 << 17,		/* device memory */
	VMA_UFFD = 1 << 18,		/* a userfaultfd of the process itself watches it */
	VMA_FRESH = 1 << 20,		/* not the kernel's: see memory_map_mark_fresh() */
	VMA_FOREIGN = 1 << 21,		/* nor is this: the vdso or vvar of another kernel, which is plain memory here */
	VMA_MAYWRITE = 1 << 19,		/* mprotect may make it writable */
};

struct vma {
	uint64_t start, end;
	uint64_t offset;	/* in the file, bytes */
	uint64_t dev;		/* makedev() form */
	uint64_t inode;
	const char *path;	/* "" if none; points into the map */
	int prot;		/* PROT_ */
	bool shared;
	uint32_t huge_shift;	/* of its pages, if they are huge: 21, 30 */
	enum vma_kind kind;
	uint32_t flags;
};

struct memory_map {
	pid_t tid;
	char *text;
	struct vma *at;		/* ascending */
	size_t count, capacity;
};

/* `tid` is any live thread: the leader's files are empty when it has ended. With flags reads smaps, about
 * 10 ms per GiB: never in the freeze. */
int memory_map_read(pid_t tid, bool with_flags, struct memory_map *ret, struct phaul_error *err);
void memory_map_free(struct memory_map *map);
int memory_map_copy(const struct memory_map *map, struct memory_map *ret);
/* From the text of such a file, which it takes. */
int memory_map_parse(char *text, struct memory_map *ret);

/* The mapping that covers `address`, NULL if none. */
struct vma *memory_map_find(const struct memory_map *map, uint64_t address);
const struct vma *memory_map_named(const struct memory_map *map, const char *path);

/* Takes flags for mappings that are unchanged or have grown from what a map with flags says. Mappings
 * merge only if their flags are equal, so that one that overlaps an old one has that one's. */
void memory_map_inherit_flags(struct memory_map *map, const struct memory_map *known);

/* The same mappings; flags aside. */
bool memory_map_equal(const struct memory_map *a, const struct memory_map *b);

/* Is `new`, where both are, the same memory as `old`, so that on the target its content stays? */
bool vma_same_backing(const struct vma *old, const struct vma *new);

/* Marks mappings that have taken the place of others since `old` was read. The target maps them anew, without
 * what it had received for that place, some of which may have been theirs already: between the reading of
 * the old map and the scan by it. All their pages are to be sent, written or not. */
void memory_map_mark_fresh(struct memory_map *map, const struct memory_map *old);

/* The middle of the largest gap, page aligned: where nothing will be for a while. */
uint64_t memory_map_gap(const struct memory_map *map);
/* The same of a gap that both have. */
uint64_t memory_map_common_gap(const struct memory_map *a, const struct memory_map *b);
/* The start of the highest gap of this size that both have, 0 if there is none: mostly above the stack, where a program
 * gets nothing that doesn't ask for that very address. */
uint64_t memory_map_highest_gap(const struct memory_map *a, const struct memory_map *b, uint64_t size);

/* Its pages travel: private, and not the kernel's own. */
static inline bool vma_has_pages(const struct vma *vma)
{
	return !vma->shared && (vma->kind == VMA_ANON || vma->kind == VMA_FILE);
}

static inline uint64_t vma_page_bytes(const struct vma *vma)
{
	return !(vma->flags & VMA_HUGETLB) ? 4096 : vma->huge_shift ? 1ull << vma->huge_shift : 2ull << 20;
}

struct check;
/* Adds an obstacle for each mapping that can't move. */
void memory_check(struct check *c);

#endif
