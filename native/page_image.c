#include "page_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "page_file.h"

#define PAGE 4096ull

const char *page_image_name(const struct page_image *image, size_t level, bool pages, char ret[CHAIN_PREFIX_SIZE + 64])
{
	size_t n;

	chain_prefix(image->from + level, ret);
	n = strlen(ret);
	if (pages)
		snprintf(ret + n, 64, "pages-%u.img", image->levels[level].pages_id);
	else
		snprintf(ret + n, 64, "%s-%lld.img", image->base, (long long)image->id);
	return ret;
}

bool page_image_is(const char *name, const char **ret_base, int64_t *ret_id)
{
	static const char *const bases[] = { "pagemap-shmem", "pagemap" };

	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		size_t n = strlen(bases[i]);

		if (strncmp(name, bases[i], n) || name[n] != '-')
			continue;
		*ret_base = bases[i];
		*ret_id = strtoll(name + n + 1, NULL, 10);
		return true;
	}
	return false;
}

/* ---- opening ---- */

/* CRIU's older images say only whether a page is in the parent. */
static int take_entry(struct page_level *level, const PagemapEntry *entry, uint64_t *next)
{
	const struct page_run *last = level->count ? &level->runs[level->count - 1] : NULL;
	struct page_run run = {
		.at = entry->vaddr, .pages = entry->has_nr_pages ? entry->nr_pages : entry->compat_nr_pages,
		.has_sum = entry->has_phaul_sum, .sum = entry->phaul_sum,
	};

	run.in_parent = (entry->has_in_parent && entry->in_parent) || (entry->has_flags && entry->flags & PE_PARENT);
	if (run.at % PAGE || run.pages > (UINT64_MAX - run.at) / PAGE || (last && run.at < last->at + last->pages * PAGE))
		return -EPROTO;
	if (!run.in_parent && entry->has_flags && !(entry->flags & PE_PRESENT))
		return -ENODATA;
	if (!run.in_parent) {
		run.first = *next;
		*next += run.pages;
	}
	if (run.pages)
		level->runs[level->count++] = run;
	return 0;
}

static int refuse_entry(const struct page_image *image, size_t at, size_t number, int code, struct phaul_error *err)
{
	char name[CHAIN_PREFIX_SIZE + 64];

	page_image_name(image, at, false, name);
	if (code == -ENODATA)
		return phaul_fail(err, -EOPNOTSUPP, "images", "%s says of entry %zu that its pages are neither here nor in the parent (flags): "
				  "were they to be fetched from the source?", name, number);
	return phaul_fail(err, code, "images", "%s is malformed in entry %zu (vaddr, nr_pages): it must be behind the one before it", name,
			  number);
}

static int take_entries(struct page_image *image, size_t at, ProtobufCMessage **entries, size_t count, struct phaul_error *err)
{
	struct page_level *level = &image->levels[at];
	uint64_t pages = 0;
	int code = 0;

	level->runs = calloc(count, sizeof(*level->runs));
	if (!level->runs && count)
		return phaul_fail(err, -ENOMEM, "images", "reading which pages there are");
	for (size_t i = 0; i < count && !code; i++) {
		code = take_entry(level, (PagemapEntry *)entries[i], &pages);
		if (code)
			code = refuse_entry(image, at, i, code, err);
	}
	return code;
}

static int check_size(const struct page_image *image, size_t at, struct phaul_error *err)
{
	const struct page_level *level = &image->levels[at];
	char name[CHAIN_PREFIX_SIZE + 64], pagemap[CHAIN_PREFIX_SIZE + 64];
	uint64_t pages = 0;
	struct stat st;

	for (size_t i = 0; i < level->count; i++)
		pages += level->runs[i].in_parent ? 0 : level->runs[i].pages;
	page_image_name(image, at, true, name);
	if (fstat(level->file, &st) < 0)
		return phaul_fail(err, -errno, "images", "looking at %s", name);
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size / PAGE >= pages)
		return 0;
	return phaul_fail(err, -EPROTO, "images", "%s has %lld bytes, where %s tells of %llu pages", name, (long long)st.st_size,
			  page_image_name(image, at, false, pagemap), (unsigned long long)pages);
}

static int open_level(struct page_image *image, bool to_change, struct phaul_error *err)
{
	size_t at = image->count, count = 0;
	const struct chain_link *link = &image->chain->at[image->from + at];
	struct page_level *level = &image->levels[at];
	ProtobufCMessage *head = NULL, **entries = NULL;
	char name[CHAIN_PREFIX_SIZE + 64], file[32];
	struct image_reader r;
	int code = image_read(link->images, image->base, image->id, &r);

	if (code == -ENOENT)
		return code;
	level->file = -1;
	image->count++;
	code = code ?: image_next(&r, &pagemap_head__descriptor, &head) == 1 ? 0 : -EPROTO;
	if (!code) {
		level->pages_id = ((PagemapHead *)head)->pages_id;
		protobuf_c_message_free_unpacked(head, NULL);
		code = image_rest(&r, &pagemap_entry__descriptor, &entries, &count);
	}
	if (code)
		phaul_fail(err, code, "images", "%s is malformed (pagemap_head, pagemap_entry)", page_image_name(image, at, false, name));
	code = code ?: take_entries(image, at, entries, count, err);
	image_free_all(entries, count);
	if (code)
		return code;
	snprintf(file, sizeof(file), "pages-%u.img", level->pages_id);
	level->file = openat(link->directory, file, (to_change && at ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (level->file < 0)	/* -ENOENT means something else here */
		return phaul_fail(err, errno == ENOENT ? -EPROTO : -errno, "images", "opening %s, which has the pages of %s-%lld.img",
				  page_image_name(image, at, true, name), image->base, (long long)image->id);
	return check_size(image, at, err);
}

int page_image_open(const struct chain *chain, size_t from, const char *base, int64_t id, bool to_change, struct page_image *ret,
		    struct phaul_error *err)
{
	int code = 0;

	*ret = (struct page_image){ .chain = chain, .from = from, .base = base, .id = id };
	if (from >= chain->count)
		return -ENOENT;
	ret->levels = calloc(chain->count - from, sizeof(*ret->levels));
	if (!ret->levels)
		return phaul_fail(err, -ENOMEM, "images", "reading which pages there are");
	while (!code && from + ret->count < chain->count)
		code = open_level(ret, to_change, err);
	if (code == -ENOENT && ret->count)
		code = 0;
	if (code)
		page_image_close(ret);
	return code;
}

void page_image_close(struct page_image *image)
{
	for (size_t i = 0; i < image->count; i++) {
		free(image->levels[i].runs);
		if (image->levels[i].file >= 0)
			close(image->levels[i].file);
	}
	free(image->levels);
	image->levels = NULL;
	image->count = 0;
}

/* ---- finding and reading ---- */

const struct page_run *page_level_find(const struct page_level *level, uint64_t at)
{
	size_t low = 0, high = level->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct page_run *run = &level->runs[middle];

		if (run->at + run->pages * PAGE <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low < level->count ? &level->runs[low] : NULL;
}

int page_image_find(const struct page_image *image, size_t level, uint64_t at, uint64_t pages, struct page_place *ret)
{
	for (;; level++) {
		const struct page_run *run = level < image->count ? page_level_find(&image->levels[level], at) : NULL;
		uint64_t skipped, left;

		*ret = (struct page_place){ .level = level, .pages = pages };
		if (!run || run->at > at) {
			left = run ? (run->at - at) / PAGE : pages;
			ret->pages = left < pages ? left : pages;
			return -ENOENT;
		}
		skipped = (at - run->at) / PAGE;
		left = run->pages - skipped;
		pages = left < pages ? left : pages;
		if (run->in_parent)
			continue;
		ret->first = run->first + skipped;
		ret->pages = pages;
		return 0;
	}
}

int page_image_read(const struct page_image *image, const struct page_place *place, uint8_t *to, struct phaul_error *err)
{
	char name[CHAIN_PREFIX_SIZE + 64];
	size_t done = 0, size = place->pages * PAGE;

	while (done < size) {
		ssize_t got = pread(image->levels[place->level].file, to + done, size - done, place->first * PAGE + done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return phaul_fail(err, got < 0 ? -errno : -EPROTO, "images", "reading page %llu of %s",
					  (unsigned long long)(place->first + done / PAGE), page_image_name(image, place->level, true, name));
		done += got;
	}
	return 0;
}

int page_image_missing(const struct page_image *image, uint64_t at, const struct page_place *place, struct phaul_error *err)
{
	char pagemap[CHAIN_PREFIX_SIZE + 64], name[CHAIN_PREFIX_SIZE + 64], prefix[CHAIN_PREFIX_SIZE];

	page_image_name(image, place->level - 1, false, pagemap);
	if (place->level < image->count)
		return phaul_fail(err, -EPROTO, "images", "%s says that page %llx is in its parent (flags), where %s tells of none: is it the "
				  "parent of this checkpoint?", pagemap, (unsigned long long)at,
				  page_image_name(image, place->level, false, name));
	if (image->from + place->level < image->chain->count)
		return phaul_fail(err, -EPROTO, "images", "%s says that page %llx is in its parent (flags), and %s%s-%lld.img is missing: is "
				  "it the parent of this checkpoint?", pagemap, (unsigned long long)at, chain_prefix(image->from + place->level, prefix),
				  image->base, (long long)image->id);
	return phaul_fail(err, -EPROTO, "images", "%s says that page %llx is in its parent (flags), to which %sparent should lead, and "
			  "there is no such link", pagemap, (unsigned long long)at, chain_prefix(image->from + place->level - 1, prefix));
}
