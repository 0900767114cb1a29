/* shmem.h - anonymous memory that processes share: objects without a name, known by their inode number. Content is
 * dumped and restored once for each, whoever maps it.
 */
#ifndef PHAUL_SHMEM_H
#define PHAUL_SHMEM_H

#include <sys/stat.h>

#include "memory_map.h"
#include "page_file.h"
#include "pages.h"
#include "sysv_shm.h"

/* Made here, in our own memory, from where husks map them as well. */
struct shmem {
	uint64_t id, size;	/* bytes, as far as it is mapped by anybody */
	uint64_t there;		/* of these: a file may end before */
	uint32_t huge_shift;	/* of its pages, if they are huge */
	uint8_t *at;
	int fd;			/* of a memfd, of a file in /dev/shm, or of a deleted one; -1 */
	int named;		/* of a deleted one, by which it is opened: ghost.h; -1 */
	char *name;		/* of that file, which we have made */
	struct sysv_shm sysv;	/* if its id says so */
};

struct shmem_set {
	struct shmem *at;
	size_t count;
};

/* The id of an object, which CRIU knows by its inode number; huge pages have inodes of their own. */
uint64_t shmem_id(const struct stat *st);
uint64_t shmem_id_of(const struct vma *vma);
bool shmem_known(const struct shmem_set *set, uint64_t id);
/* The id that System V knows it by; -1: it is none of those. */
int shmem_segment(uint64_t id);
/* Writes one that isn't known yet, through a descriptor of it. */
int shmem_dump_object(struct shmem_set *known, uint64_t id, int object, struct page_writer *w);
/* Writes all objects that `map` has and `known` hasn't, which it adds there. */
int shmem_dump(const struct memory_map *map, struct shmem_set *known, struct page_writer *w);

/* The segment of a mapping, if it can be attached as it was: whole. */
bool shmem_attachable(const struct shmem_set *set, const struct vma *vma);

/* Takes note of the objects of a map, and how large they must be. */
int shmem_note(struct shmem_set *set, const struct memory_map *map, pid_t pid, struct phaul_error *err);
/* What "phaul-shared" of a round says of their size; objects that nobody has mapped are noted, too. */
int shmem_note_sizes(struct shmem_set *set, const struct image_set *images, struct phaul_error *err);
/* Makes all that were noted, with their content from the chain's directories; NULL: it is still to come. */
int shmem_make(struct shmem_set *set, const struct image_set *images, const struct chain *chain, struct phaul_error *err);
/* Pages of one. Any thread. */
int shmem_pages(const struct shmem_set *set, uint64_t id, const struct page_extent *extents, size_t count,
		const uint8_t *data, struct phaul_error *err);
/* The memfd of this id, which is not mapped here any more: it may be sealed. A new descriptor, -ENOENT. */
int shmem_take_memfd(struct shmem_set *set, uint64_t id);
/* The deleted file of this id, which is not written any more; as ghost_object_make() names it. */
int shmem_take_ghost(struct shmem_set *set, uint64_t id);
/* A mapping of a file of this name, with an id behind it, is one of an object. */
#define SHMEM_NAME "/memfd#"
/* Where a process of this host can open the object. -ENOENT */
int shmem_path(const struct shmem_set *set, const struct vma *vma, char *ret, size_t size);
/* `done`: all processes are restored. */
void shmem_free(struct shmem_set *set, bool done);

#endif
