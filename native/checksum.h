/* checksum.h - a fingerprint of each mapping whose pages travel, to compare a frozen process with what was
 * built from it.
 */
#ifndef PHAUL_CHECKSUM_H
#define PHAUL_CHECKSUM_H

#include "memory_map.h"

/* Lines "start-end hash\n". `mem` is /proc/PID/mem. -ENOBUFS: the text is too long. */
int checksum(int mem, const struct memory_map *map, char *ret_text, size_t size, struct phaul_error *err);

#endif
