/* track_uffd.c - the tracker of Linux 6.7 and later, x86_64 and arm64: userfaultfd in WP_ASYNC mode makes
 * the kernel itself clear a page's write protection on the first write, PAGEMAP_SCAN finds the pages
 * where that happened and protects them again. The process is stopped only to make the userfaultfd.
 *
 * PM_SCAN_CHECK_WPASYNC is never used: on a running process it fails after having protected pages that it
 * then doesn't report, which loses their content (docs/kernel-notes.md).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"
#include "track.h"

/* From include/uapi/linux/fs.h of Linux 6.15; Debian 12's headers are older. */
struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

struct page_region {
	uint64_t start, end, categories;
};

_Static_assert(sizeof(struct pm_scan_arg) == 96, "pm_scan_arg is 96 bytes in Linux");

#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PM_SCAN_WP_MATCHING (1 << 0)
#define PAGE_IS_WRITTEN (1 << 1)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#endif
#ifndef PAGE_IS_GUARD
#define PAGE_IS_GUARD (1 << 8)	/* Linux 6.15 */
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#define FEATURES (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | \
		  UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

#define REGIONS 4096	/* 96 KiB a call: more brings no speed */

/* linux/fs.h has it from 6.7 on, as the rest that is used here; Debian 12's headers are older. */
#ifndef PAGE_IS_WPALLOWED
#define PAGE_IS_WPALLOWED (1 << 0)
#endif

/* A mapping of this size or more that holds less than an eighth is sparse: to list its holes would take
 * ten times as long as to list its pages (127 and 14 ms for 64 GiB with 24,000 pages). */
#define SPARSE_SIZE (1ull << 30)
#define SPARSE_FRACTION 8

#define SPLIT_SIZE (1ull << 30)	/* below, waking a second thread takes as long as it saves */

#define USER_END 0x7ffffffff000ull

typedef int (*on_region)(void *to, const struct page_region *region);

static int scan(int pagemap, struct pm_scan_arg arg, on_region report, void *to)
{
	struct page_region regions[REGIONS];

	arg.size = sizeof(arg);
	arg.vec = (uintptr_t)regions;
	arg.vec_len = REGIONS;
	while (arg.start < arg.end) {
		int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
		int err = n < 0 ? -errno : 0;

		if (err)
			return err;
		for (int i = 0; i < n && !err; i++)
			err = report(to, &regions[i]);
		if (err)
			return err;
		/* The kernel gathers 512 regions at a time, and leaves in walk_end where it had gathered them
		 * last, even if it went on to the end: only a full answer has more to come. */
		if (n < REGIONS)
			return 0;
		arg.start = arg.walk_end;
	}
	return 0;
}

static bool has_guards(void)
{
	static int known = -1;

	if (known < 0) {
		int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
		struct pm_scan_arg arg = {
			.size = sizeof(arg), .return_mask = PAGE_IS_GUARD,
			.category_mask = PAGE_IS_GUARD,
		};

		known = fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;
		if (fd >= 0)
			close(fd);
	}
	return known;
}

static bool usable(void)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	struct pm_scan_arg arg = {
		.size = sizeof(arg), .return_mask = PAGE_IS_WRITTEN, .category_mask = PAGE_IS_WRITTEN,
	};
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	bool yes = pagemap >= 0 && uffd >= 0 && ioctl(pagemap, PAGEMAP_SCAN, &arg) >= 0 &&
		   ioctl(uffd, UFFDIO_API, &api) == 0;

	if (pagemap >= 0)
		close(pagemap);
	if (uffd >= 0)
		close(uffd);
	return yes;
}

/* The userfaultfd must be made by the process whose memory it is for. USER_MODE_ONLY, or a process that
 * isn't root gets EPERM; writes by the kernel are found all the same. */
static int uffd_open(struct tracker *t, struct remote *leader, struct phaul_error *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	int64_t there = remote_call(leader, SYS_userfaultfd,
				    O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	int pidfd;

	if (there < 0)
		return phaul_fail(err, there, "track", "making a userfaultfd in pid %d", t->pid);
	pidfd = syscall(SYS_pidfd_open, t->pid, 0);
	t->uffd = pidfd < 0 ? -1 : syscall(SYS_pidfd_getfd, pidfd, (int)there, 0);
	if (t->uffd < 0)
		phaul_fail(err, -errno, "track", "taking the userfaultfd from pid %d", t->pid);
	if (pidfd >= 0)
		close(pidfd);
	(void)remote_call(leader, SYS_close, there);
	if (t->uffd < 0)
		return err ? err->code : -EIO;
	if (ioctl(t->uffd, UFFDIO_API, &api) < 0)
		return phaul_fail(err, -errno, "track", "enabling WP_ASYNC for pid %d", t->pid);
	return 0;
}

static int register_range(struct tracker *t, uint64_t start, uint64_t end, struct phaul_error *err)
{
	struct uffdio_register reg = { .range = { start, end - start }, .mode = UFFDIO_REGISTER_MODE_WP };

	if (ioctl(t->uffd, UFFDIO_REGISTER, &reg) == 0)
		return 0;
	if (errno == EBUSY)
		return phaul_fail(err, -EBUSY, "track", "pid %d watches its memory between %llx and %llx with a "
				  "userfaultfd of its own", t->pid, (unsigned long long)start,
				  (unsigned long long)end);
	/* All of it has vanished meanwhile, or something came that can't be tracked: the next round sees. */
	if (errno == EINVAL || errno == EPERM)
		return 0;
	return phaul_fail(err, -errno, "track", "tracking %llx to %llx of pid %d", (unsigned long long)start,
			  (unsigned long long)end, t->pid);
}

static int add_range(void *to, const struct page_region *region)
{
	return range_list_add(to, region->start, region->end);
}

static void mark_fresh(struct memory_map *map, const struct range_list *list)
{
	size_t at = 0;

	for (size_t i = 0; i < map->count; i++) {
		struct vma *vma = &map->at[i];

		while (at < list->count && list->at[at].address + list->at[at].pages * 4096 <= vma->start)
			at++;
		if (at < list->count && list->at[at].address < vma->end && vma_has_pages(vma))
			vma->flags |= VMA_FRESH;
	}
}

/* What is not registered: new mappings, and, of those that were, what lost it. An mremap() next to a registered
 * mapping may merge with it, and the kernel then takes the registration from both, but leaves their pages marked
 * as clean: they can be written from then on without being found. All that such mappings hold is to be sent. */
static int find_unregistered(struct tracker *t, struct memory_map *map, struct phaul_error *err)
{
	struct pm_scan_arg arg = {
		.end = USER_END, .category_mask = PAGE_IS_WPALLOWED, .category_inverted = PAGE_IS_WPALLOWED,
		.return_mask = PAGE_IS_WPALLOWED,
	};
	struct range_list found = {0};
	int code = scan(t->pagemap, arg, add_range, &found);

	if (!code)
		mark_fresh(map, &found);
	mark_fresh(map, &t->doubtful);
	range_list_free(&found);
	return code ? phaul_fail(err, code, "track", "looking for what isn't tracked of pid %d", t->pid) : 0;
}

/* A page that was written while its mapping had lost the registration is writable, and still marked as clean:
 * to arm it again would leave it so. The marks are taken from all pages before they are armed. */
static int unmark(struct tracker *t, const struct memory_map *map)
{
	int err = 0;

	range_list_reset(&t->doubtful);
	for (size_t i = 0; i < map->count && !err; i++) {
		const struct vma *vma = &map->at[i];
		struct uffdio_writeprotect none = { .range = { vma->start, vma->end - vma->start } };

		if (t->armed && vma_has_pages(vma) && (vma->flags & VMA_FRESH) &&
		    ioctl(t->uffd, UFFDIO_WRITEPROTECT, &none) < 0)
			err = range_list_add(&t->doubtful, vma->start, vma->end);
	}
	t->armed = true;
	return err;
}

/* All mappings again: it is idempotent, and pieces that a change had split merge again. A range is all that
 * lies between two mappings which can't be tracked, gaps included: one that ended where a mapping ended when
 * it was read would cut in two what the process has mapped there since, and an mremap() over both pieces
 * would fail with EFAULT in the process. What loses its registration right now, between the look and the call, and
 * is written before the call, is missed: some 50 us. */
static int cover(struct tracker *t, struct memory_map *map, struct phaul_error *err)
{
	uint64_t from = 0;
	bool any = false;
	int code = find_unregistered(t, map, err);

	for (size_t i = 0; i <= map->count && !code; i++) {
		const struct vma *vma = i < map->count ? &map->at[i] : NULL;

		if (vma && vma_has_pages(vma)) {
			from = any ? from : from ? from : vma->start & ~((1ull << 30) - 1);
			any = true;
			continue;
		}
		if (any)
			code = register_range(t, from, vma && vma->start < USER_END ? vma->start : USER_END, err);
		from = vma ? vma->end : 0;
		any = false;
	}
	if (!code && unmark(t, map))
		code = phaul_fail(err, -ENOMEM, "track", "tracking pid %d", t->pid);
	return code;
}

static int add_dirty(void *to, const struct page_region *region)
{
	return region->categories & PAGE_IS_GUARD ? 0
						  : range_list_add(to, region->start, region->end);
}

static uint64_t guard_bit(void)
{
	return has_guards() ? PAGE_IS_GUARD : 0;
}

static struct track_density *density_of(struct tracker *t, const struct vma *vma)
{
	for (size_t i = 0; i < TRACK_DENSITIES; i++) {
		struct track_density *d = &t->densities[i];

		if (d->start == vma->start || !d->start) {
			d->start = vma->start;
			return d;
		}
	}
	return NULL;
}

/* By the pages that the rounds have seen: counting them now would take the time that this saves. */
static bool is_sparse(struct tracker *t, const struct vma *vma)
{
	uint64_t size = vma->end - vma->start;
	const struct track_density *d;

	if (vma->kind != VMA_ANON || size < SPARSE_SIZE)
		return false;
	d = density_of(t, vma);
	return d && d->pages < size / 4096 / SPARSE_FRACTION;
}

/* One walk: a mapping, or a run of anonymous ones that touch: a call for each of some thousand stacks would
 * take longer than the walk. Gaps are left out, for what is mapped there since has no place in the round's
 * layout, and must not be armed. */
struct walk {
	const struct vma *first;
	uint64_t start, end;
	bool sparse;
};

struct walks {
	struct walk *at;
	size_t count;
	uint64_t bytes;
};

static bool joins(const struct walk *w, const struct vma *vma)
{
	return w && w->end == vma->start && !((w->first->flags | vma->flags) & VMA_FRESH) && !w->sparse && w->first->kind == VMA_ANON && vma->kind == VMA_ANON &&
	       vma->end - vma->start < SPARSE_SIZE && w->end - w->start < SPARSE_SIZE;
}

/* The part of the map that lies in [from, until). */
static int plan_walks(struct tracker *t, const struct memory_map *map, uint64_t from, uint64_t until,
		      struct walks *ret)
{
	struct walk *last = NULL;

	ret->count = 0;
	ret->bytes = 0;
	ret->at = calloc(map->count + 1, sizeof(*ret->at));
	if (!ret->at)
		return -ENOMEM;
	for (size_t i = 0; i < map->count; i++) {
		const struct vma *vma = &map->at[i];
		uint64_t start = vma->start > from ? vma->start : from;
		uint64_t end = vma->end < until ? vma->end : until;

		if (vma->start >= until || vma->end <= from)
			continue;
		if (!vma_has_pages(vma)) {
			last = NULL;
			continue;
		}
		if (joins(last, vma)) {
			last->end = end;
		} else {
			last = &ret->at[ret->count++];
			*last = (struct walk){ vma, start, end, is_sparse(t, vma) };
		}
		ret->bytes += end - start;
	}
	return 0;
}

/* Of a private file mapping only the pages that were copied on write. */
static struct pm_scan_arg dirty_of(const struct walk *w)
{
	struct pm_scan_arg arg = {
		.start = w->start, .end = w->end,
		.category_mask = PAGE_IS_WRITTEN,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_WRITTEN | guard_bit(),
	};

	if (w->first->flags & VMA_FRESH)
		arg.category_mask = 0;
	if (w->first->kind == VMA_FILE) {
		arg.category_mask |= PAGE_IS_FILE;
		arg.category_inverted = PAGE_IS_FILE;
	}
	return arg;
}

static int scan_dirty(struct tracker *t, const struct memory_map *map, bool arm, struct range_list *ret,
		      struct phaul_error *err)
{
	struct walks walks;
	int code = plan_walks(t, map, 0, ~0ull, &walks);

	for (size_t i = 0; i < walks.count && !code; i++) {
		const struct walk *w = &walks.at[i];
		struct pm_scan_arg arg = dirty_of(w);
		uint64_t before = ret->pages;

		arg.flags = arm ? PM_SCAN_WP_MATCHING : 0;
		code = scan(t->pagemap, arg, add_dirty, ret);
		if (!code && arm && w->end - w->start >= SPARSE_SIZE) {
			struct track_density *d = density_of(t, w->first);

			if (d)
				d->pages += ret->pages - before;
		}
	}
	free(walks.at);
	return code ? phaul_fail(err, code, "track", "looking for dirty pages of pid %d", t->pid) : 0;
}

static int add_anon(void *to, const struct page_region *region)
{
	struct final_scan *f = to;
	uint64_t is = region->categories;

	if (is & PAGE_IS_GUARD)
		return range_list_add(&f->guards, region->start, region->end);
	if (!(is & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)))
		return range_list_add(&f->absent, region->start, region->end);
	return is & PAGE_IS_WRITTEN ? range_list_add(&f->dirty, region->start, region->end) : 0;
}

static int add_sparse(void *to, const struct page_region *region)
{
	struct final_scan *f = to;
	int err = 0;

	if (region->categories & PAGE_IS_GUARD)
		return range_list_add(&f->guards, region->start, region->end);
	if (region->categories & PAGE_IS_WRITTEN)
		err = range_list_add(&f->dirty, region->start, region->end);
	return err ? err : range_list_add(&f->populated, region->start, region->end);
}

/* A file mapping's page is private if it is there and not the file's. */
static int add_file(void *to, const struct page_region *region)
{
	struct final_scan *f = to;
	uint64_t is = region->categories;
	bool there = is & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED);

	if (is & PAGE_IS_GUARD)
		return range_list_add(&f->guards, region->start, region->end);
	if (!there || (is & PAGE_IS_FILE))
		return range_list_add(&f->absent, region->start, region->end);
	return is & PAGE_IS_WRITTEN ? range_list_add(&f->dirty, region->start, region->end) : 0;
}

static int add_all(struct final_scan *f, const struct page_region *region, uint64_t none)
{
	uint64_t is = region->categories;

	if (is & PAGE_IS_GUARD)
		return range_list_add(&f->guards, region->start, region->end);
	return range_list_add((is & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)) && !(is & none) ? &f->dirty
											  : &f->absent,
			      region->start, region->end);
}

static int add_fresh(void *to, const struct page_region *region)
{
	return add_all(to, region, 0);
}

static int add_fresh_file(void *to, const struct page_region *region)
{
	return add_all(to, region, PAGE_IS_FILE);
}

static int final_walk(struct tracker *t, const struct walk *w, struct final_scan *ret)
{
	struct pm_scan_arg arg = {
		.start = w->start, .end = w->end,
		.return_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT | PAGE_IS_SWAPPED | guard_bit(),
	};
	int code;

	/* Parts of it may be what they were, and stay on the target: what they hold no more is to be told. */
	if (w->first->flags & VMA_FRESH) {
		arg.return_mask |= PAGE_IS_FILE;
		return scan(t->pagemap, arg, w->first->kind == VMA_FILE ? add_fresh_file : add_fresh, ret);
	}
	if (w->first->kind == VMA_FILE) {
		arg.return_mask |= PAGE_IS_FILE;
		return scan(t->pagemap, arg, add_file, ret);
	}
	if (w->sparse) {
		arg.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
		code = scan(t->pagemap, arg, add_sparse, ret);
		return code ? code : range_list_add(&ret->sparse, w->start, w->end);
	}
	/* Written, or not there: clean pages, which are most, cost no output. */
	arg.category_inverted = PAGE_IS_PRESENT;
	arg.category_anyof_mask = PAGE_IS_WRITTEN | PAGE_IS_PRESENT;
	return scan(t->pagemap, arg, add_anon, ret);
}

struct half {
	struct tracker *t;
	struct walks walks;
	struct final_scan found;
	int code;
};

static void *look(void *arg)
{
	struct half *h = arg;

	for (size_t i = 0; i < h->walks.count && !h->code; i++)
		h->code = final_walk(h->t, &h->walks.at[i], &h->found);
	return NULL;
}

/* Where half of the bytes lie below; a sparse mapping is never cut, as its lists belong together. */
static uint64_t middle_of(const struct walks *walks)
{
	uint64_t below = 0;

	for (size_t i = 0; i < walks->count; i++) {
		const struct walk *w = &walks->at[i];
		uint64_t size = w->end - w->start;

		if (below + size >= walks->bytes / 2)
			return w->sparse ? w->end
					 : (w->start + (walks->bytes / 2 - below)) & ~((2ull << 20) - 1);
		below += size;
	}
	return ~0ull;
}

static int append_list(struct range_list *to, const struct range_list *from)
{
	int code = 0;

	for (size_t i = 0; i < from->count && !code; i++)
		code = range_list_add(to, from->at[i].address, from->at[i].address + from->at[i].pages * 4096);
	return code;
}

static int append_scan(struct final_scan *to, struct final_scan *from)
{
	struct range_list *lists[][2] = {
		{ &to->dirty, &from->dirty }, { &to->absent, &from->absent }, { &to->sparse, &from->sparse },
		{ &to->populated, &from->populated }, { &to->guards, &from->guards },
	};
	int code = 0;

	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
		code = code ? code : append_list(lists[i][0], lists[i][1]);
		range_list_free(lists[i][1]);
	}
	return code;
}

/* The process stands still, so that the CPU it ran on is free: of a large one, a second thread looks at the
 * upper half. */
static int final(struct tracker *t, struct memory_map *map, struct final_scan *ret, struct phaul_error *err)
{
	struct half lower = { .t = t }, upper = { .t = t };
	pthread_t thread;
	int code = find_unregistered(t, map, err);

	if (code)
		return code;
	code = plan_walks(t, map, 0, ~0ull, &lower.walks);

	if (!code && lower.walks.bytes >= SPLIT_SIZE) {
		uint64_t middle = middle_of(&lower.walks);

		free(lower.walks.at);
		code = plan_walks(t, map, 0, middle, &lower.walks) ?:
		       plan_walks(t, map, middle, ~0ull, &upper.walks);
	}
	lower.found = *ret;
	if (!code && upper.walks.count && pthread_create(&thread, NULL, look, &upper) == 0) {
		look(&lower);
		pthread_join(thread, NULL);
	} else if (!code) {
		look(&lower);
		look(&upper);
	}
	*ret = lower.found;
	code = code ?: lower.code ?: upper.code ?: append_scan(ret, &upper.found);
	free(lower.walks.at);
	free(upper.walks.at);
	return code ? phaul_fail(err, code, "track", "the last look at the memory of pid %d", t->pid) : 0;
}

int pagemap_populated(int pagemap, uint64_t start, uint64_t end, struct range_list *ret)
{
	struct pm_scan_arg arg = {
		.start = start, .end = end,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT,
	};

	return scan(pagemap, arg, add_range, ret);
}

static int add_held(void *to, const struct page_region *region)
{
	struct range_list **lists = to;

	return range_list_add(lists[region->categories & PAGE_IS_GUARD ? 1 : 0], region->start, region->end);
}

int pagemap_held(int pagemap, const struct vma *vma, struct range_list *ret, struct range_list *ret_guards)
{
	struct range_list *lists[] = { ret, ret_guards };
	struct pm_scan_arg arg = {
		.start = vma->start, .end = vma->end,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | guard_bit(),
	};

	if (vma->kind == VMA_FILE)
		arg.category_mask = arg.category_inverted = PAGE_IS_FILE;
	return scan(pagemap, arg, add_held, lists);
}

static void uffd_close(struct tracker *t)
{
	if (t->uffd >= 0)
		close(t->uffd);
	t->uffd = -1;
	range_list_free(&t->doubtful);
}

const struct tracker_kind tracker_uffd = {
	.name = "uffd", .usable = usable, .open = uffd_open, .cover = cover, .scan = scan_dirty,
	.final = final, .close = uffd_close,
};
