/* proc_status.h - one look at /proc/PID/task/TID/status. */
#ifndef PHAUL_PROC_STATUS_H
#define PHAUL_PROC_STATUS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define GROUPS_MAX 65536

struct proc_status {
	char text[16384];	/* room for some 2,000 groups */
};

int proc_status_read(pid_t pid, pid_t tid, struct proc_status *ret);
/* The text after "NAME:\t", NULL if there is no such line. */
const char *proc_status_field(const struct proc_status *s, const char *name);
/* The same as a set of signals or capabilities in hexadecimal, empty if there is no such line. */
uint64_t proc_status_set(const struct proc_status *s, const char *name);
/* The same as a decimal number, -1 if there is no such line. */
long long proc_status_number(const struct proc_status *s, const char *name);

#endif
