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
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"
#include "pagemap.h"
#include "track.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#define FEATURES (UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | \
		  UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

#define USER_END 0x7ffffffff000ull

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
	int code = pagemap_scan(t->pagemap, arg, pagemap_list, &found);

	if (!code)
		track_mark_fresh(map, &found);
	track_mark_fresh(map, &t->doubtful);
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

/* What a disk was to write to when it was armed is sent again, written or not: it came later than the mark, and by no way that
 * clears it. Who has done with reading when he is asked has what he read before the pages are sent. */
static int uffd_scan(struct tracker *t, const struct memory_map *map, bool arm, struct range_list *ret, struct phaul_error *err)
{
	int code = track_dirty(t, map, arm, ret, err) ?: track_add_kept(t, map, &t->being_read, ret, err);

	if (code || !arm)
		return code;
	code = direct_reads_find(t->pid, &t->reads, &t->being_read);
	return code ? phaul_fail(err, code, "track", "looking for what pid %d reads from disks", t->pid) : 0;
}

static int uffd_final(struct tracker *t, struct memory_map *map, struct final_scan *ret, struct phaul_error *err)
{
	return find_unregistered(t, map, err) ?: track_final(t, map, ret, err) ?: track_add_kept(t, map, &t->being_read, &ret->dirty, err);
}

static void uffd_close(struct tracker *t)
{
	if (t->uffd >= 0)
		close(t->uffd);
	t->uffd = -1;
	range_list_free(&t->doubtful);
	range_list_free(&t->being_read);
}

const struct tracker_kind tracker_uffd = {
	.name = "uffd", .what = "userfaultfd WP_ASYNC with PAGEMAP_SCAN (Linux 6.7)",
	.written = PAGE_IS_WRITTEN, .arm_flags = PM_SCAN_WP_MATCHING,
	.usable = usable, .open = uffd_open, .cover = cover, .scan = uffd_scan, .final = uffd_final, .close = uffd_close,
};
