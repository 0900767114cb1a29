/* posix_shm.h - files in /dev/shm: memory that processes share by a name. When they move, the files go with them. */
#ifndef PHAUL_POSIX_SHM_H
#define PHAUL_POSIX_SHM_H

#include <string.h>

#include "image.h"

/* Ids of objects in shmem.h that mean such a file. */
#define POSIX_IDS (1ull << 40)

static inline bool posix_shm_is_name(const char *name)
{
	return !strncmp(name, "/dev/shm/", 9);
}

/* Its name, owner and mode. */
int posix_shm_put(struct image_set *to, int fd, const char *name, uint64_t id);
/* Makes it, empty; *ret_name is malloc'ed. Returns a descriptor. -EEXIST; -ENOENT: the images know none. */
int posix_shm_make(const struct image_set *images, uint64_t id, uint64_t size, char **ret_name, struct phaul_error *err);
/* Removes it, unless others have it open than `fd`. */
void posix_shm_leave(int fd, const char *name);

#endif
