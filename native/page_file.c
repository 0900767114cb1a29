#include "page_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

#define PAGE 4096ul

enum { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };	/* CRIU's */

int page_writer_open(int directory, struct image_set *images, struct page_writer *ret)
{
	*ret = (struct page_writer){
		.directory = directory, .images = images, .file = -1, .buffer = malloc(PAGES_AT_ONCE * PAGE),
	};
	return ret->buffer ? 0 : -ENOMEM;
}

void page_writer_close(struct page_writer *w)
{
	if (w->file >= 0)
		close(w->file);
	w->file = -1;
	free(w->buffer);
	w->buffer = NULL;
}

int page_writer_begin(struct page_writer *w, const char *base, int64_t id)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	char name[32];

	w->base = base;
	w->id = id;
	head.pages_id = ++w->last_id;
	snprintf(name, sizeof(name), "pages-%u.img", head.pages_id);
	w->file = openat(w->directory, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return w->file < 0 ? -errno : image_put(w->images, base, id, &head.base);
}

static int write_all(int fd, const uint8_t *bytes, size_t size)
{
	while (size) {
		ssize_t put = write(fd, bytes, size);

		if (put < 0 && errno != EINTR)
			return -errno;
		bytes += put > 0 ? put : 0;
		size -= put > 0 ? put : 0;
	}
	return 0;
}

int page_writer_put(struct page_writer *w, uint64_t at, uint64_t pages, page_read_fn *read, void *ctx)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;
	int err;

	entry.vaddr = at;
	entry.compat_nr_pages = pages;
	entry.has_nr_pages = entry.has_flags = true;
	entry.nr_pages = pages;
	entry.flags = PE_PRESENT;
	err = image_put(w->images, w->base, w->id, &entry.base);
	for (uint64_t done = 0; done < pages && !err; done += PAGES_AT_ONCE) {
		size_t size = (pages - done < PAGES_AT_ONCE ? pages - done : PAGES_AT_ONCE) * PAGE;

		err = read(ctx, at + done * PAGE, w->buffer, size) ?: write_all(w->file, w->buffer, size);
	}
	w->pages += pages;
	return err;
}

int page_writer_end(struct page_writer *w)
{
	int err = fsync(w->file) < 0 ? -errno : 0;

	if (close(w->file) < 0 && !err)
		err = -errno;
	w->file = -1;
	return err;
}

/* ---- reading ---- */

struct page_reader {
	int file;
	const char *name;
	uint8_t *buffer;
	page_place_fn *place;
	void *ctx;
	struct phaul_error *err;
};

static int place_range(struct page_reader *r, const PagemapEntry *entry)
{
	uint64_t pages = entry->has_nr_pages ? entry->nr_pages : entry->compat_nr_pages;
	uint64_t at = entry->vaddr;
	int code = 0;

	while (pages && !code) {
		uint64_t n = pages < PAGES_AT_ONCE ? pages : PAGES_AT_ONCE;
		ssize_t got = read(r->file, r->buffer, n * PAGE);

		if (got != (ssize_t)(n * PAGE))
			return phaul_fail(r->err, got < 0 ? -errno : -EPROTO, "checkpoint", "%s ends too early", r->name);
		code = r->place(r->ctx, at, n, r->buffer, r->err);
		at += n * PAGE;
		pages -= n;
	}
	return code;
}

static int place_all(struct page_reader *r, struct image_reader *entries, const char *base, int64_t id)
{
	ProtobufCMessage *msg = NULL;
	int more = 0, code = 0;

	while (!code && (more = image_next(entries, &pagemap_entry__descriptor, &msg)) > 0) {
		const PagemapEntry *entry = (PagemapEntry *)msg;

		if (entry->in_parent || entry->flags & PE_PARENT)
			code = phaul_fail(r->err, -EOPNOTSUPP, "checkpoint", "some pages are in a checkpoint before this one "
					  "(parent), which can't be followed yet");
		else
			code = place_range(r, entry);
		protobuf_c_message_free_unpacked(msg, NULL);
	}
	return !code && more < 0 ? image_malformed(base, id, r->err) : code;
}

int page_file_read(const struct image_set *images, int directory, const char *base, int64_t id, page_place_fn *place,
		   void *ctx, struct phaul_error *err)
{
	char name[32];
	struct page_reader r = { .file = -1, .name = name, .place = place, .ctx = ctx, .err = err };
	struct image_reader entries;
	ProtobufCMessage *msg = NULL;
	int code;

	if (image_read(images, base, id, &entries) || image_next(&entries, &pagemap_head__descriptor, &msg) != 1)
		return image_malformed(base, id, err);
	snprintf(name, sizeof(name), "pages-%u.img", ((PagemapHead *)msg)->pages_id);
	protobuf_c_message_free_unpacked(msg, NULL);
	r.file = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	r.buffer = malloc(PAGES_AT_ONCE * PAGE);
	if (r.file < 0 || !r.buffer)
		code = phaul_fail(err, r.file < 0 ? -errno : -ENOMEM, "checkpoint", "opening %s", name);
	else
		code = place_all(&r, &entries, base, id);
	if (r.file >= 0)
		close(r.file);
	free(r.buffer);
	return code;
}
