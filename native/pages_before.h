/* pages_before.h - is a page the same in the checkpoint before? That may be here, and is compared; or on another host, which has
 * sent a digest of each of its pages.
 */
#ifndef PHAUL_PAGES_BEFORE_H
#define PHAUL_PAGES_BEFORE_H

#include "page_image.h"

#define PAGE_DIGEST_SIZE 16u	/* of SHA-256 */
#define DIGESTS_MAX 65536u	/* in a note */

void page_digest(const uint8_t *page, uint8_t ret[PAGE_DIGEST_SIZE]);

/* The start of a SINK_BEFORE note: of which image, and of which pages digests follow. */
struct digests_head {
	char base[16];
	int64_t id;
	uint64_t at, pages;
};

struct digested_run {
	struct digests_head head;
	uint8_t (*digests)[PAGE_DIGEST_SIZE];
};

/* All that another host has sent. */
struct pages_elsewhere {
	struct digested_run *runs;	/* of one image one behind the other, ascending */
	size_t count;
};

/* There: of all pages of the parent of chain->at[0]. */
int pages_tell(const struct chain *chain, struct phaul_channel *ch, struct phaul_error *err);
/* Here: until BEGIN. */
int pages_hear(struct pages_elsewhere *e, struct phaul_channel *ch, struct phaul_error *err);
void pages_elsewhere_free(struct pages_elsewhere *e);
/* As chain_check_pid() does. */
int pages_elsewhere_check_pid(const struct pages_elsewhere *e, pid_t pid, struct phaul_error *err);

struct pages_before {
	struct page_image image;	/* no levels: nothing */
	const struct digested_run *runs;
	size_t count;
	uint8_t *old;			/* PAGES_AT_ONCE pages */
};

/* Of one image. `elsewhere` NULL: in the parent of chain->at[0]. */
int pages_before_open(const struct chain *chain, const struct pages_elsewhere *elsewhere, const char *base, int64_t id,
		      struct pages_before *ret, struct phaul_error *err);
/* Of up to PAGES_AT_ONCE pages: which are the same. */
int pages_before_compare(struct pages_before *b, uint64_t at, uint64_t pages, const uint8_t *bytes, bool *ret_same,
			 struct phaul_error *err);
void pages_before_close(struct pages_before *b);

#endif
