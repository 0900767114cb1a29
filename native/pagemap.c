#include "pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "frames.h"
#include "track.h"

_Static_assert(sizeof(struct pm_scan_arg) == 96, "pm_scan_arg is 96 bytes in Linux");

#define PAGE 4096ul
#define HUGE_PAGE (2ul << 20)
#define REGIONS 4096	/* 96 KiB a call: more brings no speed */
#define ENTRIES 8192	/* 64 KiB a read */

/* Documentation/admin-guide/mm/pagemap.rst */
#define ENTRY_PFN ((1ull << 55) - 1)
#define ENTRY_SOFT_DIRTY (1ull << 55)
#define ENTRY_GUARD (1ull << 58)
#define ENTRY_FILE (1ull << 61)
#define ENTRY_SWAPPED (1ull << 62)
#define ENTRY_PRESENT (1ull << 63)

/* ---- by reading ---- */

/* The kernel's pages of zeros, which a process that only reads has mapped. */
static struct {
	uint64_t page, huge;	/* frame numbers; 0: unknown */
} zeros;

static uint64_t frame_at(int pagemap, const volatile uint8_t *at)
{
	uint64_t entry = 0;

	(void)*at;
	return pread(pagemap, &entry, 8, (uintptr_t)at / PAGE * 8) == 8 ? entry & ENTRY_PFN : 0;
}

/* The large one is the kernel's only as long as someone has it mapped, which we do from here on. */
static void find_zeros(void)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint8_t *at = mmap(NULL, 2 * HUGE_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *huge = (uint8_t *)(((uintptr_t)at + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	uint64_t frame;

	if (pagemap >= 0 && at != MAP_FAILED) {
		madvise(huge, HUGE_PAGE, MADV_HUGEPAGE);
		frame = frame_at(pagemap, huge);
		if (frame && frame_at(pagemap, huge + PAGE) == frame + 1)
			zeros.huge = frame;
		madvise(huge, HUGE_PAGE, MADV_NOHUGEPAGE);
		at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at != MAP_FAILED)
			zeros.page = frame_at(pagemap, at);
	}
	if (pagemap >= 0)
		close(pagemap);
}

static bool is_zeros(uint64_t frame)
{
	return frame && (frame == zeros.page || (zeros.huge && frame - zeros.huge < HUGE_PAGE / PAGE));
}

static uint64_t categories_of(uint64_t entry)
{
	return (entry & ENTRY_PRESENT ? PAGE_IS_PRESENT : 0) | (entry & ENTRY_SWAPPED ? PAGE_IS_SWAPPED : 0) |
	       (entry & ENTRY_FILE ? PAGE_IS_FILE : 0) | (entry & ENTRY_SOFT_DIRTY ? PAGE_IS_SOFT_DIRTY : 0) |
	       (entry & ENTRY_GUARD ? PAGE_IS_GUARD : 0) |
	       (entry & ENTRY_PRESENT && is_zeros(entry & ENTRY_PFN) ? PAGE_IS_PFNZERO : 0);
}

static bool matches(const struct pm_scan_arg *arg, uint64_t categories)
{
	categories ^= arg->category_inverted;
	return (categories & arg->category_mask) == arg->category_mask &&
	       (!arg->category_anyof_mask || (categories & arg->category_anyof_mask));
}

struct reading {
	const struct pm_scan_arg *arg;
	struct frames *frames;
	bool remember;
	uint32_t *table;		/* of the page table that is looked at; NULL: nothing is known of it */
	on_region report;
	void *to;
	struct page_region region;	/* that may still grow; empty: none */
};

static int report_region(struct reading *r)
{
	return r->region.end ? r->report(r->to, &r->region) : 0;
}

/* Is it the frame that was there? */
static bool is_same_frame(struct reading *r, uint64_t at, uint64_t entry)
{
	size_t page = at / PAGE % FRAMES_PAGES;
	bool there = entry & (ENTRY_PRESENT | ENTRY_SWAPPED), same;
	uint32_t frame = there ? entry & ENTRY_PFN : 0;

	if (!page || at == r->arg->start)
		r->table = frames_of(r->frames, at, false);
	if (!r->table && there && r->remember)
		r->table = frames_of(r->frames, at, true);
	same = r->table ? r->table[page] == frame : !there;
	if (r->table && r->remember)
		r->table[page] = frame;
	return same;
}

static int take_entry(struct reading *r, uint64_t at, uint64_t categories)
{
	uint64_t told = categories & r->arg->return_mask;
	int err;

	if (!matches(r->arg, categories))
		return 0;
	if (r->region.end == at && r->region.categories == told) {
		r->region.end += PAGE;
		return 0;
	}
	err = report_region(r);
	r->region = (struct page_region){ at, at + PAGE, told };
	return err;
}

int pagemap_read(int pagemap, const struct pm_scan_arg *arg, struct frames *frames, bool remember, on_region report, void *to)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct reading r = { .arg = arg, .frames = frames, .remember = remember, .report = report, .to = to };
	uint64_t entries[ENTRIES];
	uint64_t at = arg->start;
	int err = 0;

	pthread_once(&once, find_zeros);
	while (at < arg->end && !err) {
		size_t wanted = (arg->end - at) / PAGE < ENTRIES ? (arg->end - at) / PAGE : ENTRIES;
		ssize_t got = pread(pagemap, entries, wanted * 8, at / PAGE * 8);

		if (got < 0)
			return -errno;
		/* Behind the last address that there can be. */
		if (got < 8)
			break;
		for (ssize_t i = 0; i < got / 8 && !err; i++, at += PAGE) {
			bool other = frames && !is_same_frame(&r, at, entries[i]);

			err = take_entry(&r, at, categories_of(entries[i]) | (other ? PAGE_IS_SOFT_DIRTY : 0));
		}
	}
	if (!err && frames && frames->failed)
		err = -ENOMEM;
	return err ? err : report_region(&r);
}

/* ---- by PAGEMAP_SCAN ---- */

static int scan_by_call(int pagemap, struct pm_scan_arg arg, on_region report, void *to)
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

/* Does the kernel know these categories? */
static bool knows(uint64_t categories)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct pm_scan_arg arg = { .size = sizeof(arg), .return_mask = categories, .category_mask = categories };
	bool yes = fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;

	if (fd >= 0)
		close(fd);
	return yes;
}

static bool has_call(void)
{
	static int known = -1;

	if (known < 0)
		known = knows(PAGE_IS_PRESENT);
	return known;
}

uint64_t pagemap_guard_bit(void)
{
	static int known = -1;

	if (known < 0)
		known = knows(PAGE_IS_GUARD);
	return known ? PAGE_IS_GUARD : 0;
}

int pagemap_scan(int pagemap, struct pm_scan_arg arg, on_region report, void *to)
{
	if (has_call())
		return scan_by_call(pagemap, arg, report, to);
	return arg.flags ? -ENOTTY : pagemap_read(pagemap, &arg, NULL, false, report, to);
}

/* ---- questions ---- */

int pagemap_list(void *to, const struct page_region *region)
{
	return range_list_add(to, region->start, region->end);
}

int pagemap_populated(int pagemap, uint64_t start, uint64_t end, struct range_list *ret)
{
	struct pm_scan_arg arg = {
		.start = start, .end = end,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT,
	};

	return pagemap_scan(pagemap, arg, pagemap_list, ret);
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
		.return_mask = PAGE_IS_PRESENT | pagemap_guard_bit(),
	};

	if (vma->kind == VMA_FILE)
		arg.category_mask = arg.category_inverted = PAGE_IS_FILE;
	return pagemap_scan(pagemap, arg, add_held, lists);
}
