/* checksum.h - a fingerprint of each mapping whose pages travel, to compare a frozen process with what was
 * built from it.
 */
#ifndef PHAUL_CHECKSUM_H
#define PHAUL_CHECKSUM_H

#include "memory_map.h"

/* Zero pages count nothing, so that a page which is absent on one side and zero on the other is equal. The
 * sum of pages does not depend on the order in which they are seen. */
uint64_t page_sum(uint64_t address, const uint64_t *words);
/* Lines "pid start-end hash\n". `mem` is /proc/PID/mem. -ENOBUFS: the text is too long. */
int checksum(int mem, const struct memory_map *map, char *ret_text, size_t size, struct phaul_error *err);
/* Memory that processes share, mapped here. */
struct shared_view {
	uint64_t id;
	const uint8_t *at;
	uint64_t size;
};

/* The same of these: lines "shared id hash\n", by ascending ids. Sorts them; holes are filled by looking at them. */
int checksum_shared(struct shared_view *views, size_t count, char *ret_text, size_t size, struct phaul_error *err);

#endif
