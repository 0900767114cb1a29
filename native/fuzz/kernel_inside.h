/* kernel_inside.h - what the parts of the fuzzers' kernel share. */
#ifndef PHAUL_FUZZ_KERNEL_INSIDE_H
#define PHAUL_FUZZ_KERNEL_INSIDE_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "kernel.h"

#define PAGE 4096ul
#define OWN_PID 4000000		/* of the fuzzer, as phaul sees it */

extern const struct parts *kernel_input;

/* Is it the turn of the call that is refused? Then errno is set. */
bool kernel_refuses(void);
/* `value`, or -1. */
int kernel_answer(int value);

#define AGREES(name) int kernel_##name(void) { return kernel_answer(0); }

/* ---- descriptors: kernel_files.c ---- */

struct file {
	bool open;
	const uint8_t *bytes;		/* of the input, or NULL */
	uint64_t size, pos;
	mode_t mode;
	dev_t rdev;
	int number;			/* of a terminal, or of watches so far, or that it has in another process */
	char below[32];			/* of a directory: what the parts in it begin with */
	const void *opened_by;
	bool apart;			/* in a thread's own table, which ends with it */
};

int kernel_new_fd(const struct file *f, const void *opened_by);
#define NEW_FD(...) kernel_new_fd(&(struct file){ __VA_ARGS__ }, __builtin_return_address(0))
int kernel_new_pair(int ret[2], const void *opened_by);
#define MAKES_FD(name) int kernel_##name(void) { return NEW_FD(.mode = S_IFREG); }
/* NULL, and EBADF: there is none. */
struct file *kernel_file(int fd);
int kernel_close(int fd);
void kernel_thread_ends(void);

/* System V shared memory that comes next has this number, as a file of /proc was told. */
extern char kernel_next_id[16];

/* Before and after an input. */
void kernel_files_begin(void);
void kernel_files_end(void);
void kernel_memory_begin(void);
void kernel_memory_end(void);
void kernel_sockets_begin(void);
void kernel_processes_begin(void);

#endif
