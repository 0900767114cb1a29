#include "huge_pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "pagemap.h"
#include "track.h"

#define PIECE 65536	/* of a huge page, read at once */
#define WORDS 512	/* of as many pages, read at once */

struct huge_page {
	uint64_t start;
	uint64_t word;	/* its address; 0: all are zero */
	bool gone;	/* that word is zero now */
};

static bool read_words(pid_t pid, uint64_t at, uint64_t *words, size_t size)
{
	struct iovec local = { words, size }, remote = { (void *)at, size };

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)size;
}

/* Where the first word is that isn't zero, 0 if there is none. What can't be read counts as zeros. */
static uint64_t find_word(pid_t pid, uint64_t at, uint64_t size)
{
	uint64_t words[PIECE / sizeof(uint64_t)];

	for (uint64_t end = at + size; at < end; at += sizeof(words)) {
		size_t i = 0;

		if (!read_words(pid, at, words, sizeof(words)) || (!words[0] && !memcmp(words, words + 1, sizeof(words) - sizeof(*words))))
			continue;
		while (!words[i])
			i++;
		return at + i * sizeof(*words);
	}
	return 0;
}

static bool is_zero(pid_t pid, uint64_t at)
{
	uint64_t word;

	return !read_words(pid, at, &word, sizeof(word)) || !word;
}

/* The first that doesn't begin below. */
static size_t first_at(const struct huge_pages *pages, uint64_t start)
{
	size_t low = 0, high = pages->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (pages->at[middle].start < start)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct huge_page *find(const struct huge_pages *pages, uint64_t start)
{
	size_t at = first_at(pages, start);

	return at < pages->count && pages->at[at].start == start ? &pages->at[at] : NULL;
}

static int add(struct huge_pages *pages, uint64_t start, uint64_t word)
{
	if (pages->count == pages->capacity) {
		size_t capacity = pages->capacity ? 2 * pages->capacity : 64;
		void *at = reallocarray(pages->at, capacity, sizeof(*pages->at));

		if (!at)
			return -ENOMEM;
		pages->at = at;
		pages->capacity = capacity;
	}
	pages->at[pages->count++] = (struct huge_page){ start, word, false };
	return 0;
}

struct noting {
	pid_t pid;
	uint64_t size;
	const struct range_list *written;
	const struct huge_pages *known;
	struct huge_pages *ret;
};

static bool is_in(const struct range_list *list, uint64_t at, uint64_t size)
{
	size_t i = range_list_above(list, at);

	return i < list->count && list->at[i].address < at + size;
}

static int note_page(const struct noting *n, uint64_t at)
{
	const struct huge_page *known = find(n->known, at);
	bool written = is_in(n->written, at, n->size);
	uint64_t word = known ? known->word : 0;

	/* Mostly a word that wasn't zero before isn't zero now, whatever was written. */
	if (!known || (written && (!word || is_zero(n->pid, word))))
		word = find_word(n->pid, at, n->size);
	/* All zeros and never written: it may have come in the place of one that the target has, and is none to go by. */
	return known || written || word ? add(n->ret, at, word) : 0;
}

static int note(void *to, const struct page_region *region)
{
	const struct noting *n = to;
	int err = 0;

	for (uint64_t at = region->start; at < region->end && !err; at += n->size)
		err = note_page(n, at);
	return err;
}

static struct pm_scan_arg there(uint64_t start, uint64_t end)
{
	return (struct pm_scan_arg){ .start = start, .end = end, .category_mask = PAGE_IS_PRESENT, .return_mask = PAGE_IS_PRESENT };
}

int huge_pages_note(pid_t pid, int pagemap, uint64_t start, uint64_t end, uint64_t size, const struct range_list *written,
		    const struct huge_pages *known, struct huge_pages *ret)
{
	struct noting n = { pid, size, written, known, ret };

	return pagemap_scan(pagemap, there(start, end), note, &n);
}

struct question {
	pid_t pid;
	struct huge_pages *noted;
	struct huge_page *pages[WORDS];
	size_t count;
};

/* What can't be read is gone; it ends a call, and the rest is asked again. */
static void ask(struct question *q)
{
	struct iovec local, remote[WORDS];
	uint64_t words[WORDS];

	for (size_t from = 0, got; from < q->count; from += got + 1) {
		ssize_t bytes;

		for (size_t i = from; i < q->count; i++)
			remote[i] = (struct iovec){ (void *)q->pages[i]->word, sizeof(*words) };
		local = (struct iovec){ words, (q->count - from) * sizeof(*words) };
		bytes = process_vm_readv(q->pid, &local, 1, remote + from, q->count - from, 0);
		got = bytes > 0 ? bytes / sizeof(*words) : 0;
		for (size_t i = 0; i < got; i++)
			q->pages[from + i]->gone = !words[i];
		if (from + got < q->count)
			q->pages[from + got]->gone = true;
	}
	q->count = 0;
}

static int ask_about(void *to, const struct page_region *region)
{
	struct question *q = to;

	for (size_t i = first_at(q->noted, region->start); i < q->noted->count && q->noted->at[i].start < region->end; i++) {
		if (!q->noted->at[i].word)
			continue;
		if (q->count == WORDS)
			ask(q);
		q->pages[q->count++] = &q->noted->at[i];
	}
	return 0;
}

/* To read one that isn't there would make it. */
int huge_pages_look(struct huge_pages *noted, pid_t pid, int pagemap, uint64_t start, uint64_t end)
{
	struct question q = { .pid = pid, .noted = noted };
	int err = pagemap_scan(pagemap, there(start, end), ask_about, &q);

	ask(&q);
	return err;
}

bool huge_pages_dropped(const struct huge_pages *noted, pid_t pid, uint64_t at, uint64_t size)
{
	const struct huge_page *page = find(noted, at);

	/* Zeros in the place of zeros make no difference. */
	return page ? page->gone : !find_word(pid, at, size);
}

void huge_pages_free(struct huge_pages *pages)
{
	free(pages->at);
	*pages = (struct huge_pages){0};
}
