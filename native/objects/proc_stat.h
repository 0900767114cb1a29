/* proc_stat.h - one look at /proc/PID/stat. */
#ifndef PHAUL_PROC_STAT_H
#define PHAUL_PROC_STAT_H

#include <stdint.h>
#include <sys/types.h>

/* Its fields, counted from 1 as proc(5) does. */
enum {
	STAT_STATE = 3, STAT_PPID = 4, STAT_PGID = 5, STAT_SID = 6, STAT_TTY = 7, STAT_TPGID = 8,
	STAT_STARTED = 22,
	STAT_START_CODE = 26, STAT_END_CODE = 27, STAT_START_STACK = 28,
	STAT_START_DATA = 45, STAT_END_DATA = 46, STAT_START_BRK = 47,
	STAT_ARG_START = 48, STAT_ARG_END = 49, STAT_ENV_START = 50, STAT_ENV_END = 51,
	STAT_EXIT_CODE = 52, STAT_LAST = 52,
};

struct proc_stat {
	char state;				/* R, S, T, Z, ... */
	uint64_t field[STAT_LAST + 1];		/* from STAT_PPID on */
};

int proc_stat_read(pid_t pid, struct proc_stat *ret);

#endif
