/* stage.c - the husk's mappings, by difference. */
#include "stage.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"

#define PAGE 4096ull
#define CALLS_AT_ONCE 4096
#define CALLS_A_MAPPING 16	/* no mapping needs more */

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08	/* Linux 6.11 */
#endif

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24	/* Linux 5.18 */
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102	/* Linux 6.13 */
#endif

/* Flags that madvise() gives, and what gives them. */
static const struct { uint32_t flag; int advice; const char *name; } advices[] = {
	{ VMA_HUGEPAGE, MADV_HUGEPAGE, "madvise(MADV_HUGEPAGE)" },
	{ VMA_NOHUGEPAGE, MADV_NOHUGEPAGE, "madvise(MADV_NOHUGEPAGE)" },
	{ VMA_DONTFORK, MADV_DONTFORK, "madvise(MADV_DONTFORK)" },
	{ VMA_DONTDUMP, MADV_DONTDUMP, "madvise(MADV_DONTDUMP)" },
	{ VMA_WIPEONFORK, MADV_WIPEONFORK, "madvise(MADV_WIPEONFORK)" },
	{ VMA_MERGEABLE, MADV_MERGEABLE, "madvise(MADV_MERGEABLE)" },
	{ VMA_SEQUENTIAL, MADV_SEQUENTIAL, "madvise(MADV_SEQUENTIAL)" },
	{ VMA_RANDOM, MADV_RANDOM, "madvise(MADV_RANDOM)" },
};

/* Calls that change the husk's mappings, in as many batches as they need. */
struct change {
	struct stage *stage;
	struct batch batch;
	struct phaul_error *err;
	int code;
};

static void begin(struct change *c)
{
	remote_area_reset(&c->stage->husk->area);
	if (!c->code)
		c->code = batch_begin(&c->batch, &c->stage->husk->area, &c->stage->husk->leader,
				      CALLS_AT_ONCE);
}

static void run(struct change *c)
{
	if (!c->code)
		c->code = batch_run(&c->batch, 1, c->err);
	if (!c->code)
		c->code = batch_check(&c->batch, c->err);
	batch_free(&c->batch);
}

/* Room for one more mapping. */
static void reserve(struct change *c)
{
	struct remote_area *area = &c->stage->husk->area;

	if (c->batch.count + CALLS_A_MAPPING <= CALLS_AT_ONCE &&
	    area->used + 2 * PAGE < area->size - PAGE)
		return;
	run(c);
	begin(c);
}

static void unmap(struct change *c, uint64_t start, uint64_t end)
{
	reserve(c);
	batch_call(&c->batch, "unmap what the source has unmapped", SYS_munmap, start, end - start);
	received_remove(&c->stage->received, start, (end - start) / PAGE);
}

/* Of no file, and not the kernel's either. */
static bool is_plain(const struct vma *vma)
{
	return vma->kind == VMA_ANON || vma->flags & VMA_FOREIGN;
}

static int map_flags(const struct vma *vma)
{
	/* What a ring of AIO holds waits in memory of the process's own until there is one; packet sockets come later, too. */
	bool ring = vma->kind == VMA_AIO || vma->kind == VMA_SOCKET;

	return MAP_FIXED | (vma->flags & VMA_DROPPABLE ? MAP_DROPPABLE : vma->shared && !ring ? MAP_SHARED : MAP_PRIVATE) |
	       (is_plain(vma) || ring ? MAP_ANONYMOUS : 0) |
	       (vma->kind == VMA_ANON && vma->huge_shift ? MAP_HUGETLB | vma->huge_shift << MAP_HUGE_SHIFT : 0) |
	       (vma->flags & VMA_GROWSDOWN ? MAP_GROWSDOWN : 0) |
	       (vma->flags & VMA_NORESERVE ? MAP_NORESERVE : 0);
}

static void advise(struct change *c, const struct vma *vma, uint64_t start, uint64_t end, uint32_t had)
{
	for (size_t i = 0; i < sizeof(advices) / sizeof(*advices); i++)
		if (vma->flags & ~had & advices[i].flag)
			batch_call(&c->batch, advices[i].name, SYS_madvise, start, end - start,
				   advices[i].advice);
	if (had & ~vma->flags & VMA_DONTFORK)
		batch_call(&c->batch, "madvise(MADV_DOFORK)", SYS_madvise, start, end - start, MADV_DOFORK);
	if (had & ~vma->flags & VMA_DONTDUMP)
		batch_call(&c->batch, "madvise(MADV_DODUMP)", SYS_madvise, start, end - start, MADV_DODUMP);
	if (had & ~vma->flags & VMA_WIPEONFORK)
		batch_call(&c->batch, "madvise(MADV_KEEPONFORK)", SYS_madvise, start, end - start,
			   MADV_KEEPONFORK);
	/* ONFAULT while pages are still to come: a plain mlock would fill all with zeros first. */
	if (vma->flags & ~had & VMA_LOCKED)
		batch_call(&c->batch, "mlock2", SYS_mlock2, start, end - start, MLOCK_ONFAULT);
	if (had & ~vma->flags & VMA_LOCKED)
		batch_call(&c->batch, "munlock", SYS_munlock, start, end - start);
}

/* What a mapping of a file is opened by; "" for other mappings. */
static const char *opened_by(struct change *c, const struct vma *vma, char path[64])
{
	if (vma->kind == VMA_FILE && strncmp(vma->path, SHMEM_NAME, strlen(SHMEM_NAME)))
		return vma->path;
	if (vma->kind != VMA_SHMEM && vma->kind != VMA_SYSV && vma->kind != VMA_FILE)
		return "";
	if (!c->code && shmem_path(c->stage->shmem, vma, path, 64))
		c->code = phaul_fail(c->err, -EPROTO, "stage", "there is no shared memory %llu, which is mapped at %llx",
				     (unsigned long long)vma->inode, (unsigned long long)vma->start);
	return path;
}

/* One of ours that is to be mapped itself, not opened anew; -1. Mere references (O_PATH) can only be opened. */
static int ours_at(const char *path)
{
	char prefix[48];
	int n = snprintf(prefix, sizeof(prefix), "/proc/%d/fd/", getpid()), fd;

	if (strncmp(path, prefix, n))
		return -1;
	fd = atoi(path + n);
	return fcntl(fd, F_GETFL) & O_PATH ? -1 : fd;
}

/* As number 0. */
static void get_file(struct change *c, const struct vma *vma, const char *path)
{
	bool writable = vma->shared && (vma->flags & VMA_MAYWRITE);
	int ours = ours_at(path);

	if (ours < 0 || !writable) {
		batch_call(&c->batch, vma->kind == VMA_FILE ? vma->path : "open shared memory", SYS_openat, AT_FDCWD,
			   batch_bytes(&c->batch, path, strlen(path) + 1), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
		return;
	}
	batch_call(&c->batch, "open a pidfd of the engine", SYS_pidfd_open, getpid(), 0, 0);
	batch_call(&c->batch, "fetch a descriptor", SYS_pidfd_getfd, 0, ours, 0);
	batch_call(&c->batch, "put it on its number", SYS_dup3, 1, 0, O_CLOEXEC);
	batch_call(&c->batch, "close a number in between", SYS_close, 1);
}

/* The husk has no descriptors, so that the file is always number 0. */
static void map(struct change *c, const struct vma *vma, uint64_t start, uint64_t end)
{
	char buffer[64] = "";
	const char *path = opened_by(c, vma, buffer);
	int prot = vma->prot;
	/* What was writable once counts as committed memory for ever; the kernel only knows if it was. */
	bool was_writable = !vma->shared && (vma->flags & VMA_ACCOUNT) && !(prot & PROT_WRITE);
	bool file = *path;

	reserve(c);
	/* The kernel counts who is attached, and programs ask for it. */
	if (vma->kind == VMA_SYSV && shmem_attachable(c->stage->shmem, vma)) {
		batch_call(&c->batch, "attach System V shared memory", SYS_shmat, vma->inode, start,
			   (vma->flags & VMA_MAYWRITE ? 0 : SHM_RDONLY) | (prot & PROT_EXEC ? SHM_EXEC : 0) | SHM_REMAP);
		batch_call(&c->batch, "protect a mapping", SYS_mprotect, start, end - start, prot);
		advise(c, vma, start, end, 0);
		return;
	}
	if (file)
		get_file(c, vma, path);
	batch_call(&c->batch, "map what the source has mapped", SYS_mmap, start, end - start,
		   was_writable ? PROT_READ | PROT_WRITE : prot, map_flags(vma), file ? 0 : -1,
		   file ? vma->offset + (start - vma->start) : 0);
	if (file)
		batch_call(&c->batch, "close a mapped file", SYS_close, 0);
	if (was_writable)
		batch_call(&c->batch, "protect a mapping", SYS_mprotect, start, end - start, prot);
	advise(c, vma, start, end, 0);
}

static bool moves(const struct vma *vma)
{
	return is_plain(vma) || vma->kind == VMA_FILE || vma->kind == VMA_SHMEM ||
	       vma->kind == VMA_SYSV || vma->kind == VMA_AIO || vma->kind == VMA_SOCKET;
}

static void keep(struct change *c, const struct vma *old, const struct vma *new, uint64_t start,
		 uint64_t end)
{
	if (old->prot == new->prot && old->flags == new->flags)
		return;
	reserve(c);
	if (old->prot != new->prot)
		batch_call(&c->batch, "protect a mapping", SYS_mprotect, start, end - start, new->prot);
	advise(c, new, start, end, old->flags);
}

/* Walks both layouts side by side, `act` for each stretch in which neither begins nor ends one. Unmapping
 * comes before mapping: the limit on the number of mappings is the same for both. */
static void each_stretch(struct change *c, const struct memory_map *old, const struct memory_map *new,
			 void (*act)(struct change *c, const struct vma *was, const struct vma *is,
				     uint64_t start, uint64_t end))
{
	size_t o = 0, n = 0;
	uint64_t at = 0;

	while (!c->code) {
		const struct vma *was, *is;
		uint64_t end = ~0ull;

		while (o < old->count && (old->at[o].end <= at || !moves(&old->at[o])))
			o++;
		while (n < new->count && (new->at[n].end <= at || !moves(&new->at[n])))
			n++;
		was = o < old->count ? &old->at[o] : NULL;
		is = n < new->count ? &new->at[n] : NULL;
		if (!was && !is)
			return;
		if (was && was->start > at) {
			end = was->start < end ? was->start : end;
			was = NULL;
		} else if (was) {
			end = was->end;
		}
		if (is && is->start > at) {
			end = is->start < end ? is->start : end;
			is = NULL;
		} else if (is) {
			end = is->end < end ? is->end : end;
		}
		if (was || is)
			act(c, was, is, at, end);
		at = end;
	}
}

static void remove_old(struct change *c, const struct vma *was, const struct vma *is, uint64_t start,
		       uint64_t end)
{
	if (was && (!is || !vma_same_backing(was, is)))
		unmap(c, start, end);
}

static void add_new(struct change *c, const struct vma *was, const struct vma *is, uint64_t start,
		    uint64_t end)
{
	if (is && was && vma_same_backing(was, is))
		keep(c, was, is, start, end);
	else if (is)
		map(c, is, start, end);
}

static bool is_given(const struct vma *vma, const struct range_list *given)
{
	size_t n = given ? range_list_above(given, vma->start) : 0;

	return given && n < given->count && given->at[n].address < vma->end;
}

static int note_received(void *to, uint64_t start, uint64_t end)
{
	return received_add(to, start, (end - start) / PAGE);
}

int stage_open(struct stage *s, struct husk *husk, struct phaul_error *err)
{
	char path[32];

	memset(s, 0, sizeof(*s));
	s->husk = husk;
	s->is_new = true;
	s->fill.uffd = -1;
	received_init(&s->received);
	snprintf(path, sizeof(path), "/proc/%d/mem", husk->pid);
	s->mem = open(path, O_RDWR | O_CLOEXEC);
	return s->mem < 0 ? phaul_fail(err, -errno, "stage", "opening %s", path) : 0;
}

/* What a husk inherits: a locked mapping is not locked in the child. */
static int copy_given(struct stage *s, const struct stage *parent, const struct range_list *given)
{
	size_t count = 0;
	int err = memory_map_copy(&parent->layout, &s->layout);

	for (size_t i = 0; i < s->layout.count && !err; i++) {
		struct vma *vma = &s->layout.at[i];

		if (!is_given(vma, given))
			continue;
		vma->flags &= ~(VMA_LOCKED | VMA_LOCK_ON_FAULT);
		err = received_each((struct received *)&parent->received, vma->start, vma->end, note_received, &s->received);
		s->layout.at[count++] = *vma;
	}
	s->layout.count = count;
	return err;
}

int stage_inherit(struct stage *s, struct husk *husk, const struct stage *parent, const struct range_list *given,
		  struct phaul_error *err)
{
	int code = stage_open(s, husk, err);

	if (code)
		return code;
	s->inherits = true;
	code = copy_given(s, parent, given) ?: remote_area_adopt(husk->pid, parent->husk->area.at, parent->husk->area.size, &husk->area);
	if (!code)
		return 0;
	stage_close(s);
	return phaul_fail(err, code, "stage", "taking over what pid %d has from pid %d", husk->pid, parent->husk->pid);
}

/* First pages are for mappings that have none yet. */
static void begin_filling(struct stage *s, const struct memory_map *inherited)
{
	fill_open(&s->fill, s->husk);
	for (size_t i = 0, n = 0; i < s->layout.count; i++) {
		const struct vma *vma = &s->layout.at[i];

		while (n < inherited->count && inherited->at[n].end <= vma->start)
			n++;
		if (n == inherited->count || inherited->at[n].start >= vma->end)
			fill_register(&s->fill, vma);
	}
}

int stage_layout(struct stage *s, struct memory_map *layout, struct phaul_error *err)
{
	struct change c = { .stage = s, .err = err };
	struct memory_map old;

	c.code = s->husk->area.at ? husk_clear_area(s->husk, layout, err) : husk_settle(s->husk, layout, err);
	begin(&c);
	each_stretch(&c, &s->layout, layout, remove_old);
	each_stretch(&c, &s->layout, layout, add_new);
	run(&c);
	if (c.code)
		return c.code;
	old = s->layout;
	s->layout = *layout;
	*layout = old;
	if (s->is_new)
		begin_filling(s, layout);
	s->is_new = false;
	memory_map_free(layout);
	return 0;
}

struct dropper {
	struct change change;
	int advice;
	int64_t pages;
	const struct range_list *keep;	/* what must stay, if not NULL; ascending */
	size_t at;
};

/* A huge page, of which some small ones had come, is there as a whole or not at all. */
static uint64_t unit_at(const struct stage *s, uint64_t at)
{
	const struct vma *vma = memory_map_find(&s->layout, at);

	return vma ? vma_page_bytes(vma) : PAGE;
}

static int drop(void *to, uint64_t start, uint64_t end)
{
	struct dropper *d = to;
	uint64_t unit = unit_at(d->change.stage, start);

	start &= ~(unit - 1);
	end = (end + unit - 1) & ~(unit - 1);
	reserve(&d->change);
	batch_call(&d->change.batch, "drop pages that the source has dropped", SYS_madvise, start,
		   end - start, d->advice);
	d->pages += (end - start) / PAGE;
	return d->change.code;
}

static int drop_but_kept(void *to, uint64_t start, uint64_t end)
{
	struct dropper *d = to;
	const struct range_list *keep = d->keep;
	int err = 0;

	for (size_t n = range_list_above(keep, start); start < end && !err; n++) {
		uint64_t from = n < keep->count ? keep->at[n].address : end;
		uint64_t until = n < keep->count ? range_end(&keep->at[n]) : end;

		if (from > start)
			err = drop(d, start, from < end ? from : end);
		start = until;
	}
	return err;
}

/* Locked memory loses no page otherwise. */
static void begin_dropping(struct dropper *d, struct stage *s, const struct range_list *keep, struct phaul_error *err)
{
	*d = (struct dropper){ .change = { .stage = s, .err = err }, .keep = keep };
	d->advice = madvise(NULL, 0, MADV_DONTNEED_LOCKED) ? MADV_DONTNEED : MADV_DONTNEED_LOCKED;
	begin(&d->change);
}

static int make_guards(struct change *c, const struct range_list *guards)
{
	if (guards->count && madvise(NULL, 0, MADV_GUARD_INSTALL))
		return phaul_fail(c->err, -EXDEV, "stage", "pid %d has guard regions (at %llx), which only Linux 6.13 and newer have: move it to "
				  "a host with such a kernel", c->stage->husk->pid, (unsigned long long)guards->at[0].address);
	for (size_t i = 0; i < guards->count; i++) {
		reserve(c);
		batch_call(&c->batch, "make a guard region", SYS_madvise, guards->at[i].address, guards->at[i].pages * PAGE,
			   MADV_GUARD_INSTALL);
	}
	return 0;
}

int64_t stage_drop(struct stage *s, const struct final_scan *gone, struct phaul_error *err)
{
	struct dropper d;
	int code = 0;

	begin_dropping(&d, s, &gone->populated, err);
	for (size_t i = 0; i < gone->absent.count && !code; i++) {
		const struct page_range *r = &gone->absent.at[i];

		code = received_each(&s->received, r->address, r->address + r->pages * PAGE, drop, &d);
	}
	for (size_t i = 0; i < gone->sparse.count && !code; i++) {
		const struct page_range *r = &gone->sparse.at[i];

		code = received_each(&s->received, r->address, r->address + r->pages * PAGE,
				     drop_but_kept, &d);
	}
	if (!d.change.code)
		d.change.code = make_guards(&d.change, &gone->guards);
	run(&d.change);
	return d.change.code ? d.change.code : d.pages;
}

int stage_keep(struct stage *s, const struct range_list *kept, struct phaul_error *err)
{
	struct dropper d;
	int code = 0;

	begin_dropping(&d, s, kept, err);
	for (size_t i = 0; i < s->layout.count && !code; i++)
		code = received_each(&s->received, s->layout.at[i].start, s->layout.at[i].end, drop_but_kept, &d);
	run(&d.change);
	received_free(&s->received);
	received_init(&s->received);
	for (size_t i = 0; i < kept->count && !d.change.code; i++)
		d.change.code = received_add(&s->received, kept->at[i].address, kept->at[i].pages);
	s->inherits = false;
	return d.change.code;
}

int stage_write(struct stage *s, uint64_t at, const void *bytes, size_t size, struct phaul_error *err)
{
	ssize_t put = pwrite(s->mem, bytes, size, at);

	return put == (ssize_t)size ? 0 : phaul_fail(err, put < 0 ? -errno : -EIO, "stage", "writing to %llx of pid %d",
						     (unsigned long long)at, s->husk->pid);
}

void stage_filled(struct stage *s)
{
	fill_close(&s->fill);
}

int stage_spare(struct stage *s, bool spare, const struct range_list *given, struct phaul_error *err)
{
	struct change c = { .stage = s, .err = err };

	begin(&c);
	for (size_t i = 0; i < s->layout.count; i++) {
		const struct vma *vma = &s->layout.at[i];

		if (!moves(vma) || vma->flags & VMA_DONTFORK || is_given(vma, given))
			continue;
		reserve(&c);
		batch_call(&c.batch, "keep memory from a child", SYS_madvise, vma->start, vma->end - vma->start,
			   spare ? MADV_DONTFORK : MADV_DOFORK);
	}
	run(&c);
	return c.code;
}

void stage_close(struct stage *s)
{
	if (!s->husk)
		return;
	memory_map_free(&s->layout);
	received_free(&s->received);
	fill_close(&s->fill);
	if (s->mem >= 0)
		close(s->mem);
	memset(s, 0, sizeof(*s));
}
