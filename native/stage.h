/* stage.h - the husk's memory follows the source's, round by round: mappings by difference, pages to their
 * final address.
 */
#ifndef PHAUL_STAGE_H
#define PHAUL_STAGE_H

#include "fill.h"
#include "husk.h"
#include "pages.h"
#include "received.h"
#include "shmem.h"
#include "track.h"

struct stage {
	struct husk *husk;
	const struct shmem_set *shmem;	/* where shared memory is to be had, NULL: there is none */
	struct memory_map layout;	/* what is mapped in the husk now */
	struct received received;
	struct fill fill;		/* in the first round */
	bool is_new;			/* has had no layout yet */
	bool inherits;			/* has pages of its parent's, of which not all may be its own */
	int mem;			/* /proc/PID/mem: writes to what the process itself may not write */
};

int stage_open(struct stage *s, struct husk *husk, struct phaul_error *err);
/* The same for a husk that has just been forked by that of `parent`, which had given it the mappings that `given` touches,
 * and their pages. */
int stage_inherit(struct stage *s, struct husk *husk, const struct stage *parent, const struct range_list *given,
		  struct phaul_error *err);
/* Makes the husk's mappings those of `layout`, which it takes. */
int stage_layout(struct stage *s, struct memory_map *layout, struct phaul_error *err);
/* Empties pages that arrived once and that the source has no more; makes guard regions. Returns how many
 * pages. */
int64_t stage_drop(struct stage *s, const struct final_scan *gone, struct phaul_error *err);
/* Of what it has inherited, and of what has arrived since, it keeps this; ascending. */
int stage_keep(struct stage *s, const struct range_list *kept, struct phaul_error *err);
/* Whatever the protection of the memory says. */
int stage_write(struct stage *s, uint64_t at, const void *bytes, size_t size, struct phaul_error *err);
/* All pages of the first round are in place. */
void stage_filled(struct stage *s);
/* While it is spared, what it has mapped is not copied into a child that the husk has, but for mappings that `given` touches;
 * NULL: none. */
int stage_spare(struct stage *s, bool spare, const struct range_list *given, struct phaul_error *err);
void stage_close(struct stage *s);

/* Any thread. `data` has the pages of all extents but zero ones. */
int stage_pages(struct stage *s, const struct page_extent *extents, size_t n, const uint8_t *data,
		struct phaul_error *err);
/* The same, but leaves alone what the husk has inherited and is equal. At most PAGES_AT_ONCE pages (page_file.h). */
int stage_pages_that_differ(struct stage *s, uint64_t at, size_t pages, const uint8_t *data, struct phaul_error *err);

#endif
