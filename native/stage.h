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
	int mem;			/* /proc/PID/mem: writes to what the process itself may not write */
	/* Pages of a round wait until its layout is there. */
	pthread_mutex_t lock;
	pthread_cond_t opened;
	uint32_t open_round;
	bool closed;
};

int stage_open(struct stage *s, struct husk *husk, struct phaul_error *err);
/* Makes the husk's mappings those of `layout`, which it takes. */
int stage_layout(struct stage *s, struct memory_map *layout, struct phaul_error *err);
/* Empties pages that arrived once and that the source has no more; makes guard regions. Returns how many
 * pages. */
int64_t stage_drop(struct stage *s, const struct final_scan *gone, struct phaul_error *err);
/* Pages of rounds up to this one may come in. */
void stage_open_round(struct stage *s, uint32_t round);
/* All pages of the first round are in place. */
void stage_filled(struct stage *s);
/* Nothing comes in any more; those who wait fail. */
void stage_shut(struct stage *s);
void stage_close(struct stage *s);

/* For page_sink.apply, any thread. */
int stage_pages(void *ctx, uint32_t round, const struct page_extent *extents, size_t n,
		const uint8_t *data, struct phaul_error *err);

#endif
