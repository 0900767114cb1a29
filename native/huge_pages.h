/* huge_pages.h - huge pages (hugetlb) of a process that it has dropped since they were read, told by what they hold.
 *
 * One that is dropped and read again is there, clean, and all zeros: of huge pages the kernel has no page of zeros that its
 * tables could tell from others. To read them all while the process stands still takes 800 ms per GiB of zeros. So the rounds
 * remember of each where it has a word that isn't zero, and the last look reads that word.
 */
#ifndef PHAUL_HUGE_PAGES_H
#define PHAUL_HUGE_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory_map.h"

struct range_list;

struct huge_pages {
	struct huge_page *at;	/* ascending */
	size_t count, capacity;
};

/* Adds to `ret` what the huge pages of [start, end), all of `size` bytes, hold just now. Called when they have been armed, and
 * before their content is read for the target: what is written in between is found by the next look. `known`: by the look
 * before, of pages that aren't in `written`. */
int huge_pages_note(pid_t pid, int pagemap, uint64_t start, uint64_t end, uint64_t size, const struct range_list *written,
		    const struct huge_pages *known, struct huge_pages *ret);
/* The process is frozen: reads the words that were noted of [start, end). */
int huge_pages_look(struct huge_pages *noted, pid_t pid, int pagemap, uint64_t start, uint64_t end);
/* After that, of a page that is there and clean: is it another one than was noted? */
bool huge_pages_dropped(const struct huge_pages *noted, pid_t pid, uint64_t at, uint64_t size);
void huge_pages_free(struct huge_pages *pages);

#endif
