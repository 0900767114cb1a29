/* pages.h - memory over the page streams: read from one process, given to whoever places it in another.
 *
 * A frame on a page stream, all numbers little endian:
 *
 *	u32 magic, u32 round, u32 extents, u32 flags, u32 data, u32 wire, u64 owner
 *	extents times { u64 address, u32 pages, u32 flags }
 *	`wire` bytes: the pages of all extents but zero ones, `data` bytes when not compressed
 *
 * The last frame of a round on each stream has no extents and END.
 */
#ifndef PHAUL_PAGES_H
#define PHAUL_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "phaul.h"

struct page_range {
	uint64_t address;
	uint64_t pages;
};

/* Whose pages are in a frame: a process by its pid, or memory that processes share by its id (shmem.h), in which
 * addresses are offsets. */
#define PAGES_SHARED (1ull << 63)

enum { PAGE_EXTENT_ZERO = 1 };	/* no data follows: all zero */

struct page_extent {
	uint64_t address;
	uint32_t pages;
	uint32_t flags;
};

struct pages_stats {
	uint64_t pages;		/* with data */
	uint64_t zero_pages;
	uint64_t bytes_raw;	/* data before compression */
	uint64_t bytes_wire;	/* frames as they were written, without TLS */
	uint64_t ns;
};

/* What one owner has to send. `mem` is /proc/PID/mem, for pages that the process itself may not read; or a descriptor
 * of the shared memory. `tid` is 0 if all is to be read by `mem`: process_vm_readv() is faster, but pins what it reads, and the
 * kernel copies for that what parent and child have shared so far. `sums`, if not NULL, get the sum of each page as it is sent
 * (checksum.h). */
struct page_source {
	uint64_t owner;
	pid_t tid;
	int mem;
	const struct page_range *ranges;
	size_t count;
	uint64_t *sums;
};

/* Sends the pages of all ranges as one round, with END on all streams. Returns when the kernel has it all. Pages
 * that are gone are left out while the process runs, and are an error when it is `frozen`. Little goes over stream 0
 * alone, by the calling thread: waking others would take longer. */
int pages_send(struct phaul_channel *ch, const struct page_source *sources, size_t count, uint32_t round, bool frozen,
	       struct pages_stats *ret, struct phaul_error *err);

/* Where pages go. Called by several threads at once. */
struct page_sink {
	void *ctx;
	/* May wait until the round's layout is there. `data` has the pages of all extents but zero ones. */
	int (*apply)(void *ctx, uint32_t round, uint64_t owner, const struct page_extent *extents, size_t count,
		     const uint8_t *data, struct phaul_error *err);
	/* The channel closes: those who wait in apply must return. */
	void (*shut)(void *ctx);
};

int pages_receive_start(struct phaul_channel *ch, const struct page_sink *sink);
/* Until all streams have ended this round; `ret` counts what came since the last call. */
int pages_wait_round(struct phaul_channel *ch, uint32_t round, int timeout_ms, struct pages_stats *ret,
		     struct phaul_error *err);

/* For channel.c. */
int pump_start_senders(struct phaul_channel *ch);
void pump_stop(struct phaul_channel *ch);

#endif
