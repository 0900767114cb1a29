/* sysv_shm.h - System V shared memory that processes have attached: the segment with its id, its content and its owner. */
#ifndef PHAUL_SYSV_SHM_H
#define PHAUL_SYSV_SHM_H

#include "image.h"
#include "memory_map.h"

/* Ids of objects in shmem.h that mean a segment. */
#define SYSV_IDS 0x20000000ul

/* What there is to say of a segment. */
int sysv_shm_dump(struct image_set *images, int id);

/* A segment as the images have it, attached here; an existing one with this id and key is taken, and emptied. */
struct sysv_shm {
	int id;
	uint8_t *at;
	uint64_t size;
	bool made;			/* by us */
	bool doomed;			/* removed while it was attached: it goes when nobody has it any more */
};

int sysv_shm_make(const struct image_set *images, int id, struct sysv_shm *ret, struct phaul_error *err);
/* `done`: all processes are restored. */
void sysv_shm_end(struct sysv_shm *s, bool done);

#endif
