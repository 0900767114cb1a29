/* frames.h - which frame of the machine's memory each page of a process was in at the last look.
 *
 * A page that isn't marked as written, but is another frame than before, has come there by mremap(): large moves move page
 * tables whole, and the kernel marks none of the pages in them (docs/kernel-notes.md).
 */
#ifndef PHAUL_FRAMES_H
#define PHAUL_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAMES_PAGES 512	/* of a page table */

struct frames {
	struct frames_table **slots;	/* a hash table by address */
	size_t capacity, count;
	bool failed;			/* there was no memory for one: the look is worth nothing */
};

/* Those of the page table that covers `address`, by page; 0: none. NULL: nothing is known; with `make` never, unless there
 * is no memory. */
uint32_t *frames_of(struct frames *f, uint64_t address, bool make);
void frames_free(struct frames *f);

#endif
