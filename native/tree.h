/* tree.h - a process with all that descend from it: found, frozen and given back together. */
#ifndef PHAUL_TREE_H
#define PHAUL_TREE_H

#include "freeze.h"

/* As CRIU numbers them. */
enum task_state { TASK_ALIVE = 1, TASK_DEAD = 2, TASK_STOPPED = 3 };

struct task {
	pid_t pid, ppid, pgid, sid;	/* ppid 0: the root */
	enum task_state state;
	uint32_t tty;			/* of its session, as the kernel numbers devices; 0: none */
	uint64_t started;		/* clock ticks since boot: another process of the same pid has another number */
	uint32_t exit_code;		/* of a dead one, as wait() tells it */
	bool shares_files, shares_fs;	/* with its parent: CLONE_FILES, CLONE_FS */
	bool shares_memory;		/* for the moment: vfork() */
	struct frozen frozen;		/* of no thread, if it is dead */
};

struct tree {
	struct task *tasks;		/* parents before their children */
	size_t count;
	/* Of the root, if their leaders aren't in the tree, else 0: who belongs to them belongs to the root's here. */
	pid_t outer_sid, outer_pgid;
	pid_t last_pid;			/* that had been given to anybody here before this tree was listed, or 0 */
};

/* pid, ppid, pgid, sid, state and exit code, as /proc has them. -ESRCH */
int task_read(pid_t pid, struct task *ret);
/* Of two living ones: KCMP_FILES, KCMP_FS, KCMP_VM ... */
bool task_shares(pid_t a, pid_t b, int what);
/* Is it below `root`, or `root` itself? */
bool task_descends(pid_t pid, pid_t root);
/* The children of all its threads. */
int task_children(pid_t pid, pid_t **ret, size_t *ret_count);

/* The tree as it is now, nothing frozen; a running one may change meanwhile. */
int tree_list(pid_t root, struct tree *ret, struct phaul_error *err);
/* Freezes until no new process appears. On failure all run. `known`: as it was listed lately, or NULL; then it takes
 * less time to see who is new, if one of them has many threads. */
int tree_freeze(pid_t root, const struct tree *known, int timeout_ms, struct tree *ret, struct phaul_error *err);
int tree_thaw(struct tree *t);
/* Do they end if the calling thread does? */
int tree_bind(const struct tree *t, bool dies_with_us, struct phaul_error *err);
/* Tells all to stop (SIGSTOP), which they do when they are let go, before anything else. */
int tree_stop(const struct tree *t, struct phaul_error *err);
/* They go on when they are let go after all; those that stood still before go on standing. */
void tree_continue(const struct tree *t);
/* Ends all. */
void tree_kill(struct tree *t);
void tree_free(struct tree *t);
bool tree_has(const struct tree *t, pid_t pid);

#endif
