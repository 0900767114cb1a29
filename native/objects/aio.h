/* aio.h - rings of Linux AIO (io_setup), in which the kernel says what has become of requests. They are mappings, VMA_AIO, whose
 * content travels with the last pages; the context behind each is made in its place.
 */
#ifndef PHAUL_AIO_H
#define PHAUL_AIO_H

#include "../husk.h"
#include "../image.h"
#include "object.h"

bool aio_has_ring(const struct memory_map *map);
/* What a ring means to a process that runs: obstacles and notices. */
void aio_check(struct check *c, const struct vma *ring);
/* Of a frozen process: waits until no disk of this host works at anything, so that none of its requests is on its way.
 * -EAGAIN: they work on and on. */
int aio_settle(pid_t pid, const struct memory_map *map, int limit_ms, struct phaul_error *err);
/* For the image "mm": `entries` are for the caller to free. */
int aio_put(const struct memory_map *map, MmEntry *mm, AioRingEntry **ret_entries);
/* The husk has no descriptors, and where the rings shall be memory with their content. */
int aio_build(struct husk *h, const struct memory_map *map, struct phaul_error *err);

#endif
