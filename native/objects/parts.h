/* parts.h - what the process parts offer for each thread, beside their entries in `process_parts`. */
#ifndef PHAUL_PARTS_H
#define PHAUL_PARTS_H

#include "../freeze.h"
#include "object.h"

struct creds_answers;

/* prctls.c; the husk has no descriptors. */
int loginuid_build(struct build *b, const CoreEntry *core);

/* Each adds calls to the thread's batch; what was answered lies where *ret points. */
int signals_ask_thread(struct batch *b, uint64_t **ret);
/* The set of those that are in the images, as a mask. */
uint64_t signals_pending(const CoreEntry *core);
int signals_dump_thread(struct dump *d, pid_t tid, const uint64_t *answer, ThreadCoreEntry *to);

/* struct sched_attr of Linux, its first version. */
struct sched_attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

#define SCHEDULING_CPU_BYTES 128	/* a bit each: 1024 CPUs */

struct sched_answers {
	struct sched_attributes *attributes;
	uint8_t *cpus;
	const struct batch *batch;
	int io_priority, slack;		/* calls */
};

int scheduling_ask_thread(struct batch *b, struct sched_answers *ret);
void scheduling_dump_thread(const struct sched_answers *answers, ThreadCoreEntry *to);
/* How many filters all of these threads have in common. */
size_t seccomp_shared(struct dump *d, const struct frozen *f);
/* Gives a core of CRIU's images the filters that it refers to. */
int seccomp_from_criu(const struct image_set *images, CoreEntry *core);
int seccomp_ask_thread(struct batch *b);
int seccomp_dump_thread(struct dump *d, pid_t tid, int64_t mode, ThreadCoreEntry *to);
/* That a thread's filters take in the area. */
size_t seccomp_bytes(const ThreadCoreEntry *from);
/* Takes privilege, so that credentials are for later. */
int seccomp_build_thread(struct batch *batch, const ThreadCoreEntry *from, bool *shared_done);
#define SIGNALS_CALLS 1
#define SCHEDULING_CALLS 4
#define SCHEDULING_BYTES (SCHEDULING_CPU_BYTES + sizeof(struct sched_attributes))

int credentials_dump_thread(struct dump *d, pid_t tid, const struct creds_answers *answers,
			    ThreadCoreEntry *to);

/* What a thread says of its credentials: /proc takes ten times as long, and nearly all threads have those of
 * the leader. */
#define CREDS_GROUPS_MAX 64
#define CREDS_CALLS 8
#define CREDS_GROUPS 5		/* of these calls: that for the groups */
#define CREDS_SECUREBITS 7

struct creds_answers {
	struct {
		uint32_t uid[4], gid[4];	/* real, effective, saved */
		uint32_t caps[6];		/* as capget() lays them out */
		uint32_t groups[CREDS_GROUPS_MAX];
		uint32_t header[2];
	} *told;
	const struct batch *batch;
	int first;		/* of the CREDS_CALLS calls */
};

int credentials_ask_thread(struct batch *b, struct creds_answers *ret);

/* Add calls to the thread's batch, or act at once from outside. Credentials come last: nothing that needs
 * privilege follows. */
int scheduling_build_thread(struct build *b, pid_t tid, struct batch *batch, const ThreadCoreEntry *from);
/* When it makes no more calls for us: on which CPUs it is to run, and with what right to them. */
int scheduling_arm_thread(pid_t tid, const ThreadCoreEntry *from, struct phaul_error *err);
int signals_build_thread(struct batch *batch, pid_t pid, pid_t tid, const ThreadCoreEntry *from);
/* Not 0 if the husk has to change its credentials: 1 and the number of groups. */
int credentials_change(struct build *b, const CredsEntry *wanted);
int credentials_build_thread(struct build *b, struct batch *batch, const ThreadCoreEntry *from);

#endif
