/* received.h - which pages of the husk hold something that arrived. */
#ifndef PHAUL_RECEIVED_H
#define PHAUL_RECEIVED_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A bitmap of 512 pages for each 2 MiB in which anything arrived, found by hash: address spaces are huge
 * and mostly empty. All calls lock. */
struct received {
	pthread_mutex_t lock;
	struct received_chunk *chunks;
	size_t count, capacity;		/* capacity is a power of two, or 0 */
};

void received_init(struct received *r);
void received_free(struct received *r);
int received_add(struct received *r, uint64_t address, uint64_t pages);
void received_remove(struct received *r, uint64_t address, uint64_t pages);
bool received_any(struct received *r, uint64_t address);

/* Calls `found` for each run of received pages in [start, end), in no order beyond 2 MiB. Stops at the
 * first result that isn't 0. */
int received_each(struct received *r, uint64_t start, uint64_t end,
		  int (*found)(void *to, uint64_t start, uint64_t end), void *to);

#endif
