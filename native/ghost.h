/* ghost.h - files that are open, mapped or entered although no name leads to them: ghosts, of which no name is left at
 * all, and those with another name (hard link), which is remapped to for the time between dump and restore.
 */
#ifndef PHAUL_GHOST_H
#define PHAUL_GHOST_H

#include "objects/object.h"

struct shared_track;
struct shmem_set;

/* What the processes of a dump share. */
struct ghost_set {
	int directory;		/* of the images; -1: they are sent, and what is in regular files as pages */
	const struct shared_track *sent;	/* the files of which that is so */
	struct ghost {
		dev_t dev;
		ino_t ino;
		uint32_t id;		/* of the ghost, or of the link in "files" */
	} *at;
	size_t count;
	char **links;		/* made for the dump */
	size_t link_count;
};

/* Does `name`, as the kernel tells it of an open file, lead to the file of `st`? Cuts off the kernel's mark of a deleted
 * one if it is one. */
bool ghost_has_name(char *name, const struct stat *st);

/* The same; a file that has another name in the directory where it was gets that one. */
bool ghost_find_name(char name[4096], const struct stat *st);

/* Takes care of the file that `reached_by` (a link below /proc) leads to, and that is `id` in "files" with `name`, which
 * loses its mark. */
int ghost_dump(struct dump *d, const char *reached_by, const struct stat *st, uint32_t id, char *name);
struct image_sink;
/* Copies what was written to the directory. */
int ghost_set_send(const struct ghost_set *set, struct image_sink *to);
/* A dump that failed leaves no links. */
void ghost_set_free(struct ghost_set *set, bool keep_links);

/* ---- files whose content is sent: objects of shmem.h ---- */

#define GHOST_IDS (1ull << 41)

/* What there is to say of one, before its pages. */
int ghost_object_put(struct image_set *to, int fd, const char *name, uint64_t id);
/* Makes it, empty. *ret_named: a reference (O_PATH) by which those who open it have it under its old name. Returns a descriptor
 * to write by; -ENOENT: the images know none. */
int ghost_object_make(const struct image_set *images, uint64_t id, uint64_t size, int *ret_named, struct phaul_error *err);

/* Makes all ghosts of the images, under their old names for a moment; sets f->ghosts. Without a directory those whose content
 * was sent are in `sent`. */
int ghosts_make(struct built_files *f, const struct image_set *images, int directory, struct shmem_set *sent,
		struct phaul_error *err);
/* Files that had to be made are the processes' from now on, or go. */
void ghosts_keep_files(struct built_files *f, bool keep);
/* All are restored: links of the dump are needed no more. */
void ghosts_forget_links(struct built_files *f, const struct image_set *images);

#endif
