#include "layout.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "error.h"
#include "objects/memfd.h"
#include "shared_track.h"
#include "shmem.h"

#define USER_END 0x7ffffffff000ull
#define VSYSCALL 0xffffffffff600000ull
#define PAGE 4096ull
#define VMAS_MAX (1u << 20)
#define FILES_MAX (1u << 20)

/* CRIU's vma status bits. */
enum {
	STATUS_REGULAR = 1 << 0,
	STATUS_STACK = 1 << 1,
	STATUS_VSYSCALL = 1 << 2,
	STATUS_VDSO = 1 << 3,
	STATUS_HEAP = 1 << 5,
	STATUS_FILE_PRIVATE = 1 << 6,
	STATUS_FILE_SHARED = 1 << 7,
	STATUS_ANON_SHARED = 1 << 8,
	STATUS_ANON_PRIVATE = 1 << 9,
	STATUS_SYSV = 1 << 10,
	STATUS_SOCKET = VMA_STATUS_SOCKET,
	STATUS_VVAR = 1 << 12,
	STATUS_AIO = 1 << 13,
	STATUS_MEMFD = 1 << 14,
	STATUS_GUARD = 1 << 16,		/* CRIU's way to tell of guard regions, which lie in other mappings */
};

static uint32_t status_of(const struct vma *vma)
{
	switch (vma->kind) {
	case VMA_VDSO:
		return STATUS_REGULAR | STATUS_VDSO | STATUS_ANON_PRIVATE;
	case VMA_VVAR:
		return STATUS_REGULAR | STATUS_VVAR | STATUS_ANON_PRIVATE;
	case VMA_VSYSCALL:
		return STATUS_VSYSCALL;
	case VMA_AIO:
		return STATUS_AIO;
	case VMA_SOCKET:
		return STATUS_REGULAR | STATUS_SOCKET;
	case VMA_SYSV:
		return STATUS_REGULAR | STATUS_SYSV | STATUS_ANON_SHARED;
	case VMA_SHMEM:
		return STATUS_REGULAR | STATUS_ANON_SHARED;
	case VMA_FILE:
		return STATUS_REGULAR | (vma->shared ? STATUS_FILE_SHARED : STATUS_FILE_PRIVATE) |
		       (memfd_is_name(vma->path) ? STATUS_MEMFD : 0);
	default:
		return STATUS_REGULAR | STATUS_ANON_PRIVATE |
		       (!strcmp(vma->path, "[heap]") ? STATUS_HEAP : 0);
	}
}

static uint64_t madv_of(const struct vma *vma)
{
	return (vma->flags & VMA_HUGEPAGE ? 1ull << MADV_HUGEPAGE : 0) |
	       (vma->flags & VMA_NOHUGEPAGE ? 1ull << MADV_NOHUGEPAGE : 0) |
	       (vma->flags & VMA_DONTFORK ? 1ull << MADV_DONTFORK : 0) |
	       (vma->flags & VMA_DONTDUMP ? 1ull << MADV_DONTDUMP : 0) |
	       (vma->flags & VMA_WIPEONFORK ? 1ull << MADV_WIPEONFORK : 0) |
	       (vma->flags & VMA_MERGEABLE ? 1ull << MADV_MERGEABLE : 0) |
	       (vma->flags & VMA_SEQUENTIAL ? 1ull << MADV_SEQUENTIAL : 0) |
	       (vma->flags & VMA_RANDOM ? 1ull << MADV_RANDOM : 0);
}

void layout_vma_entry(const struct vma *vma, uint32_t file_id, VmaEntry *ret)
{
	vma_entry__init(ret);
	ret->start = vma->start;
	ret->end = vma->end;
	ret->pgoff = vma->offset;
	ret->shmid = vma->kind == VMA_SHMEM ? shmem_id_of(vma) : vma->kind == VMA_SYSV ? vma->inode : file_id;
	ret->prot = vma->prot;
	ret->flags = (vma->shared ? MAP_SHARED : MAP_PRIVATE) |
		     (vma->kind == VMA_FILE || vma->kind == VMA_AIO || vma->kind == VMA_SOCKET ? 0 : MAP_ANONYMOUS) |
		     (vma->flags & VMA_GROWSDOWN ? MAP_GROWSDOWN : 0) |
		     (vma->flags & VMA_LOCKED ? MAP_LOCKED : 0) |
		     (vma->flags & VMA_NORESERVE ? MAP_NORESERVE : 0) |
		     (vma->huge_shift && vma->kind != VMA_FILE ? MAP_HUGETLB | vma->huge_shift << MAP_HUGE_SHIFT : 0);
	ret->status = status_of(vma);
	ret->fd = -1;
	ret->has_madv = true;
	ret->madv = madv_of(vma);
	ret->has_fdflags = vma->kind == VMA_FILE;
	ret->fdflags = vma->shared && (vma->flags & VMA_MAYWRITE) ? O_RDWR : O_RDONLY;
	ret->has_phaul_flags = true;
	ret->phaul_flags = vma->flags & ~(VMA_FRESH | VMA_FOREIGN);
}

static int put_file(struct image_set *set, pid_t of, const struct vma *vma, uint32_t id)
{
	FileEntry file = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry fown = FOWN_ENTRY__INIT;

	reg.id = id;
	reg.flags = vma->shared && (vma->flags & VMA_MAYWRITE) ? O_RDWR : O_RDONLY;
	reg.fown = &fown;
	reg.name = (char *)vma->path;
	file.type = FD_TYPES__REG;
	file.id = id;
	file.reg = &reg;
	return image_put(set, "files", of, &file.base);
}

static int put_map(struct image_set *set, pid_t pid, const struct memory_map *map, const struct shared_track *shared)
{
	MmEntry mm = MM_ENTRY__INIT;
	VmaEntry *entries = calloc(map->count + 1, sizeof(*entries));
	VmaEntry **pointers = calloc(map->count + 1, sizeof(*pointers));
	const char *last_path = NULL;
	uint32_t id = 0;
	int err = entries && pointers ? 0 : -ENOMEM;

	for (size_t i = 0; i < map->count && !err; i++) {
		struct vma copy = map->at[i], *vma = &copy;
		char name[PATH_MAX];

		/* It has no name that it could be opened by, but is among what is shared. */
		if (vma->kind == VMA_FILE && vma->shared && memfd_is_name(vma->path))
			vma->kind = VMA_SHMEM;
		if (vma->kind == VMA_FILE && (!last_path || strcmp(last_path, map->at[i].path))) {
			last_path = map->at[i].path;
			shared_track_name(shared, map->tid, vma, name);
			vma->path = name;
			err = put_file(set, pid, vma, ++id);
		}
		layout_vma_entry(vma, vma->kind == VMA_FILE ? id : 0, &entries[i]);
		pointers[i] = &entries[i];
	}
	mm.n_vmas = map->count;
	mm.vmas = pointers;
	if (!err)
		err = image_put(set, "mm", pid, &mm.base);
	free(entries);
	free(pointers);
	return err;
}

static int put_ranges(struct image_set *set, const char *name, pid_t pid, const struct range_list *list)
{
	return image_put_raw(set, name, pid, list->at, list->count * sizeof(*list->at));
}

int layout_put_round(struct image_set *set, uint32_t round)
{
	return image_put_raw(set, "phaul-round", -1, &round, sizeof(round));
}

int layout_put_process(struct image_set *set, pid_t pid, const struct layout_process *process)
{
	return image_put_raw(set, "phaul-process", pid, process, sizeof(*process));
}

int layout_put(struct image_set *set, pid_t pid, const struct memory_map *map, const struct shared_track *shared,
	       const struct final_scan *gone)
{
	int err = put_map(set, pid, map, shared);

	if (err || !gone)
		return err;
	return put_ranges(set, "phaul-absent", pid, &gone->absent) ?: put_ranges(set, "phaul-sparse", pid, &gone->sparse) ?:
	       put_ranges(set, "phaul-populated", pid, &gone->populated) ?: put_ranges(set, "phaul-guards", pid, &gone->guards);
}

int layout_put_inherited(struct image_set *set, pid_t pid, const struct range_list *inherited)
{
	return inherited->count ? put_ranges(set, "phaul-inherited", pid, inherited) : 0;
}

/* ---- unpack ---- */

static int get_raw(const struct image_set *set, const char *name, int64_t id, size_t unit, size_t most, void **ret,
		   size_t *ret_count)
{
	struct image_reader r;
	const void *bytes;
	size_t size;
	int err = image_read(set, name, id, &r);

	*ret = NULL;
	*ret_count = 0;
	if (err == -ENOENT)
		return 0;
	if (err)
		return err;
	size = image_left(&r);
	if (size % unit || size / unit > most)
		return -EPROTO;
	err = image_next_raw(&r, size, &bytes);
	if (err)
		return err;
	*ret = malloc(size + 1);
	if (!*ret)
		return -ENOMEM;
	if (size)
		memcpy(*ret, bytes, size);
	*ret_count = size / unit;
	return 0;
}

static bool range_ok(uint64_t start, uint64_t size)
{
	return !(start % PAGE) && !(size % PAGE) && size && start >= PAGE && start < USER_END &&
	       size <= USER_END - start;
}

static int get_ranges(const struct image_set *set, const char *name, int64_t id, struct range_list *ret, struct phaul_error *err)
{
	uint64_t at = 0;
	void *bytes;

	if (get_raw(set, name, id, sizeof(*ret->at), ~0u, &bytes, &ret->count))
		return image_malformed(name, id, err);
	ret->at = bytes;
	ret->capacity = ret->count;
	for (size_t i = 0; i < ret->count; i++) {
		const struct page_range *r = &ret->at[i];

		if (r->pages > USER_END / PAGE || !range_ok(r->address, r->pages * PAGE) || r->address < at)
			return image_wrong(name, id, err, "range %zu, %llu pages at %llx: none that a process can have, or not behind the one "
					   "before", i, (unsigned long long)r->pages, (unsigned long long)r->address);
		at = r->address + r->pages * PAGE;
	}
	return 0;
}

/* Paths by the ids of "files". All lie in the map's text, which grows: offsets until the end. */
struct file_names {
	size_t *offset;		/* 0: there is none of this id */
	size_t count;
};

static int add_name(struct memory_map *map, struct file_names *names, uint32_t id, const char *name, size_t *used,
		    size_t *capacity)
{
	size_t size = strlen(name) + 1;

	if (size < 2 || size > PATH_MAX || id > FILES_MAX)
		return -EPROTO;
	if (id >= names->count) {
		size_t count = 2 * id + 64;
		void *more = realloc(names->offset, count * sizeof(*names->offset));

		if (!more)
			return -ENOMEM;
		names->offset = more;
		memset(names->offset + names->count, 0, (count - names->count) * sizeof(*names->offset));
		names->count = count;
	}
	if (*used + size > *capacity) {
		char *more = realloc(map->text, *capacity = 2 * (*used + size));

		if (!more)
			return -ENOMEM;
		map->text = more;
	}
	memcpy(map->text + *used, name, size);
	names->offset[id] = *used;
	*used += size;
	return 0;
}

static int get_files(const struct image_set *set, pid_t pid, const struct built_files *files, struct memory_map *map,
		     struct file_names *names)
{
	struct image_reader r;
	ProtobufCMessage *msg;
	size_t used = 1, capacity = 0;
	char path[PATH_MAX];
	int err = image_read(set, "files", files ? -1 : pid, &r), more = 0;

	if (err)
		return err == -ENOENT ? 0 : err;
	while (!err && (more = image_next(&r, &file_entry__descriptor, &msg)) > 0) {
		const FileEntry *file = (FileEntry *)msg;

		if (files ? !built_files_path(files, file->id, path) : file->reg != NULL)
			err = add_name(map, names, file->id, files ? path : file->reg->name, &used, &capacity);
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	return err ? err : more;
}

static enum vma_kind kind_of(const VmaEntry *e)
{
	if (e->status & STATUS_VDSO)
		return VMA_VDSO;
	if (e->status & STATUS_VVAR)
		return VMA_VVAR;
	if (e->status & STATUS_VSYSCALL)
		return VMA_VSYSCALL;
	if (e->status & STATUS_AIO)
		return VMA_AIO;
	if (e->status & STATUS_SOCKET)
		return VMA_SOCKET;
	if (e->status & (STATUS_FILE_PRIVATE | STATUS_FILE_SHARED))
		return VMA_FILE;
	if (e->status & STATUS_SYSV)
		return VMA_SYSV;
	if (e->status & STATUS_ANON_SHARED)
		return VMA_SHMEM;
	return VMA_ANON;
}

/* Of an image that CRIU has written. */
static uint32_t flags_of(const VmaEntry *e)
{
	static const struct { int advice; uint32_t flag; } advices[] = {
		{ MADV_HUGEPAGE, VMA_HUGEPAGE }, { MADV_NOHUGEPAGE, VMA_NOHUGEPAGE }, { MADV_DONTFORK, VMA_DONTFORK },
		{ MADV_DONTDUMP, VMA_DONTDUMP }, { MADV_WIPEONFORK, VMA_WIPEONFORK }, { MADV_MERGEABLE, VMA_MERGEABLE },
		{ MADV_SEQUENTIAL, VMA_SEQUENTIAL }, { MADV_RANDOM, VMA_RANDOM },
	};
	uint32_t flags = VMA_KNOWN | (e->flags & MAP_GROWSDOWN ? VMA_GROWSDOWN : 0) |
			 (e->flags & MAP_LOCKED ? VMA_LOCKED : 0) | (e->flags & MAP_NORESERVE ? VMA_NORESERVE : 0) |
			 (e->flags & MAP_HUGETLB ? VMA_HUGETLB : 0);

	if (!(e->flags & MAP_SHARED) || (e->has_fdflags && (e->fdflags & O_ACCMODE) == O_RDWR) || e->prot & PROT_WRITE)
		flags |= VMA_MAYWRITE;
	for (size_t i = 0; i < sizeof(advices) / sizeof(*advices); i++)
		if (e->madv >> advices[i].advice & 1)
			flags |= advices[i].flag;
	return flags;
}

/* NULL, or what can't be in it. */
static const char *get_vma(const VmaEntry *e, const struct file_names *names, const char *text, unsigned *vvars,
			   uint64_t after, struct vma *ret)
{
	static const char *const vvar_names[] = { "[vvar]", "[vvar_vclock]" };

	*ret = (struct vma){
		.start = e->start, .end = e->end, .offset = e->pgoff,
		.prot = e->prot & (PROT_READ | PROT_WRITE | PROT_EXEC),
		.shared = e->flags & MAP_SHARED, .kind = kind_of(e), .flags = e->phaul_flags & ~(VMA_FRESH | VMA_FOREIGN),
		.path = "",
	};
	if (!e->has_phaul_flags)
		ret->flags = flags_of(e);
	if (ret->kind == VMA_VSYSCALL)
		return e->start == VSYSCALL && e->end == VSYSCALL + PAGE ? NULL : "that is not where the kernel has its vsyscall page";
	if (e->end <= e->start || !range_ok(e->start, e->end - e->start))
		return "start and end are no range of pages that a process can have";
	if (e->start < after)
		return "it begins before the end of the one before it";
	if (e->pgoff % PAGE)
		return "pgoff is no multiple of a page";
	if (ret->kind == VMA_VDSO)
		ret->path = "[vdso]";
	if (ret->kind == VMA_VVAR) {
		if (*vvars == 2)
			return "it is a third vvar";
		ret->path = vvar_names[(*vvars)++];
	}
	if (ret->kind == VMA_FILE) {
		if (e->shmid >= names->count || !names->offset[e->shmid])
			return "shmid is no file of the images";
		ret->path = text + names->offset[e->shmid];
	}
	if (ret->kind == VMA_SHMEM || ret->kind == VMA_SYSV)
		ret->inode = e->shmid;
	if (e->flags & MAP_HUGETLB)
		ret->huge_shift = e->flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK;
	if (ret->kind == VMA_SHMEM || ret->kind == VMA_SYSV ? !ret->shared : ret->kind == VMA_ANON && ret->shared)
		return "status and flags don't agree whether it is shared";
	return NULL;
}

static int add_vmas(struct memory_map *map, const MmEntry *mm, const struct file_names *names, pid_t pid, struct phaul_error *err)
{
	unsigned vvars = 0;
	uint64_t after = 0;

	if (mm->n_vmas > VMAS_MAX)
		return image_wrong("mm", pid, err, "there are %zu vmas, and a process has %u at most", mm->n_vmas, VMAS_MAX);
	map->at = calloc(mm->n_vmas + 1, sizeof(*map->at));
	map->capacity = mm->n_vmas;
	if (!map->at)
		return phaul_fail(err, -ENOMEM, "layout", "reading the mappings of pid %d", pid);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *e = mm->vmas[i];
		const char *why = e->status & STATUS_GUARD ? NULL :
				  get_vma(e, names, map->text, &vvars, after, &map->at[map->count]);

		if (why)
			return image_wrong("mm", pid, err, "vmas[%zu], %llx-%llx: %s", i, (unsigned long long)e->start,
					   (unsigned long long)e->end, why);
		if (!(e->status & STATUS_GUARD))
			after = map->at[map->count++].end;
	}
	return 0;
}

static int get_map(const struct image_set *set, pid_t pid, const struct built_files *files, struct memory_map *map,
		   struct phaul_error *err)
{
	struct file_names names = {0};
	struct image_reader r;
	ProtobufCMessage *msg = NULL;
	int code = get_files(set, pid, files, map, &names);

	if (code)
		code = image_malformed("files", files ? -1 : pid, err);
	else if (image_read(set, "mm", pid, &r) || image_next(&r, &mm_entry__descriptor, &msg) != 1)
		code = image_malformed("mm", pid, err);
	else
		code = add_vmas(map, (MmEntry *)msg, &names, pid, err);
	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
	free(names.offset);
	return code;
}

/* CRIU takes the kernel's [vvar] and the [vvar_vclock] behind it for one. */
static int split_vvar(struct memory_map *map)
{
	const struct vma *first, *second;
	struct memory_map own;
	struct vma *vma = (struct vma *)memory_map_named(map, "[vvar]");
	size_t at = vma ? vma - map->at : 0;
	int err = vma ? memory_map_read(getpid(), false, &own, NULL) : 0;

	if (!vma || err)
		return err;
	first = memory_map_named(&own, "[vvar]");
	second = memory_map_named(&own, "[vvar_vclock]");
	if (first && second && vma->end - vma->start == first->end - first->start + second->end - second->start) {
		uint64_t middle = vma->start + (first->end - first->start);
		struct vma *larger = reallocarray(map->at, map->count + 1, sizeof(*larger));

		if (larger) {
			memmove(larger + at + 1, larger + at, (map->count - at) * sizeof(*larger));
			larger[at].end = larger[at + 1].start = middle;
			larger[at + 1].path = "[vvar_vclock]";
			map->at = larger;
			map->capacity = ++map->count;
		} else {
			err = -ENOMEM;
		}
	}
	memory_map_free(&own);
	return err;
}

int layout_read_map(const struct image_set *set, pid_t pid, const struct built_files *files, struct memory_map *ret,
		    struct phaul_error *err)
{
	int code;

	memset(ret, 0, sizeof(*ret));
	code = get_map(set, pid, files, ret, err);
	if (!code && (code = split_vvar(ret)))
		phaul_fail(err, code, "layout", "looking at where [vvar] of pid %d lies", pid);
	if (code)
		memory_map_free(ret);
	return code;
}

int layout_read_guards(const struct image_set *set, pid_t pid, struct range_list *ret, struct phaul_error *err)
{
	struct image_reader r;
	ProtobufCMessage *msg = NULL;
	int code = get_ranges(set, "phaul-guards", pid, ret, err);
	const MmEntry *mm;

	if (code || ret->count || image_read(set, "mm", pid, &r) || image_next(&r, &mm_entry__descriptor, &msg) != 1)
		return code;
	mm = (MmEntry *)msg;
	for (size_t i = 0; i < mm->n_vmas && !code; i++) {
		const VmaEntry *e = mm->vmas[i];

		if (!(e->status & STATUS_GUARD))
			continue;
		if (!range_ok(e->start, e->end - e->start))
			code = image_wrong("mm", pid, err, "vmas[%zu], %llx-%llx: it is no guard region that a process can have", i,
					   (unsigned long long)e->start, (unsigned long long)e->end);
		else if (range_list_add(ret, e->start, e->end))
			code = phaul_fail(err, -ENOMEM, "layout", "reading the guard regions of pid %d", pid);
	}
	protobuf_c_message_free_unpacked(msg, NULL);
	return code;
}

int layout_read_round(const struct image_set *set, uint32_t *ret)
{
	uint32_t *number;
	size_t count;
	int err = get_raw(set, "phaul-round", -1, sizeof(*number), 1, (void **)&number, &count);

	if (!err && count != 1)
		err = -EPROTO;
	if (!err)
		*ret = *number;
	free(number);
	return err;
}

int layout_read_process(const struct image_set *set, pid_t pid, struct layout_process *ret)
{
	struct layout_process *told;
	size_t count;
	int err = get_raw(set, "phaul-process", pid, sizeof(*told), 1, (void **)&told, &count);

	*ret = !err && count ? *told : (struct layout_process){ 0 };
	free(told);
	return err;
}

int layout_read(const struct image_set *set, pid_t pid, struct layout *ret, struct phaul_error *err)
{
	int code;

	memset(ret, 0, sizeof(*ret));
	code = get_map(set, pid, NULL, &ret->map, err) ?:
	       get_ranges(set, "phaul-inherited", pid, &ret->inherited, err) ?:
	       get_ranges(set, "phaul-absent", pid, &ret->gone.absent, err) ?:
	       get_ranges(set, "phaul-sparse", pid, &ret->gone.sparse, err) ?:
	       get_ranges(set, "phaul-populated", pid, &ret->gone.populated, err) ?:
	       get_ranges(set, "phaul-guards", pid, &ret->gone.guards, err);
	if (code)
		layout_free(ret);
	return code;
}

void layout_free(struct layout *layout)
{
	memory_map_free(&layout->map);
	range_list_free(&layout->inherited);
	range_list_free(&layout->gone.dirty);
	range_list_free(&layout->gone.absent);
	range_list_free(&layout->gone.sparse);
	range_list_free(&layout->gone.populated);
	range_list_free(&layout->gone.guards);
	memset(layout, 0, sizeof(*layout));
}

int threads_list(pid_t pid, pid_t **ret, size_t *ret_count)
{
	size_t count = 0, capacity = 64;
	pid_t *tids = malloc(capacity * sizeof(*tids));
	char path[32];
	struct dirent *d;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (tids && dir && (d = readdir(dir))) {
		pid_t tid = atoi(d->d_name);

		if (tid <= 0)
			continue;
		if (count == capacity) {
			void *more = realloc(tids, (capacity *= 2) * sizeof(*tids));

			if (!more) {
				free(tids);
				tids = NULL;
				break;
			}
			tids = more;
		}
		tids[count++] = tid;
	}
	if (dir)
		closedir(dir);
	*ret = tids;
	*ret_count = count;
	if (!tids)
		return -ENOMEM;
	if (!dir || !count) {
		free(tids);
		*ret = NULL;
		return -ESRCH;
	}
	return 0;
}
