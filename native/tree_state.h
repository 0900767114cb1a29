/* tree_state.h - what the processes of a frozen tree are, and have in common, as images. Memory apart. */
#ifndef PHAUL_TREE_STATE_H
#define PHAUL_TREE_STATE_H

#include "objects/inet_connection.h"
#include "objects/mm.h"
#include "objects/unix_socket.h"
#include "state.h"

/* The ids of namespaces in images, which are those of phaul. CRIU finds them by these, whatever kind they are of. */
enum {
	NAMESPACE_PID = 1, NAMESPACE_NET, NAMESPACE_IPC, NAMESPACE_UTS, NAMESPACE_MNT, NAMESPACE_USER, NAMESPACE_CGROUP, NAMESPACE_TIME,
};

struct tree_state {
	const struct tree *tree;
	uint32_t flags;
	const char *stdio;		/* NULL: as it is; where the first one's output goes on the target */
	struct image_set *images;
	struct shmem_set *shmem;	/* as in struct state_of_tree */
	struct page_writer *pages;
	struct ghost_set *ghosts;
	struct cgroup_sets *cgroups;	/* NULL: rounds tell of them */
	/* Packets are stopped for as long as we live, and what moves with them. */
	struct network_hold *hold;
	const struct moved_addresses *addresses;
	struct phaul_error *err;
	/* The rest is its own. */
	struct descriptor_table *descriptors;	/* of those that live, in the tree's order; then ours, of what was in queues */
	size_t descriptor_count, put_count;
	struct unix_queues queues;
	struct mapped_files mapped;
	struct paused_set paused;
	struct connection_pair *pairs;	/* of the connections that come along */
	size_t pair_count;
	uint32_t next_file_id;
};

/* Reads all descriptors; stops the packets of connections that come along. */
int tree_state_read(struct tree_state *s);
/* One that has ended, one that lives, in the tree's order; and what waits in sockets, at last. `map` as in state_dump(). */
int tree_state_put_dead(struct tree_state *s, const struct task *task);
int tree_state_put(struct tree_state *s, const struct task *task, remote_addr syscall_at, remote_addr area_hint,
		   const struct memory_map *map, const struct thread_sink *sink);
int tree_state_put_queued(struct tree_state *s);
/* The processes are about to end: their connections stay stopped until they are restored, and tell nobody of their end. */
int tree_state_lock(struct tree_state *s);
/* `stays`: the processes go on here, and packets reach them. */
void tree_state_free(struct tree_state *s, bool stays);

/* Who shares what with whom, for "ids". `task` lives. */
int tree_put_ids(struct image_set *to, const struct tree *tree, const struct task *task);
void tree_ids_of(const struct tree *tree, const struct task *task, TaskKobjIdsEntry *ids);
/* What waits for its parent to take note of its end. */
int tree_put_dead(struct image_set *to, const struct task *task);

#endif
