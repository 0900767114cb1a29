/* shared_track.h - which pages of memory that processes share were written since the last look; and of deleted files.
 *
 * By what is in them: a sum of each page is kept, and compared. The page tables of the processes would tell sooner, but
 * not of what one wrote that has ended since, or that came and went between two looks.
 */
#ifndef PHAUL_SHARED_TRACK_H
#define PHAUL_SHARED_TRACK_H

#include <sys/stat.h>
#include <time.h>

#include "image.h"
#include "memory_map.h"
#include "objects/object.h"
#include "track.h"

struct shared_object {
	uint64_t id, size;		/* as in shmem.h; bytes */
	int fd;
	char *name;			/* of a memfd, as the kernel shows it, of a file in /dev/shm, or of a deleted one; NULL: it has none */
	dev_t dev;			/* of a deleted file */
	ino_t ino;
	bool mapped;			/* and written by way of memory, of which the file system need not know */
	struct timespec looked_at;	/* when all of it was as it is sent; or 0 */
	const uint8_t *at;		/* mapped here; NULL: it may shrink any time, and is read */
	uint64_t *sums;			/* of each page, as it was sent (pages.h); 0: all zero */
	struct range_list dirty;	/* of the last look; addresses are offsets */
};

struct shared_track {
	struct shared_object *at;
	size_t count;
};

/* Takes up those that `map` has and that aren't known yet. */
int shared_track_cover(struct shared_track *t, const struct memory_map *map, struct phaul_error *err);
/* The same for memfds, and files in /dev/shm, that the process has open, and for what was deleted: of that, its program too. */
int shared_track_cover_open(struct shared_track *t, pid_t pid, struct phaul_error *err);
/* Of a frozen one, whose descriptors are read already. */
int shared_track_cover_table(struct shared_track *t, const struct descriptor_table *table, struct phaul_error *err);
/* The id of a deleted file; 0: it isn't known. */
uint64_t shared_track_file(const struct shared_track *t, const struct stat *st);
/* What a mapping is opened by on the other host: the name of its file, or an object's (SHMEM_NAME). */
void shared_track_name(const struct shared_track *t, pid_t pid, const struct vma *vma, char ret[4096]);
/* Fills all `dirty`: they count as such until they are sent. Returns how many pages. */
int64_t shared_track_scan(struct shared_track *t, struct phaul_error *err);
/* Their ids and sizes, and what there is to say of segments of System V, memfds and files in /dev/shm. */
int shared_track_put(const struct shared_track *t, struct image_set *to);
/* The processes are gone: files in /dev/shm that nobody else has open go with them. */
void shared_track_leave(const struct shared_track *t);
void shared_track_free(struct shared_track *t);

#endif
