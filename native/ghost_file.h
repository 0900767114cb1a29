/* ghost_file.h - one file without a name, for ghost_*.c: its image, and how it is made again. */
#ifndef PHAUL_GHOST_FILE_H
#define PHAUL_GHOST_FILE_H

#include <limits.h>

#include "ghost.h"
#include "ghosts.pb-c.h"

#define TRIES_MAX 1000		/* names that others have */
#define GHOST_FILE "ghost-file-%x.img"
#define SENT_WHOLE (1u << 24)	/* numbers of those that are no regular files, apart from those of objects */
#define MEMORY_FILES "phaul-files"	/* an image as "remap-fpath", of those in /dev/shm */

/* ---- ghost_image.c ---- */

struct ghost_description {
	GhostFileEntry entry;
	Timeval accessed, changed;
	char target[PATH_MAX];		/* of a symbolic link */
};

/* `reached_by` is for symbolic links. */
int ghost_describe(const char *reached_by, const struct stat *st, struct ghost_description *ret);
/* The whole image. */
int ghost_write(const char *reached_by, const struct stat *st, int to);
/* What follows the entry of a regular file. */
int ghost_fill(struct image_reader *r, const GhostFileEntry *ghost, int fd);
/* Of a file whose content isn't in the image. The entry is for the caller to free, also after an error. */
int ghost_read_entry(const struct image_set *images, uint32_t number, GhostFileEntry **ret);
int ghost_give_attributes(int fd, const GhostFileEntry *ghost);

/* ---- ghost_name.c ---- */

/* Had it no name from the start (O_TMPFILE)? */
bool ghost_is_nameless(const char *name);
/* Opens what is under `name` now (O_PATH). */
int ghost_open_name(const char *name, int *ret);
/* Gives the file the name, opens it by that, and takes the name away. */
int ghost_give_name(int fd, const char *name, int *ret);

/* ---- ghost_parents.c ---- */

struct ghost_parents {
	char **made;			/* outer ones first */
	size_t count;
};

int ghost_parents_make(struct ghost_parents *p, const char *name);
bool ghost_parents_has(const struct ghost_parents *p, const char *path);
/* `keep`: what lies in them stays. */
void ghost_parents_remove(struct ghost_parents *p, bool keep);

/* ---- ghost_build.c ---- */

/* A file that is to be had under old names: by a descriptor, and until all have it by a name of its own. */
struct ghost_source {
	int fd;
	mode_t mode;
	char temporary[PATH_MAX];	/* "" if it has none */
};

int ghost_source_make(const char *name, const GhostFileEntry *ghost, struct ghost_source *s);

#endif
