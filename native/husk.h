/* husk.h - an empty process with a wanted pid, stopped and traced, that a moved process grows in. */
#ifndef PHAUL_HUSK_H
#define PHAUL_HUSK_H

#include <sched.h>

#include "memory_map.h"
#include "origin.h"
#include "remote.h"

struct husk {
	pid_t pid;
	struct remote leader;		/* begun */
	struct remote_area area;	/* mapped by husk_settle */
	remote_addr scratch;		/* some bytes, until then */
	struct remote *threads;		/* beside the leader, begun; by tid */
	size_t thread_count, thread_capacity;
	/* Its leader waits on one CPU for what it is told, so that whoever tells it there need not wake another CPU, which
	 * takes longer than what it does. */
	int cpu;
	const struct origin *origin;	/* of the process that it is to be; NULL: of this host */
	bool filters_shared;		/* seccomp filters of all its threads are installed */
	cpu_set_t allowed;		/* the CPUs that they had before, and get back */
};

/* Makes the process: it is init's child, leader of a session of its own, has no descriptors and dies with
 * the calling thread. `clock_offsets`: of a time namespace of its own (objects/clocks.h), "" for that of phaul. -EEXIST: the pid is
 * taken. */
int husk_open(pid_t pid, const char *clock_offsets, struct husk *ret, struct phaul_error *err);

/* The same as a child of a husk, in its session, with a copy of what that has mapped until it is settled itself.
 * `flags`: CLONE_FILES, CLONE_FS. */
int husk_fork(struct husk *parent, pid_t pid, uint64_t flags, struct husk *ret, struct phaul_error *err);
/* Some bytes of its memory that nothing else uses, now: the next call may move them. */
remote_addr husk_scratch(const struct husk *h);
/* Lets it end, so that its parent finds this status. */
int husk_end(struct husk *h, uint32_t status);

/* Empties the address space but for the batch area, which comes to lie in the middle of the largest gap of
 * `map`, and puts the kernel's own mappings where `map` has them; those of another kernel than the origin's go aside. */
int husk_settle(struct husk *h, const struct memory_map *map, struct phaul_error *err);

/* Moves the batch area, and what went aside, out of the way of mappings that `map` has there. */
int husk_clear_area(struct husk *h, const struct memory_map *map, struct phaul_error *err);

/* Makes the threads that are missing and ends those that are too many. */
int husk_threads(struct husk *h, const pid_t *tids, size_t count, struct phaul_error *err);
struct remote *husk_thread(struct husk *h, pid_t tid);

/* The calling thread goes to the husk's CPU, for the time of the freeze; or back. */
void husk_join(struct husk *h, bool join);
/* The thread makes no more calls for us: it may run on all CPUs again. */
void husk_unbind(struct husk *h, pid_t tid);
/* It doesn't die with the calling thread any more. */
int husk_outlives_us(struct husk *h, struct phaul_error *err);
/* Lets all threads go. `others_run`: processes that may have ended this one meanwhile. */
int husk_release(struct husk *h, bool others_run, struct phaul_error *err);

/* Kills it if it is still ours, frees. */
void husk_close(struct husk *h);

#endif
