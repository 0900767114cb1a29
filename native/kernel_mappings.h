/* kernel_mappings.h - where this kernel's own mappings (vdso, vvar) lie in a husk.
 *
 * `own` is the husk's map, `map` that of the source. Calls are added to a batch, which the husk makes.
 */
#ifndef PHAUL_KERNEL_MAPPINGS_H
#define PHAUL_KERNEL_MAPPINGS_H

#include "memory_map.h"
#include "remote.h"

/* Are those of the source as large? */
int kernel_mappings_check(const struct memory_map *own, const struct memory_map *map, struct phaul_error *err);
/* To where the source has them, by way of `between`, where both have nothing. */
void kernel_mappings_follow(struct batch *b, const struct memory_map *own, const struct memory_map *map, remote_addr between);
/* To where neither has anything. Returns by how much they move. */
int64_t kernel_mappings_aside(struct batch *b, const struct memory_map *own, const struct memory_map *map);
/* Of the first of them; 0: there is none. */
remote_addr kernel_mappings_start(const struct memory_map *own);

#endif
