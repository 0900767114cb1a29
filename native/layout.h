/* layout.h - what a round says before its pages: an image set with the processes and their threads ("pstree", "ids"),
 * their mappings ("mm", "files-PID"), and in the last round the parts of memory that went away.
 */
#ifndef PHAUL_LAYOUT_H
#define PHAUL_LAYOUT_H

#include "image.h"
#include "memory_map.h"
#include "track.h"

/* Of one process. */
struct layout {
	struct memory_map map;
	struct range_list inherited;	/* pages that are the parent's, of a process that no round has told of yet */
	struct final_scan gone;		/* dirty is left out: those pages come */
};

int layout_put_round(struct image_set *set, uint32_t round);
/* What rounds tell of a process beside its memory. */
struct layout_process {
	uint32_t birth;			/* another number for another process of the same pid, and for one that its husk can't become any more */
	uint32_t descriptor_room;	/* of its table, whatever part of it is in use */
	uint32_t cgroup_set;		/* objects/cgroup.h */
};
int layout_put_process(struct image_set *set, pid_t pid, const struct layout_process *process);
struct shared_track;
/* `gone` is NULL but in the last round. `shared` says by what the other host has the files that are mapped. */
int layout_put(struct image_set *set, pid_t pid, const struct memory_map *map, const struct shared_track *shared,
	       const struct final_scan *gone);
int layout_put_inherited(struct image_set *set, pid_t pid, const struct range_list *inherited);
/* Hostile input ends in -EPROTO: mappings are ascending, aligned, apart and in user space. */
int layout_read_round(const struct image_set *set, uint32_t *ret);
/* All 0 in images that know none. */
int layout_read_process(const struct image_set *set, pid_t pid, struct layout_process *ret);
int layout_read(const struct image_set *set, pid_t pid, struct layout *ret, struct phaul_error *err);
void layout_free(struct layout *layout);

/* The threads of a process, leader first. */
int threads_list(pid_t pid, pid_t **ret, size_t *ret_count);

/* Of a VmaEntry: the rings of the packet socket that shmid says, by its id in "files". */
#define VMA_STATUS_SOCKET (1 << 11)

/* Fills a VmaEntry; `file_id` is what a file mapping refers to. */
void layout_vma_entry(const struct vma *vma, uint32_t file_id, VmaEntry *ret);

struct built_files;
/* From the images of a process: its mappings, checked as those of layout_unpack() are; its guard regions. */
int layout_read_map(const struct image_set *set, pid_t pid, const struct built_files *files, struct memory_map *ret,
		    struct phaul_error *err);
int layout_read_guards(const struct image_set *set, pid_t pid, struct range_list *ret, struct phaul_error *err);

#endif
