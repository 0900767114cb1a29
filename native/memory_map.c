#include "memory_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "error.h"

/* A /proc file whole, as a string. */
static int slurp(const char *path, char **ret)
{
	size_t size = 0, capacity = 1 << 16;
	char *text = malloc(capacity);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = 0;

	while (text && fd >= 0 && (got = read(fd, text + size, capacity - size - 1)) > 0) {
		size += got;
		if (capacity - size < 8192) {
			char *larger = realloc(text, capacity *= 2);

			if (!larger) {
				free(text);
				text = NULL;
				break;
			}
			text = larger;
		}
	}
	if (!text || fd < 0 || got < 0) {
		int err = text ? -errno : -ENOMEM;

		if (fd >= 0)
			close(fd);
		free(text);
		return err;
	}
	close(fd);
	text[size] = 0;
	*ret = text;
	return 0;
}

/* sscanf takes most of the time of a freeze with many mappings; this does not. */
static uint64_t number(char **at, int base)
{
	uint64_t value = 0;

	for (;; (*at)++) {
		char c = **at;
		int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;

		if (digit >= base)
			return value;
		value = value * base + digit;
	}
}

#define USER_END 0x7ffffffff000ull
#define LOWEST 0x10000ull	/* vm.mmap_min_addr */

#define HUGE "/anon_hugepage (deleted)"

static enum vma_kind kind_of(const struct vma *vma)
{
	const char *path = vma->path;

	if (!strcmp(path, "[vdso]"))
		return VMA_VDSO;
	if (!strncmp(path, "[vvar", 5))
		return VMA_VVAR;
	if (!strcmp(path, "[vsyscall]"))
		return VMA_VSYSCALL;
	if (!*path && vma->inode == 0)
		return vma->shared ? VMA_OTHER : VMA_ANON;
	if (vma->shared && (!strcmp(path, "/dev/zero (deleted)") || !strcmp(path, HUGE)))
		return VMA_SHMEM;
	if (!strcmp(path, HUGE) || !strcmp(path, "[heap]") || !strcmp(path, "[stack]") || !strncmp(path, "[anon:", 6))
		return VMA_ANON;
	if (!strncmp(path, "/SYSV", 5))
		return vma->shared ? VMA_SYSV : VMA_OTHER;
	if (!strncmp(path, "/[aio]", 6))
		return VMA_AIO;
	if (!strncmp(path, "socket:[", 8))
		return VMA_SOCKET;
	/* POSIX shared memory is files of a file system in memory. */
	if (path[0] == '/' && path[1] != '[' && (strncmp(path, "/dev/", 5) || !strncmp(path, "/dev/shm/", 9)))
		return VMA_FILE;
	return VMA_OTHER;
}

/* "7f00-7f10 rw-p 00000000 08:01 1234    /path": `line` is cut at its end. */
static void parse_vma(char *line, struct vma *vma)
{
	uint64_t major;
	char *at = line;

	memset(vma, 0, sizeof(*vma));
	vma->start = number(&at, 16);
	at++;
	vma->end = number(&at, 16);
	at++;
	vma->prot = (at[0] == 'r' ? PROT_READ : 0) | (at[1] == 'w' ? PROT_WRITE : 0) |
		    (at[2] == 'x' ? PROT_EXEC : 0);
	vma->shared = at[3] == 's';
	at += 5;
	vma->offset = number(&at, 16);
	at++;
	major = number(&at, 16);
	at++;
	vma->dev = makedev(major, number(&at, 16));
	at++;
	vma->inode = number(&at, 10);
	while (*at == ' ')
		at++;
	vma->path = at;
	vma->kind = kind_of(vma);
}

static uint32_t flag_of(const char *two)
{
	static const struct { char name[3]; uint32_t flag; } flags[] = {
		{ "gd", VMA_GROWSDOWN }, { "lo", VMA_LOCKED }, { "lf", VMA_LOCK_ON_FAULT },
		{ "hg", VMA_HUGEPAGE }, { "nh", VMA_NOHUGEPAGE }, { "dc", VMA_DONTFORK },
		{ "dd", VMA_DONTDUMP }, { "wf", VMA_WIPEONFORK }, { "nr", VMA_NORESERVE },
		{ "ac", VMA_ACCOUNT }, { "mg", VMA_MERGEABLE }, { "sr", VMA_SEQUENTIAL },
		{ "rr", VMA_RANDOM }, { "ht", VMA_HUGETLB }, { "sl", VMA_SEALED },
		{ "dp", VMA_DROPPABLE }, { "io", VMA_IO }, { "um", VMA_UFFD },
		{ "mw", VMA_MAYWRITE },
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		if (!memcmp(two, flags[i].name, 2))
			return flags[i].flag;
	return 0;
}

static uint32_t parse_flags(const char *at)
{
	uint32_t flags = VMA_KNOWN;

	while (*at == ' ')
		at++;
	while (at[0] && at[1]) {
		flags |= flag_of(at);
		for (at += 2; *at == ' '; at++)
			;
	}
	return flags;
}

static struct vma *append(struct memory_map *map)
{
	if (map->count == map->capacity) {
		size_t capacity = map->capacity ? 2 * map->capacity : 256;
		void *at = realloc(map->at, capacity * sizeof(*map->at));

		if (!at)
			return NULL;
		map->at = at;
		map->capacity = capacity;
	}
	return &map->at[map->count++];
}

/* The kernel writes a page of text at a time, and a running process may merge or grow mappings between two: the
 * same memory is then told twice. What came first counts. */
static void separate(struct memory_map *map)
{
	size_t n = 0;

	for (size_t i = 0; i < map->count; i++) {
		struct vma vma = map->at[i];
		uint64_t known = n ? map->at[n - 1].end : 0;

		if (vma.end <= known)
			continue;
		if (vma.start < known) {
			vma.offset += *vma.path == '/' ? known - vma.start : 0;
			vma.start = known;
		}
		map->at[n++] = vma;
	}
	map->count = n;
}

static int parse(struct memory_map *map)
{
	for (char *line = map->text, *end; *line; line = end + 1) {
		end = strchrnul(line, '\n');
		if (!*end)
			break;
		*end = 0;
		/* Addresses are in lower case; the other lines of smaps begin with a capital. */
		if (*line >= 'A' && *line <= 'Z') {
			if (map->count && !strncmp(line, "VmFlags:", 8))
				map->at[map->count - 1].flags = parse_flags(line + 8);
			else if (map->count && !strncmp(line, "KernelPageSize:", 15) && strtoul(line + 15, NULL, 10) > 4)
				map->at[map->count - 1].huge_shift = __builtin_ctzl(strtoul(line + 15, NULL, 10)) + 10;
			continue;
		}
		struct vma *vma = append(map);

		if (!vma)
			return -ENOMEM;
		parse_vma(line, vma);
	}
	separate(map);
	return 0;
}

int memory_map_parse(char *text, struct memory_map *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->text = text;
	return parse(ret);
}

int memory_map_read(pid_t tid, bool with_flags, struct memory_map *ret, struct phaul_error *err)
{
	char path[48];
	int code;

	char *text = NULL;

	memset(ret, 0, sizeof(*ret));
	snprintf(path, sizeof(path), "/proc/%d/%s", tid, with_flags ? "smaps" : "maps");
	code = slurp(path, &text);
	if (!code)
		code = memory_map_parse(text, ret);
	ret->tid = tid;
	if (!code && !ret->count)
		code = -ESRCH;
	if (code) {
		memory_map_free(ret);
		return phaul_fail(err, code, "memory map", "reading the mappings of pid %d", tid);
	}
	return 0;
}

void memory_map_free(struct memory_map *map)
{
	free(map->at);
	free(map->text);
	memset(map, 0, sizeof(*map));
}

int memory_map_copy(const struct memory_map *map, struct memory_map *ret)
{
	size_t size = 1;
	char *text;

	for (size_t i = 0; i < map->count; i++)
		size += strlen(map->at[i].path) + 1;
	*ret = (struct memory_map){
		.tid = map->tid, .text = malloc(size), .at = calloc(map->count + 1, sizeof(*ret->at)), .count = map->count,
		.capacity = map->count,
	};
	if (!ret->text || !ret->at) {
		memory_map_free(ret);
		return -ENOMEM;
	}
	text = ret->text;
	for (size_t i = 0; i < map->count; i++) {
		ret->at[i] = map->at[i];
		ret->at[i].path = text;
		text = stpcpy(text, map->at[i].path) + 1;
	}
	return 0;
}

/* The first that ends above `address`; count if none. */
static size_t first_above(const struct memory_map *map, uint64_t address)
{
	size_t low = 0, high = map->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (map->at[middle].end > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

struct vma *memory_map_find(const struct memory_map *map, uint64_t address)
{
	size_t i = first_above(map, address);

	return i < map->count && map->at[i].start <= address ? &map->at[i] : NULL;
}

const struct vma *memory_map_named(const struct memory_map *map, const char *path)
{
	for (size_t i = 0; i < map->count; i++)
		if (!strcmp(map->at[i].path, path))
			return &map->at[i];
	return NULL;
}

void memory_map_inherit_flags(struct memory_map *map, const struct memory_map *known)
{
	for (size_t i = 0; i < map->count; i++) {
		struct vma *vma = &map->at[i];
		size_t at = first_above(known, vma->start);

		if (at == known->count || known->at[at].start >= vma->end)
			continue;
		const struct vma *old = &known->at[at];

		if (old->kind == vma->kind && old->shared == vma->shared && old->inode == vma->inode) {
			vma->flags = old->flags;
			vma->huge_shift = old->huge_shift;
		}
	}
}

bool vma_same_backing(const struct vma *old, const struct vma *new)
{
	uint32_t fixed = VMA_GROWSDOWN | VMA_NORESERVE;

	if (old->kind != new->kind || old->shared != new->shared ||
	    (old->flags & fixed) != (new->flags & fixed))
		return false;
	return new->kind == VMA_ANON ||
	       ((new->kind == VMA_SHMEM || new->kind == VMA_SYSV || !strcmp(old->path, new->path)) && old->inode == new->inode &&
		old->offset - old->start == new->offset - new->start);
}

void memory_map_mark_fresh(struct memory_map *map, const struct memory_map *old)
{
	for (size_t i = 0; i < map->count; i++) {
		struct vma *vma = &map->at[i];

		for (size_t at = first_above(old, vma->start);
		     at < old->count && old->at[at].start < vma->end; at++)
			if (!vma_same_backing(&old->at[at], vma))
				vma->flags |= VMA_FRESH;
	}
}

bool memory_map_equal(const struct memory_map *a, const struct memory_map *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		const struct vma *x = &a->at[i], *y = &b->at[i];

		if (x->start != y->start || x->end != y->end || x->offset != y->offset || x->dev != y->dev ||
		    x->inode != y->inode || x->prot != y->prot || x->shared != y->shared ||
		    strcmp(x->path, y->path))
			return false;
	}
	return true;
}

uint64_t memory_map_gap(const struct memory_map *map)
{
	uint64_t below = LOWEST, at = 0, size = 0;

	for (size_t i = 0; i < map->count; i++) {
		const struct vma *vma = &map->at[i];

		if (vma->kind == VMA_VSYSCALL)
			break;
		if (vma->start > below && vma->start - below > size) {
			size = vma->start - below;
			at = below + size / 2;
		}
		below = vma->end;
	}
	return at & ~4095ull;
}

static int by_start(const void *a, const void *b)
{
	const struct vma *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* Only where they lie. */
static int merge(const struct memory_map *a, const struct memory_map *b, struct memory_map *ret)
{
	*ret = (struct memory_map){ .at = calloc(a->count + b->count + 1, sizeof(*ret->at)) };
	if (!ret->at)
		return -ENOMEM;
	memcpy(ret->at, a->at, a->count * sizeof(*ret->at));
	memcpy(ret->at + a->count, b->at, b->count * sizeof(*ret->at));
	ret->count = a->count + b->count;
	qsort(ret->at, ret->count, sizeof(*ret->at), by_start);
	return 0;
}

uint64_t memory_map_common_gap(const struct memory_map *a, const struct memory_map *b)
{
	struct memory_map both;
	uint64_t gap = merge(a, b, &both) ? 0 : memory_map_gap(&both);

	free(both.at);
	return gap;
}

uint64_t memory_map_highest_gap(const struct memory_map *a, const struct memory_map *b, uint64_t size)
{
	struct memory_map both;
	uint64_t below = LOWEST, at = 0;

	if (merge(a, b, &both))
		return 0;
	for (size_t i = 0; i <= both.count; i++) {
		uint64_t start = i < both.count && both.at[i].start < USER_END ? both.at[i].start : USER_END;

		if (start > below && start - below >= size)
			at = below;
		if (i < both.count && both.at[i].end > below && both.at[i].end <= USER_END)
			below = both.at[i].end;
	}
	free(both.at);
	return at;
}
