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

/* Makes all of the images; f->ghosts leads to them. */
int memfds_make(struct built_files *f, const struct image_set *images, int directory, struct phaul_error *err);
/* Everybody has mapped what he has mapped: no more may be written. */
int memfds_seal(struct built_files *f, struct phaul_error *err);

#endif
