/* rebirth.h - the processes of a tree, made again from images: a husk for each, made by the one that shall be its
 * parent; then all memory, all threads, all descriptions, and at last all are let go.
 */
#ifndef PHAUL_REBIRTH_H
#define PHAUL_REBIRTH_H

#include "husk.h"
#include "image.h"
#include "layout.h"
#include "objects/cgroup.h"
#include "objects/clocks.h"
#include "objects/object.h"
#include "shmem.h"
#include "stage.h"
#include "tree.h"

struct reborn {
	PstreeEntry *entry;
	size_t parent;			/* of the root: itself */
	enum task_state state;
	uint32_t birth;			/* layout.h */
	uint32_t files_id, fs_id;	/* the same numbers: they share it; 0: unknown */
	uint32_t exit_code;
	int stop_signal;		/* that it was stopped by, if it was */
	struct husk husk;
	struct layout layout;		/* what the husk shall have mapped, until its stage takes it; what it has from its parent */
	struct stage stage;
	bool staged;
	uint32_t descriptor_room;	/* that the process's table has */
	uint32_t cgroup_set, placed_set;	/* of control groups: that it was in, and that its husk is in; 0: unknown, ours */
	uint32_t room_made;		/* that the husk's has */
	uint64_t vdso_at, vdso_leads_to;	/* where the old vdso lies, and the kernel's; 0: it isn't there yet */
};

struct rebirth {
	struct reborn **tasks;		/* parents before their children */
	size_t count;
	pid_t *tables;			/* of descriptors, by their ids */
	size_t table_count;
	struct shmem_set shmem;
	struct built_files files;
	struct cgroups cgroups;
	char clock_offsets[CLOCKS_TEXT];	/* that all are to see; "": those of phaul */
	struct origin *origin;		/* NULL: this host */
	/* Called for each husk that was made, before it has children: gives it its memory. NULL: that comes later. */
	int (*populate)(void *ctx, struct reborn *task);
	void *ctx;
	bool released;
	struct phaul_error *err;
};

static inline pid_t reborn_pid(const struct reborn *task)
{
	return task->entry->pid;
}

/* The processes of "pstree" and "ids", with what "core" says of the dead. */
int rebirth_read(struct rebirth *r, const struct image_set *images);
/* What "core" says of the living: are they stopped? */
int rebirth_read_states(struct rebirth *r, const struct image_set *images);
/* The processes are now those of `next`, which is empty afterwards. Husks that they can go on growing in are kept. */
void rebirth_become(struct rebirth *r, struct rebirth *next);
/* Husks for all that have none; those whose layout says so have memory of their parents'. Terminals must have been made. */
int rebirth_make(struct rebirth *r, const struct image_set *images);
/* Opens the husk's stage, if it isn't yet. */
int rebirth_stage(struct rebirth *r, struct reborn *task);
/* Threads that were in other control groups than their process. */
int rebirth_place_threads(struct rebirth *r, const struct image_set *images);
/* Once its mappings are made: the vdso of another kernel leads into that of this one. */
int rebirth_lead_vdso(struct rebirth *r, struct reborn *task);
/* Process groups, and the ends of the dead. */
int rebirth_settle(struct rebirth *r, const struct image_set *images);
/* Threads that "core-TID" of the images tell of; memory is complete. */
int rebirth_build_threads(struct rebirth *r, const struct image_set *images);
/* All else: afterwards they are the processes, held before their first instruction. */
int rebirth_build(struct rebirth *r, const struct image_set *images, struct phaul_built *ret);
int rebirth_release(struct rebirth *r);
/* Ends what wasn't released. */
void rebirth_free(struct rebirth *r);

#endif
