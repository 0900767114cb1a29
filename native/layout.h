/* layout.h - what a round says before its pages: an image set with the mappings ("mm", "files"), the
 * threads, and in the last round the parts of memory that went away.
 */
#ifndef PHAUL_LAYOUT_H
#define PHAUL_LAYOUT_H

#include "image.h"
#include "memory_map.h"
#include "track.h"

struct layout {
	uint32_t round;
	uint32_t descriptor_room;	/* of the process's table, whatever part of it is in use */
	struct memory_map map;
	pid_t *tids;
	size_t tid_count;
	struct final_scan gone;		/* dirty is left out: those pages come */
};

/* `gone` is NULL but in the last round. */
int layout_pack(pid_t pid, const struct layout *layout, const struct final_scan *gone, uint8_t **ret,
		size_t *ret_size, struct phaul_error *err);
/* Hostile input ends in -EPROTO: mappings are ascending, aligned, apart and in user space. */
int layout_unpack(pid_t pid, const void *bytes, size_t size, struct layout *ret, struct phaul_error *err);
void layout_free(struct layout *layout);

/* The threads of a process, leader first. */
int threads_list(pid_t pid, pid_t **ret, size_t *ret_count);

/* Fills a VmaEntry; `file_id` is what a file mapping refers to. */
void layout_vma_entry(const struct vma *vma, uint32_t file_id, VmaEntry *ret);

/* The file of a mapping, for "files". */
int layout_put_file(struct image_set *set, const struct vma *vma, uint32_t id);

struct built_files;
/* From the images of a process: its mappings, checked as those of layout_unpack() are; its guard regions. */
int layout_read_map(const struct image_set *set, pid_t pid, const struct built_files *files, struct memory_map *ret);
int layout_read_guards(const struct image_set *set, pid_t pid, struct range_list *ret);

#endif
