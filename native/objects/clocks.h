/* clocks.h - CLOCK_MONOTONIC and CLOCK_BOOTTIME begin with each host: a process whose clocks would go back, or leap, has a time
 * namespace of its own, in which they go on.
 */
#ifndef PHAUL_CLOCKS_H
#define PHAUL_CLOCKS_H

#include <stdbool.h>
#include <sys/types.h>

#include "../image.h"

/* What a process sees, in ns. */
struct clocks {
	int64_t monotonic, boottime;
};

/* What /proc/PID/timens_offsets is written with. */
#define CLOCKS_TEXT 128

/* Of a process of this host, now. */
int clocks_seen_by(pid_t pid, struct clocks *ret);
/* "MONOTONIC BOOTTIME" in ns. */
int clocks_parse(const char *text, struct clocks *ret);
/* Has it others than the kernel's own, by a time namespace? Then it must have some wherever it goes: a thread in the middle of the
 * vdso's code for such clocks dies of SIGBUS where there are no data for that. */
bool clocks_are_own(pid_t pid);
/* What a process showed, at least, when CLOCK_MONOTONIC was `at` here. */
struct clocks_told {
	struct clocks least;
	int64_t at, unsure;		/* so many ns more at most */
	bool own;
};

/* For a new process that is to go on from there. ret is empty if it sees about that without, unless they must be its own. */
int clocks_offsets(const struct clocks_told *told, char ret[CLOCKS_TEXT], struct phaul_error *err);

/* Writes down what the process sees now; and what one of the images is to see now: on the boot that they were written in, the time since
 * then has passed for it, too. -ENOENT: they don't tell. */
int clocks_put(struct image_set *to, pid_t pid);
int clocks_of_images(const struct image_set *images, struct clocks *ret);
/* Until its clocks show what they did when that was written down. */
void clocks_await(pid_t pid, const struct clocks *frozen);

#endif
