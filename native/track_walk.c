/* track_walk.c - the looks at a process's pages that all kinds of trackers share: by mappings, in as few walks as they
 * allow, by what the kind calls written.
 */
#include "track.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "pagemap.h"

/* A mapping of this size or more that holds less than an eighth is sparse: to list its holes would take
 * ten times as long as to list its pages (127 and 14 ms for 64 GiB with 24,000 pages). */
#define SPARSE_SIZE (1ull << 30)
#define SPARSE_FRACTION 8

#define SPLIT_SIZE (1ull << 30)	/* below, waking a second thread takes as long as it saves */

void track_mark_fresh(struct memory_map *map, const struct range_list *list)
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

static int add_dirty(void *to, const struct page_region *region)
{
	return region->categories & PAGE_IS_GUARD ? 0
						  : range_list_add(to, region->start, region->end);
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

	if (vma->kind != VMA_ANON || vma->flags & VMA_HUGETLB || size < SPARSE_SIZE)
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
	return w && w->end == vma->start && !((w->first->flags | vma->flags) & (VMA_FRESH | VMA_HUGETLB)) && !w->sparse && w->first->kind == VMA_ANON && vma->kind == VMA_ANON &&
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
static struct pm_scan_arg dirty_of(const struct tracker *t, const struct walk *w)
{
	struct pm_scan_arg arg = {
		.start = w->start, .end = w->end,
		.category_mask = t->kind->written,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = pagemap_guard_bit(),
	};

	if (w->first->flags & VMA_FRESH)
		arg.category_mask = 0;
	if (w->first->kind == VMA_FILE) {
		arg.category_mask |= PAGE_IS_FILE;
		arg.category_inverted = PAGE_IS_FILE;
	}
	return arg;
}

/* Looks that only count may do with the kernel's word alone. */
static int scan(struct tracker *t, const struct pm_scan_arg *arg, bool arm, bool exact, on_region report, void *to)
{
	if (!t->kind->by_frames || !exact)
		return pagemap_scan(t->pagemap, *arg, report, to);
	return pagemap_read(t->pagemap, arg, &t->frames, arm, report, to);
}

/* What the look at `w` has found is the end of `found`, from its entry `from` on, which it may have joined. */
static int note_huge(struct tracker *t, const struct walk *w, const struct range_list *found, size_t from, struct huge_pages *ret)
{
	struct range_list written = { .at = found->at + from, .count = found->count - from };

	return huge_pages_note(t->pid, t->pagemap, w->start, w->end, vma_page_bytes(w->first), &written, &t->huge, ret);
}

int track_dirty(struct tracker *t, const struct memory_map *map, bool arm, struct range_list *ret,
		struct phaul_error *err)
{
	struct huge_pages huge = {0};
	struct walks walks;
	int code = plan_walks(t, map, 0, ~0ull, &walks);

	for (size_t i = 0; i < walks.count && !code; i++) {
		const struct walk *w = &walks.at[i];
		struct pm_scan_arg arg = dirty_of(t, w);
		uint64_t before = ret->pages;
		size_t last = ret->count ? ret->count - 1 : 0;

		arg.flags = arm ? t->kind->arm_flags : 0;
		code = scan(t, &arg, arm, arm, add_dirty, ret);
		if (!code && arm && w->end - w->start >= SPARSE_SIZE) {
			struct track_density *d = density_of(t, w->first);

			if (d)
				d->pages += ret->pages - before;
		}
		if (!code && arm && w->first->flags & VMA_HUGETLB)
			code = note_huge(t, w, ret, last, &huge);
	}
	free(walks.at);
	if (arm) {
		huge_pages_free(&t->huge);
		t->huge = huge;
	}
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
	if (!(region->categories & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)))
		return 0;
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

/* As the kinds of final walks take it. */
struct finding {
	struct tracker *tracker;
	struct final_scan *found;
	on_region add;
	uint64_t huge;			/* bytes of a huge page; 0: no such */
};

/* A page of the kernel's zeros that wasn't written is none: what was there before was dropped, and read since. */
static int add_final(void *to, const struct page_region *region)
{
	const struct finding *f = to;
	struct page_region told = *region;

	if (region->categories & f->tracker->kind->written)
		told.categories |= PAGE_IS_WRITTEN;
	else if (region->categories & PAGE_IS_PFNZERO)
		told.categories &= ~(PAGE_IS_PRESENT | PAGE_IS_SWAPPED);
	return f->add(f->found, &told);
}

/* Huge pages are never in swap: what looks like it is what userfaultfd leaves of one that was dropped, or one on its way to
 * another place in memory. */
static int add_huge(void *to, const struct page_region *region)
{
	const struct finding *f = to;
	int err = 0;

	for (uint64_t at = region->start; at < region->end && !err; at += f->huge) {
		struct page_region told = { at, at + f->huge < region->end ? at + f->huge : region->end, region->categories };
		bool there = told.categories & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED), clean = !(told.categories & f->tracker->kind->written);

		if (there && clean && (!(told.categories & PAGE_IS_PRESENT) || huge_pages_dropped(&f->tracker->huge, f->tracker->pid, at, f->huge)))
			told.categories |= f->tracker->kind->written;
		err = add_final(to, &told);
	}
	return err;
}

static int final_walk(struct tracker *t, const struct walk *w, struct final_scan *ret)
{
	struct finding f = { t, ret, add_anon, 0 };
	uint64_t written = t->kind->written, zeros = t->kind->zeros;
	struct pm_scan_arg arg = {
		.start = w->start, .end = w->end,
		.return_mask = written | zeros | PAGE_IS_PRESENT | PAGE_IS_SWAPPED | pagemap_guard_bit(),
	};
	int code;

	/* Parts of it may be what they were, and stay on the target: what they hold no more is to be told. */
	if (w->first->flags & VMA_FRESH) {
		arg.return_mask |= PAGE_IS_FILE;
		f.add = w->first->kind == VMA_FILE ? add_fresh_file : add_fresh;
		return scan(t, &arg, false, true, add_final, &f);
	}
	if (w->first->kind == VMA_FILE) {
		arg.return_mask |= PAGE_IS_FILE;
		f.add = add_file;
		return scan(t, &arg, false, true, add_final, &f);
	}
	if (w->first->flags & VMA_HUGETLB) {
		f.huge = vma_page_bytes(w->first);
		return huge_pages_look(&t->huge, t->pid, t->pagemap, w->start, w->end) ?: scan(t, &arg, false, true, add_huge, &f);
	}
	if (w->sparse) {
		arg.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
		f.add = add_sparse;
		code = scan(t, &arg, false, true, add_final, &f);
		return code ? code : range_list_add(&ret->sparse, w->start, w->end);
	}
	/* Written, or not there: clean pages, which are most, cost no output. */
	arg.category_inverted = PAGE_IS_PRESENT;
	arg.category_anyof_mask = written | zeros | PAGE_IS_PRESENT;
	return scan(t, &arg, false, true, add_final, &f);
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
int track_final(struct tracker *t, const struct memory_map *map, struct final_scan *ret, struct phaul_error *err)
{
	struct half lower = { .t = t }, upper = { .t = t };
	pthread_t thread;
	int code = plan_walks(t, map, 0, ~0ull, &lower.walks);

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

int track_add_held(struct tracker *t, const struct vma *vma, uint64_t start, uint64_t end, struct range_list *to)
{
	struct range_list guards = {0};
	struct vma part = *vma;
	int code;

	part.start = start > vma->start ? start : vma->start;
	part.end = end < vma->end ? end : vma->end;
	code = pagemap_held(t->pagemap, &part, to, &guards);
	range_list_free(&guards);
	return code;
}

int track_add_kept(struct tracker *t, const struct memory_map *map, const struct range_list *kept, struct range_list *to,
		   struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < kept->count && !code; i++) {
		uint64_t start = kept->at[i].address, end = range_end(&kept->at[i]);

		for (size_t n = 0; n < map->count && !code; n++)
			if (map->at[n].start < end && start < map->at[n].end && vma_has_pages(&map->at[n]))
				code = track_add_held(t, &map->at[n], start, end, to);
	}
	return code ? phaul_fail(err, code, "track", "looking at what pid %d had mapped", t->pid) : 0;
}
