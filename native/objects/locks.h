/* locks.h - locks on files. Two hosts may have a file from the same place, where a lock is to be had once: what the process
 * that moves holds is given back with the commit, and taken on the target with the release.
 */
#ifndef PHAUL_LOCKS_H
#define PHAUL_LOCKS_H

#include "descriptors.h"

void locks_check(struct check *c, const struct descriptor *d);
/* Is this the first number of the description in all processes, in its own? */
int locks_dump(struct dump *dump, const struct descriptor *d, bool first_of_all, bool first_of_process);

struct file_lock {
	pid_t pid;
	int fd, kind, type;
	bool breaking;			/* a lease that somebody waits for, to become `type` */
	int64_t start, len;
};

/* Those of a process in the images, to be freed. */
int locks_read(const struct image_set *images, pid_t pid, struct file_lock **ret, size_t *ret_count, struct phaul_error *err);
/* Takes one, or gives it back, by a process that is stopped; `scratch` has room for 64 bytes there. 0, -errno. */
int64_t lock_apply(struct remote *r, remote_addr scratch, const struct file_lock *l, bool take);
/* Takes those of the process again: its descriptors have their numbers. Those that a process of another host may have still go
 * to files->late_locks, if files->moves. */
int locks_build(struct build *b);
/* The locks among these that are the process's, which is stopped; *ret gets the results. `hint`: where nothing is mapped. */
int locks_apply(pid_t pid, remote_addr syscall_at, remote_addr hint, const struct file_lock *locks, size_t count, bool take,
		int64_t *ret);
/* In a line that locks_parse() reads; what it would take, as snprintf() does. */
int lock_note(const struct file_lock *l, char *ret, size_t size);
int locks_parse(const char *lines, struct file_lock **ret, size_t *ret_count);
/* In words. */
void lock_describe(const struct file_lock *l, char *ret, size_t size);

#endif
