/* stage_pages.c - pages to their final address: as the first that come there, or in place of others. */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "error.h"
#include "stage.h"

#define PAGE 4096ull
#define COMPARED_AT_ONCE 16u	/* pages */

/* Local pieces and where they go, as process_vm_writev wants them. */
struct pieces {
	struct iovec local[256], remote[256];
	size_t count, bytes;
};

static int flush(struct stage *s, struct pieces *p)
{
	ssize_t put = p->count ? process_vm_writev(s->husk->pid, p->local, p->count, p->remote,
						   p->count, 0) : 0;
	int err = put < 0 ? -errno : (size_t)put == p->bytes ? 0 : -EFAULT;

	p->count = p->bytes = 0;
	return err;
}

static int write_pages(struct stage *s, struct pieces *p, uint64_t at, const uint8_t *data, size_t size,
		       bool writable)
{
	if (!writable) {
		/* Forced: as a debugger writes. */
		ssize_t put = pwrite(s->mem, data, size, at);

		return put < 0 ? -errno : (size_t)put == size ? 0 : -EIO;
	}
	p->local[p->count] = (struct iovec){ (void *)data, size };
	p->remote[p->count++] = (struct iovec){ (void *)at, size };
	p->bytes += size;
	return p->count == sizeof(p->local) / sizeof(*p->local) ? flush(s, p) : 0;
}

static int place(struct stage *s, struct pieces *p, const struct vma *vma, uint64_t at, const uint8_t *data,
		 size_t size)
{
	while (size) {
		int err;
		bool filled = vma->kind == VMA_ANON && !(vma->flags & VMA_HUGETLB);
		size_t done = filled ? fill_copy(&s->fill, at, data, size, &err) : 0;
		size_t rest = size - done;

		if (!filled)
			err = -ENOENT;
		if (err == -EEXIST || err == -ENOENT) {
			/* The one that is there, or all where there is no filling. */
			rest = err == -EEXIST ? PAGE : rest;
			err = write_pages(s, p, at + done, data + done, rest, vma->prot & PROT_WRITE);
			done += rest;
		}
		if (err)
			return err;
		at += done;
		data += done;
		size -= done;
	}
	return 0;
}

static int place_zeros(struct stage *s, const struct vma *vma, uint64_t at, uint64_t end)
{
	static const uint8_t zeros[16 * PAGE];
	int err = 0;

	while (at < end && !err) {
		size_t size = vma->kind == VMA_FILE && end - at > sizeof(zeros) ? sizeof(zeros) :
			      vma->kind == VMA_FILE ? end - at : PAGE;

		/* An anonymous page that never arrived is zero by nature. */
		if (vma->kind == VMA_FILE || received_any(&s->received, at)) {
			ssize_t put = pwrite(s->mem, zeros, size, at);

			err = put < 0 ? -errno : (size_t)put == size ? 0 : -EIO;
		}
		at += size;
	}
	return err;
}

/* An extent may reach over several mappings; what lies in none is an error of the source. */
static int place_extent(struct stage *s, struct pieces *p, const struct page_extent *extent,
			const uint8_t *data)
{
	uint64_t at = extent->address, end = at + extent->pages * PAGE;
	int err = 0;

	while (at < end && !err) {
		const struct vma *vma = memory_map_find(&s->layout, at);
		uint64_t until;

		if (!vma || !(vma_has_pages(vma) || vma->kind == VMA_AIO))
			return -EFAULT;
		until = vma->end < end ? vma->end : end;
		if (extent->flags & PAGE_EXTENT_ZERO) {
			err = place_zeros(s, vma, at, until);
			if (!err && vma->kind == VMA_FILE)
				err = received_add(&s->received, at, (until - at) / PAGE);
		} else {
			err = place(s, p, vma, at, data, until - at);
			if (!err)
				err = received_add(&s->received, at, (until - at) / PAGE);
			data += until - at;
		}
		at = until;
	}
	return err;
}

int stage_pages(struct stage *s, const struct page_extent *extents, size_t n, const uint8_t *data,
		struct phaul_error *err)
{
	struct pieces pieces = {0};
	int code = 0;

	for (size_t i = 0; i < n && !code; i++) {
		code = place_extent(s, &pieces, &extents[i], data);
		if (!(extents[i].flags & PAGE_EXTENT_ZERO))
			data += extents[i].pages * PAGE;
		if (code)
			return phaul_fail(err, code, "stage", "placing %u pages at %llx of pid %d",
					  extents[i].pages, (unsigned long long)extents[i].address,
					  s->husk->pid);
	}
	if (!code)
		code = flush(s, &pieces);
	return code ? phaul_fail(err, code, "stage", "placing pages in pid %d", s->husk->pid) : 0;
}

/* Which pages are there already, as they shall be. */
static void compare(struct stage *s, uint64_t at, size_t pages, const uint8_t *data, bool *ret_equal)
{
	uint8_t there[COMPARED_AT_ONCE * PAGE];

	memset(ret_equal, 0, pages * sizeof(*ret_equal));
	for (size_t i = 0, n; i < pages; i += n ? n : 1) {
		ssize_t got;

		for (n = 0; i + n < pages && n < COMPARED_AT_ONCE && received_any(&s->received, at + (i + n) * PAGE); n++)
			;
		got = n ? pread(s->mem, there, n * PAGE, at + i * PAGE) : 0;
		for (size_t k = 0; k < n; k++)
			ret_equal[i + k] = got >= (ssize_t)((k + 1) * PAGE) &&
					   !memcmp(there + k * PAGE, data + (i + k) * PAGE, PAGE);
	}
}

int stage_pages_that_differ(struct stage *s, uint64_t at, size_t pages, const uint8_t *data, struct phaul_error *err)
{
	bool equal[PAGES_AT_ONCE];
	int code = 0;

	compare(s, at, pages, data, equal);
	for (size_t i = 0, n; i < pages && !code; i += n) {
		struct page_extent extent = { at + i * PAGE, 0, 0 };

		for (n = 1; i + n < pages && equal[i + n] == equal[i]; n++)
			;
		extent.pages = n;
		code = equal[i] ? 0 : stage_pages(s, &extent, 1, data + i * PAGE, err);
	}
	return code;
}
