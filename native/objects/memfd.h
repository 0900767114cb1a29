#ifndef PHAUL_MEMFD_H
#define PHAUL_MEMFD_H

#include <string.h>

#include "object.h"

/* Is it one, by the kernel's name for it? */
static inline bool memfd_is_name(const char *name)
{
	return !strncmp(name, "/memfd:", 7);
}

/* Puts the one that `reached_by`, a link below /proc, leads to into "files" as `id`; its content once for all. */
int memfd_put(struct dump *d, const char *reached_by, uint32_t flags, uint64_t pos, FownEntry *owner, uint32_t id);

/* What there is to say of the memory behind one. */
int memfd_put_inode(struct image_set *to, int fd, const char *link, uint64_t id);
/* Makes the memory that the images call `id`, empty; -ENOENT: they know none. Returns a descriptor. */
int memfd_make_empty(const struct image_set *images, uint64_t id, struct phaul_error *err);
struct chain;
struct shmem_set;
/* Makes all of the images; f->ghosts leads to them. Those that are in `made` already are taken from there. */
int memfds_make(struct built_files *f, const struct image_set *images, const struct chain *chain, struct shmem_set *made,
		struct phaul_error *err);
/* Everybody has mapped what he has mapped: no more may be written. */
int memfds_seal(struct built_files *f, struct phaul_error *err);

#endif
