/* state.h - everything of a frozen process but its memory, as an image set; and a husk that becomes it. */
#ifndef PHAUL_STATE_H
#define PHAUL_STATE_H

#include "threads.h"
#include "tree.h"

/* What the process has from its place in a tree. */
struct state_of_tree {
	const struct task *task;
	struct descriptor_table *descriptors;	/* its own, of the group's */
	uint32_t next_file_id;
	struct shmem_set *shmem;	/* shmem.h, and where it is written; NULL: it can't be */
	struct page_writer *pages;
	const struct unix_queues *queues;	/* unix_socket.h */
	struct paused_set *paused;	/* objects/inet_connection.h; NULL: connections don't come along */
	struct ghost_set *ghosts;	/* ghost.h; NULL: there are none */
	struct mapped_files *mapped;	/* objects/mm.h */
	struct cgroup_sets *cgroups;	/* objects/cgroup.h */
};

/* Borrows all threads for the time of the call. All but the leader are handed to `sink` while the rest is
 * still being read. Mappings are only written if `map` is not NULL. */
int state_dump(const struct frozen *f, remote_addr syscall_at, remote_addr area_hint, uint32_t flags,
	       const struct memory_map *map, struct state_of_tree *tree, struct image_set *to,
	       const struct thread_sink *sink, struct phaul_error *err);

/* The place of a process, dead ones included, in "pstree". */
int state_put_tree(struct image_set *to, const struct task *task, const pid_t *tids, size_t count);

/* The husk's memory is complete. Some of its threads become those of the process. */
int state_build_threads(struct husk *h, const struct image_set *from, struct phaul_error *err);
/* What takes that the husk has no descriptors, which it may share with another one. */
int state_build_first(struct husk *h, const struct image_set *from, struct built_files *files, struct phaul_error *err);
/* All other threads are built, and that is done. `files` are those of all processes of the images; `table` is that of
 * its descriptors, as in struct build. Afterwards the husk is the process, held before its first instruction; `ret`
 * counts on. */
int state_build(struct husk *h, const struct image_set *from, struct built_files *files, int64_t table, struct phaul_built *ret,
		struct phaul_error *err);

#endif
