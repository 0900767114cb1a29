/* pagemap.h - which pages a process has, by an open /proc/PID/pagemap: by PAGEMAP_SCAN (Linux 6.7), where that isn't by
 * reading it, with the same answers.
 */
#ifndef PHAUL_PAGEMAP_H
#define PHAUL_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>

struct frames;
struct range_list;
struct vma;

/* From include/uapi/linux/fs.h of Linux 6.15; Debian 12's headers are older. */
struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

struct page_region {
	uint64_t start, end, categories;
};

#ifndef PAGEMAP_SCAN
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PM_SCAN_WP_MATCHING (1 << 0)
#define PAGE_IS_WPALLOWED (1 << 0)
#define PAGE_IS_WRITTEN (1 << 1)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_PFNZERO (1 << 5)
#endif
#ifndef PAGE_IS_SOFT_DIRTY
#define PAGE_IS_SOFT_DIRTY (1 << 7)
#endif
#ifndef PAGE_IS_GUARD
#define PAGE_IS_GUARD (1 << 8)	/* Linux 6.15 */
#endif

typedef int (*on_region)(void *to, const struct page_region *region);

/* An on_region: adds it to a struct range_list. */
int pagemap_list(void *to, const struct page_region *region);

/* `arg` as PAGEMAP_SCAN takes it; its size, vec and vec_len are filled in here. Ends with the first report that isn't 0.
 * -ENOTTY: what is asked for takes PAGEMAP_SCAN, which this kernel hasn't got. */
int pagemap_scan(int pagemap, struct pm_scan_arg arg, on_region report, void *to);
/* The same by reading; PAGE_IS_WRITTEN and PAGE_IS_WPALLOWED are never told. With `frames`, pages that aren't in those are told
 * as soft-dirty; with `remember` they are changed to what is there now. */
int pagemap_read(int pagemap, const struct pm_scan_arg *arg, struct frames *frames, bool remember, on_region report, void *to);

/* PAGE_IS_GUARD where the kernel knows it, else 0. */
uint64_t pagemap_guard_bit(void);

/* Where [start, end) holds pages. */
int pagemap_populated(int pagemap, uint64_t start, uint64_t end, struct range_list *ret);
/* What a mapping of a frozen process holds that is its own: of a file the copies on write. Guard regions apart. */
int pagemap_held(int pagemap, const struct vma *vma, struct range_list *ret, struct range_list *ret_guards);

#endif
