/* object.h - one kernel object, one file: how to recognise it, dump it and build it again.
 *
 * There are two tables. `descriptor_kinds`: what a file descriptor can be. `process_parts`: what a
 * process or thread has beside memory and descriptors. Adding an object is adding a file, its entry in
 * tables.c and its victim in test/victims.
 */
#ifndef PHAUL_OBJECT_H
#define PHAUL_OBJECT_H

#include <pthread.h>
#include <sys/stat.h>

#include "../error.h"
#include "../image.h"
#include "../remote.h"

/* ---- check: before anything is touched ---- */

struct check {
	pid_t pid;
	uint32_t flags;		/* PHAUL_TCP_CLOSE ... */
	int proc;		/* O_PATH descriptor of /proc/PID */
	char *text;		/* lines, as phaul_check returns them */
	size_t size, capacity;
	int count;
	struct descriptor_table *descriptors;	/* collected from /proc and pidfd_getfd */
	bool frozen;		/* in the freeze: no look at other processes */
	const struct tree *tree;	/* that moves together; NULL in the freeze */
	struct pipe_holder *pipe_holders;	/* who else holds pipes and sockets; descriptors_check's */
	size_t pipe_holder_count;
	struct connection_key *connections;	/* of the whole tree; inet_connection.c's */
	size_t connection_count;
};

/* Adds a line. The sentence says what was found, why it matters and what to do. */
void obstacle(struct check *c, const char *code, const char *subject, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
/* Adds a notice ('~' line): the process can move, this will be different. */
void notice(struct check *c, const char *code, const char *subject, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* ---- descriptors ---- */

struct descriptor_kind;
struct call_stream;

/* One open file description with a number in the process. */
struct descriptor {
	int fd;			/* its number there */
	/* A duplicate in our process, if the kind asks for one. Only while a function of the kind runs, -1
	 * otherwise: the more we hold, and the longer, the more a running process could notice. A frozen one
	 * notices nothing: of its sockets all are open, until each is dumped. */
	int own;
	int family, type, protocol;	/* of a socket, if `own` was open before */
	bool cloexec;
	bool asks_cloexec;		/* only the process itself can tell */
	uint32_t flags;		/* F_GETFL; O_CLOEXEC is no part of it */
	uint64_t pos;
	uint32_t id;		/* the same for numbers that share one open file description; > 0 */
	char *link;		/* readlink of /proc/PID/fd/N */
	char *fdinfo;		/* text of /proc/PID/fdinfo/N */
	struct stat st;
	FownEntry owner;
	/* NULL: none knows it, or it is a socket that was not asked yet */
	const struct descriptor_kind *kind;
};

struct descriptor_table {
	pid_t pid;
	struct descriptor *at;	/* by ascending fd */
	size_t count;
	int pidfd;
	bool frozen;
	/* Those of all processes of a tree, this one among them; NULL: it is alone. */
	const struct descriptor_table *group;
	size_t group_count;
};

/* Works on running and on frozen processes; a running one may change meanwhile (vanished numbers are
 * left out). */
int descriptors_read(pid_t pid, bool frozen, struct descriptor_table *ret, struct phaul_error *err);
void descriptors_free(struct descriptor_table *t);
/* Makes one group of the tables: ids count through all of them, in the order of their first appearance, and what
 * processes share has one. */
int descriptors_group(struct descriptor_table *tables, size_t count);
/* objects/stdio.c: numbers 0 to 2 of the first process, and what shares a description with them, are files on the target: /dev/null
 * for input, and `output`, for appending. The tables are one group. */
int stdio_replace(struct descriptor_table *tables, size_t count, const char *output);
/* For walking through a table's group: table number `i`, NULL beyond the last. */
static inline const struct descriptor_table *descriptors_table(const struct descriptor_table *t, size_t i)
{
	if (!t->group)
		return i ? NULL : t;
	return i < t->group_count ? &t->group[i] : NULL;
}

struct dump {
	pid_t pid;			/* as we see it */
	pid_t ns_pid;			/* as it sees itself: the id in image names */
	uint32_t flags;
	struct image_set *images;
	const struct memory_map *map;	/* to be written, too, if not NULL */
	struct descriptor_table *descriptors;
	struct remote_area *area;
	struct dump_block *blocks;	/* of dump_alloc() */
	bool shares_files;		/* its numbers are those of its parent */
	CredsEntry *leader_creds;
	const struct creds_answers *leader_told;
	struct socket_defaults *socket_defaults;	/* socket_options.h */
	uint32_t next_file_id;		/* for file_entry ids; descriptors take theirs first */
	struct paused_set *paused;	/* inet_connection.h */
	const struct unix_queues *queues;	/* unix_socket.h; NULL: there are none */
	size_t filters_shared;		/* seccomp.c */
	struct cgroup_sets *cgroups;	/* cgroup.h; NULL: they are told of elsewhere */
	struct shmem_set *shmem;	/* whose content is written, to `pages`; NULL: none */
	struct page_writer *pages;
	struct ghost_set *ghosts;	/* NULL: files without a name are not to be had */
	struct mapped_files *mapped;	/* mm.h; with `map` */
	int dumpable;			/* as the process says; with its memory in the images */
	bool thp_disabled;
	pthread_mutex_t *lock;		/* while others dump at the same time: dump_lock() */
	struct phaul_error *err;
};

/* Around what the threads of a dump share: images, and lists for later. */
static inline void dump_lock(struct dump *d)
{
	if (d->lock)
		pthread_mutex_lock(d->lock);
}

static inline void dump_unlock(struct dump *d)
{
	if (d->lock)
		pthread_mutex_unlock(d->lock);
}

/* Zeroed memory that lives until the dump is written; NULL if there is none. */
void *dump_alloc(struct dump *d, size_t size);
void dump_free(struct dump *d);

/* What is in "files", and becomes descriptions that the processes of a checkpoint share. */
struct built_files {
	uint32_t flags;			/* PHAUL_TCP_CLOSE */
	size_t count;			/* of all below: the highest id and one more */
	FileEntry **at;			/* by id, NULL where there is none */
	int *made;			/* our descriptor for it, -1: none now */
	bool *kept;			/* and it stays ours, in `paused` */
	int *ghosts;			/* of a file whose name is gone: our descriptor that leads to it, -1 */
	char **new_files;		/* ghost.h */
	size_t new_file_count;
	int *watching;			/* inotify instances, ours: what restoring did is nobody's business */
	size_t watching_count;
	struct sealed { int fd, seals; uint64_t inode; bool given; } *sealed;	/* memfds, ours: sealed at the end */
	size_t sealed_count;
	/* Sockets, ours: TCP connections that are paused until the end, and what gets its option then. */
	struct paused_socket { int fd, option, value; struct tcp_connection *closing; } *paused;
	size_t paused_count;
	pthread_mutex_t *lock;		/* around them, while several threads make connections */
	struct unix_name *unix_names;	/* of sockets, to be put where they belong at the end: unix_socket.h */
	size_t unix_name_count;
	pid_t *stand_ins;		/* stand_in.h */
	size_t stand_in_count;
	bool moves;			/* their originals are still there, on another host */
	struct file_lock *late_locks;	/* that are taken when these are gone: locks.h */
	size_t late_lock_count;
	uint32_t *uses;			/* by processes, that are still to come */
	bool *finished;
};

/* Reads "files"; the numbers of these tables (ids of "fdinfo") count as uses. */
int built_files_read(const struct image_set *images, const pid_t *tables, size_t count, struct built_files *ret,
		     struct phaul_error *err);
void built_files_free(struct built_files *f);

struct build {
	pid_t pid;			/* the husk */
	int dumpable;			/* of the process: each change of credentials resets it */
	bool thp_disabled;
	uint32_t flags;
	const struct image_set *images;
	struct remote *leader;
	struct remote_area *area;
	struct built_files *files;	/* of all processes of the images */
	int64_t table;			/* of its numbers: the id of "fdinfo"; -1: another process has made them */
	FdinfoEntry **numbers;		/* by ascending number */
	size_t number_count;
	struct dump scratch;		/* for dump_alloc(); freed when the process is built */
	CredsEntry *own;		/* what the husk has before it is changed */
	struct sched_attributes *own_sched;
	struct phaul_error *err;
};

/* By what name a file of "files" can be opened, here or in a husk. -ENOENT: there is none of that id. */
int built_files_path(const struct built_files *f, uint32_t id, char ret[4096]);

struct descriptor_kind {
	const char *name;		/* "a pipe", as in "fd 7 is a pipe: ..." */
	bool asks;			/* needs `own` */
	/* Does this kind know the descriptor? From link, st, fdinfo and, for sockets alone, asking `own`. */
	bool (*is)(const struct descriptor *d);
	/* May it move? Adds obstacles and notices. NULL: always. */
	void (*check)(struct check *c, const struct descriptor *d);
	/* Writes the description's image: file_entry with id d->id into "files", and whatever else. Called
	 * once for each id. */
	int (*dump)(struct dump *dump, const struct descriptor *d);
	/* Makes the description in OUR process and returns it; it is handed to the husk afterwards. */
	int (*build)(struct build *b, const FileEntry *file);
	/* After all descriptors have their numbers in the husk (epoll_ctl by remote calls); adds calls to
	 * `stream` (descriptors.h). May be NULL. */
	int (*finish)(struct build *b, const FileEntry *file, int fd, struct call_stream *stream);
	int type;			/* FD_TYPES__... of the images it makes */
};

extern const struct descriptor_kind *const descriptor_kinds[];	/* NULL-terminated; tables.c */

/* objects/descriptors.c: all of them. Dumping is called with the process frozen. */
void descriptors_check(struct check *c);
/* What only the process can tell of them, by its leader. */
int descriptors_ask(struct dump *d, struct remote *leader);
int descriptors_dump(struct dump *d);
/* Those of unix_queues_collect(). */
int descriptors_dump_queued(struct dump *d, struct descriptor_table *ours);
/* Adds ours to a table of our own process. */
int descriptors_add_own(struct descriptor_table *t, const int *fds, size_t count);
/* Makes room for numbers up to `highest` in the husk's table. Called before the husk has threads: in a
 * shared table it costs a grace period of RCU, some 16 ms. */
int descriptors_reserve(struct build *b, int highest);
/* The same for `count` more in our own table, which has threads: before the freeze. What can't be done costs its time then. */
void descriptors_reserve_own(size_t count);
/* Makes all descriptions here, hands them to the husk by its remote pidfd_getfd of us, puts them on
 * their numbers, runs the finishers. The husk still has the right to ptrace us, and none of the numbers
 * is taken. Resets the area. */
int descriptors_build(struct build *b, uint32_t *ret_count);

/* ---- parts of a process ---- */

/* What the leader is asked by remote calls while frozen, and told in the husk. One batch serves all
 * parts: ask() adds calls and keeps what it needs to read the answers in *ret_answers, dump() reads them
 * after the run. */
struct process_part {
	const char *name;
	void (*check)(struct check *c);			/* from /proc only; may be NULL */
	int (*ask)(struct dump *d, struct batch *b, void **ret_answers);	/* dump_alloc; may be NULL */
	int (*dump)(struct dump *d, struct batch *b, void *answers, CoreEntry *core);
	/* Adds calls to the husk leader's last batch, or acts at once from outside (prlimit). */
	int (*build)(struct build *b, struct batch *batch, const CoreEntry *core);
};

extern const struct process_part *const process_parts[];	/* NULL-terminated; tables.c */

#endif
