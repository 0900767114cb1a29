/* source.h - a tree of processes that leaves, for source*.c. */
#ifndef PHAUL_SOURCE_H
#define PHAUL_SOURCE_H

#include "ghost.h"
#include "inherit.h"
#include "objects/cgroup.h"
#include "packet_catch.h"
#include "shared_track.h"
#include "shmem.h"
#include "track.h"
#include "tree_state.h"

#define ROOT_BIRTH 1u

/* One process of the tree. A dead one has no memory. */
struct member {
	struct task task;		/* as it was when it was last looked at; not frozen */
	uint32_t birth;			/* layout.h; that of the root is 1 */
	bool is_new;			/* it was not looked at yet */
	bool tracked;
	uint32_t descriptor_room;	/* that its table has */
	bool shares;			/* memory with its parent or its children: until one writes to it */
	int mem;			/* /proc/PID/mem, of the program that it ran then: exec() ends that */
	remote_addr syscall_at;
	struct tracker tracker;
	struct memory_map known;	/* of the last look, with flags */
	struct memory_map told;		/* of the last round: what its husk has mapped. Empty: it has none */
	struct range_list inherited;	/* what its husk gets from its parent's in this round */
	bool map_is_settled;		/* `known` was the same for two rounds */
	uint32_t cgroup_set;
	struct range_list dirty;
	struct final_scan gone;
};

struct phaul_source {
	pid_t pid;
	const struct tracker_kind *tracker;
	char *stdio;			/* where its output goes on the target; NULL: as here */
	uint32_t flags, round, births;
	struct origin *origin;		/* this host's, as its processes know it; NULL: not read yet */
	struct member *members;		/* parents before their children */
	size_t count;
	size_t held_back;		/* processes that come with a later round, and are not among them */
	struct shared_track shared;
	struct shmem_set dumped;	/* what the state tells of already */
	struct cgroup_options cgroup_options;
	struct cgroup_sets cgroups;
	size_t cgroups_told;
	struct tree seen;		/* at the last look; not frozen */
	struct ghost_set ghosts;	/* the same of deleted files */
	struct tree tree;		/* frozen, or nothing */
	size_t own_room;		/* for their descriptors, in our own table */
	struct tree_state state;
	struct moved_addresses addresses;
	struct network_hold hold;
	int caught;			/* packets that came since the freeze, or -errno */
	bool caught_new;		/* only those that begin a connection so far */
	uint64_t longest_stop_ns;	/* of one process, while the others ran */
	unsigned yields;		/* so often it went on for a moment */
	bool committed;
};

static inline bool source_is_frozen(const struct phaul_source *src)
{
	return src->tree.count;
}

/* ---- source_members.c ---- */

void member_forget(struct member *m);
/* exec() leaves nothing of what was tracked. */
bool member_has_memory(const struct member *m);
struct member *member_find(struct member *members, size_t count, pid_t pid);
/* The husk of such a one would have to be forked before its parent's became the leader of a session. */
bool member_born_before_session(const struct task *task, const struct task *parent);
/* Takes the tree as it is for that of the next round. -EAGAIN: something was just changing in it. */
int source_take_tree(struct phaul_source *src, const struct tree *tree);
void source_stop_tracking(struct phaul_source *src);

/* ---- source_look.c ---- */

/* With flags: while it is frozen only for one that has just begun. */
int member_prepare(struct phaul_source *src, struct member *m, struct phaul_error *err);
/* Its main thread is stopped. */
int member_track(struct phaul_source *src, struct member *m, struct remote *leader, struct phaul_error *err);
/* What it has mapped, and which of that is shared, as it is now. */
int member_look(struct phaul_source *src, struct member *m, bool frozen, struct phaul_error *err);
/* Is the process of this failure simply gone, or another program by now? */
bool member_is_transient(const struct member *m, int code);
/* Which pages a child shares with its parent. */
bool source_can_tell_shared(const struct phaul_source *src);
/* At all of them, until they stand still for it. */
int source_look(struct phaul_source *src, struct phaul_error *err);

/* ---- source_send.c ---- */

/* *ret_bytes grows by what was sent. */
int source_send_images(struct phaul_channel *ch, uint32_t kind, const struct image_set *images, uint64_t *ret_bytes,
		       struct phaul_error *err);
int source_send_layout(struct phaul_source *src, struct phaul_channel *ch, bool last, struct phaul_error *err);
int source_send_pages(struct phaul_source *src, struct phaul_channel *ch, bool last, struct phaul_round *ret,
		      struct phaul_error *err);

/* ---- source_rounds.c ---- */

/* Of those whose husks are forked in this round: all have been armed by now, or are frozen. */
int source_find_inherited(struct phaul_source *src, bool last, uint64_t *ret_pages, struct phaul_error *err);

/* ---- source_freeze.c ---- */

/* Those that no round knew. */
int source_track_new(struct phaul_source *src, struct phaul_error *err);
void source_close_caught(struct phaul_source *src);

/* ---- source_end.c ---- */

/* Packets that are for this host after all. */
void source_deliver_caught(struct phaul_source *src);

#endif
