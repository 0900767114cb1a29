#include "track.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

/* The best first. */
static const struct tracker_kind *const kinds[] = { &tracker_uffd, &tracker_soft_dirty, &tracker_none };

#define KINDS (sizeof(kinds) / sizeof(*kinds))

int tracker_choose(const char *name, const struct tracker_kind **ret, struct phaul_error *err)
{
	for (size_t i = 0; i < KINDS; i++) {
		if (name && strcmp(name, kinds[i]->name))
			continue;
		*ret = kinds[i];
		if (kinds[i]->usable())
			return 0;
		if (name)
			return phaul_fail(err, -EOPNOTSUPP, "track", "this kernel can't track dirty pages by %s: it has no %s", name,
					  kinds[i]->what);
	}
	return phaul_fail(err, -EINVAL, "track", "there is no way to track dirty pages that is called %s", name);
}

int phaul_tracker(const char *wanted, char ret_name[16], struct phaul_error *err)
{
	const struct tracker_kind *kind;
	int code = tracker_choose(wanted, &kind, err);

	if (!code)
		snprintf(ret_name, 16, "%s", kind->name);
	return code;
}

int tracker_open(struct tracker *t, const struct tracker_kind *kind, pid_t pid, struct remote *leader, struct phaul_error *err)
{
	char path[32];
	int ret;

	memset(t, 0, sizeof(*t));
	t->uffd = -1;
	t->pid = pid;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	t->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (t->pagemap < 0)
		return phaul_fail(err, -errno, "track", "opening %s", path);
	t->kind = kind;
	ret = kind->open(t, leader, err);
	if (ret < 0)
		tracker_close(t);
	return ret;
}

void tracker_close(struct tracker *t)
{
	if (!t->pid)
		return;
	if (t->kind)
		t->kind->close(t);
	if (t->pagemap >= 0)
		close(t->pagemap);
	huge_pages_free(&t->huge);
	memset(t, 0, sizeof(*t));
}

int range_list_add(struct range_list *list, uint64_t start, uint64_t end)
{
	struct page_range *last = list->count ? &list->at[list->count - 1] : NULL;

	list->pages += (end - start) / 4096;
	if (last && range_end(last) == start) {
		last->pages += (end - start) / 4096;
		return 0;
	}
	if (list->count == list->capacity) {
		size_t capacity = list->capacity ? 2 * list->capacity : 1024;
		void *at = realloc(list->at, capacity * sizeof(*list->at));

		if (!at)
			return -ENOMEM;
		list->at = at;
		list->capacity = capacity;
	}
	list->at[list->count++] = (struct page_range){ start, (end - start) / 4096 };
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const struct page_range *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

void range_list_order(struct range_list *list)
{
	struct range_list ordered = { .at = list->at, .capacity = list->capacity };
	bool is_ordered = true;

	for (size_t i = 1; i < list->count; i++)
		is_ordered = is_ordered && range_end(&list->at[i - 1]) <= list->at[i].address;
	if (is_ordered)
		return;
	qsort(list->at, list->count, sizeof(*list->at), by_address);
	for (size_t i = 0; i < list->count; i++) {
		uint64_t start = list->at[i].address, end = range_end(&list->at[i]);
		uint64_t known = ordered.count ? range_end(&ordered.at[ordered.count - 1]) : 0;

		/* Never more than there were. */
		if (end > known)
			(void)range_list_add(&ordered, start > known ? start : known, end);
	}
	*list = ordered;
}

int range_list_common(const struct range_list *a, const struct range_list *b, struct range_list *ret)
{
	int err = 0;

	for (size_t i = 0, n = 0; i < a->count && n < b->count && !err; ) {
		const struct page_range *left = &a->at[i], *right = &b->at[n];
		uint64_t start = left->address > right->address ? left->address : right->address;
		uint64_t end = range_end(left) < range_end(right) ? range_end(left) : range_end(right);

		if (start < end)
			err = range_list_add(ret, start, end);
		if (range_end(left) < range_end(right))
			i++;
		else
			n++;
	}
	return err;
}

int range_list_without(const struct range_list *a, const struct range_list *b, struct range_list *ret)
{
	int err = 0;

	for (size_t i = 0; i < a->count && !err; i++) {
		uint64_t at = a->at[i].address, end = range_end(&a->at[i]);

		for (size_t n = range_list_above(b, at); n < b->count && b->at[n].address < end && !err; n++) {
			if (b->at[n].address > at)
				err = range_list_add(ret, at, b->at[n].address);
			at = range_end(&b->at[n]);
		}
		if (at < end && !err)
			err = range_list_add(ret, at, end);
	}
	return err;
}

size_t range_list_above(const struct range_list *list, uint64_t address)
{
	size_t low = 0, high = list->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (range_end(&list->at[middle]) > address)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

void range_list_reset(struct range_list *list)
{
	list->count = 0;
	list->pages = 0;
}

void range_list_free(struct range_list *list)
{
	free(list->at);
	memset(list, 0, sizeof(*list));
}
