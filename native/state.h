/* state.h - everything of a frozen process but its memory, as an image set; and a husk that becomes it. */
#ifndef PHAUL_STATE_H
#define PHAUL_STATE_H


#include "threads.h"

/* Borrows all threads for the time of the call. All but the leader are handed to `sink` while the rest is
 * still being read. Mappings are only written if `map` is not NULL. */
int state_dump(const struct frozen *f, remote_addr syscall_at, remote_addr area_hint, uint32_t flags,
	       const struct memory_map *map, struct image_set *to, const struct thread_sink *sink, struct phaul_error *err);

/* The husk's memory is complete. Some of its threads become those of the process. */
int state_build_threads(struct husk *h, const struct image_set *from, struct phaul_error *err);
/* All other threads are built. Afterwards the husk is the process, held before its first instruction. */
int state_build(struct husk *h, const struct image_set *from, struct phaul_built *ret,
		struct phaul_error *err);

#endif
