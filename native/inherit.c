#include "inherit.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096ull
#define PAGES_AT_ONCE 512u

/* Of an entry of /proc/PID/pagemap. */
#define ENTRY_FRAME ((1ull << 55) - 1)
#define ENTRY_ARMED (1ull << 57)	/* write protected by a userfaultfd: not written since */
#define ENTRY_PRESENT (1ull << 63)

/* The vdso has another address in each program that was begun. */
bool inherit_is_same_program(const struct memory_map *a, const struct memory_map *b)
{
	static const char *const names[] = { "[vdso]", "[vvar]", "[vvar_vclock]" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		const struct vma *x = memory_map_named(a, names[i]), *y = memory_map_named(b, names[i]);

		if (!x != !y || (x && x->start != y->start))
			return false;
	}
	return true;
}

/* What fork() copies. Huge pages of hugetlbfs are copied by force when there are none left to write to: let them be. */
static bool is_given(const struct vma *vma)
{
	return vma_has_pages(vma) && !(vma->flags & (VMA_DONTFORK | VMA_WIPEONFORK | VMA_DROPPABLE | VMA_HUGETLB));
}

int inherit_candidates(const struct memory_map *parent, const struct memory_map *child, struct range_list *ret)
{
	int err = 0;

	if (!inherit_is_same_program(parent, child))
		return 0;
	for (size_t i = 0, n = 0; i < parent->count && n < child->count && !err; ) {
		const struct vma *x = &parent->at[i], *y = &child->at[n];
		uint64_t start = x->start > y->start ? x->start : y->start, end = x->end < y->end ? x->end : y->end;

		if (start < end && is_given(x) && is_given(y) && vma_same_backing(x, y))
			err = range_list_add(ret, start, end);
		if (x->end < y->end)
			i++;
		else
			n++;
	}
	return err;
}

static bool read_entries(int pagemap, uint64_t at, size_t count, uint64_t *ret)
{
	return pread(pagemap, ret, count * sizeof(*ret), at / PAGE * sizeof(*ret)) == (ssize_t)(count * sizeof(*ret));
}

/* Frames are 0 for those who may not see them. */
static bool is_shared(uint64_t parents, uint64_t own, bool frozen)
{
	uint64_t same = ENTRY_FRAME | ENTRY_PRESENT | (frozen ? 0 : ENTRY_ARMED);

	return parents & ENTRY_PRESENT && parents & ENTRY_ARMED && parents & ENTRY_FRAME && (parents & same) == (own & same);
}

/* The parent is looked at before and after the child, as no two looks are at the same moment: a frame that was the
 * parent's both times, and is marked as not written, was so in between. */
static int find_shared(const struct inherit_from *parent, int pagemap, uint64_t at, size_t count, struct range_list *ret)
{
	uint64_t before[PAGES_AT_ONCE], own[PAGES_AT_ONCE], after[PAGES_AT_ONCE];
	int err = 0;

	/* One that is gone shares nothing. */
	if (!read_entries(parent->pagemap, at, count, before) || !read_entries(pagemap, at, count, own) ||
	    (!parent->frozen && !read_entries(parent->pagemap, at, count, after)))
		return 0;
	for (size_t i = 0; i < count && !err; i++)
		if (is_shared(before[i], own[i], parent->frozen) && (parent->frozen || is_shared(after[i], own[i], false)))
			err = range_list_add(ret, at + i * PAGE, at + (i + 1) * PAGE);
	return err;
}

static int find_in(const struct inherit_from *parent, int pagemap, const struct range_list *where, struct range_list *ret)
{
	int err = 0;

	for (size_t i = 0; i < where->count; i++)
		for (uint64_t done = 0; done < where->at[i].pages && !err; done += PAGES_AT_ONCE) {
			uint64_t left = where->at[i].pages - done;

			err = find_shared(parent, pagemap, where->at[i].address + done * PAGE,
					  left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE, ret);
		}
	return err;
}

int inherit_find(const struct inherit_from *parent, const struct memory_map *map, int pagemap, struct range_list *dirty,
		 struct range_list *ret)
{
	struct range_list candidates = {0}, written = {0}, clean = {0}, own = {0};
	int err = inherit_candidates(parent->told, map, &candidates) ?: range_list_common(dirty, &candidates, &written) ?:
		  range_list_without(&written, parent->dirty, &clean) ?: find_in(parent, pagemap, &clean, ret) ?:
		  range_list_without(dirty, ret, &own);

	range_list_free(&candidates);
	range_list_free(&written);
	range_list_free(&clean);
	range_list_free(dirty);
	*dirty = own;
	if (err)
		range_list_free(ret);
	return err;
}
