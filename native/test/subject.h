/* subject.h - for tests of descriptors: a child sets some up; they are read, checked, dumped, built in a husk and compared. */
#ifndef SUBJECT_H
#define SUBJECT_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../husk.h"
#include "../objects/descriptors.h"

#define die(format, ...) \
	do { \
		fprintf(stderr, "%s:%d: " format "\n", __func__, __LINE__, ##__VA_ARGS__); \
		exit(1); \
	} while (0)
#define expect(condition) \
	do { \
		if (!(condition)) \
			die("not so: %s (errno %d)", #condition, errno); \
	} while (0)

/* What it shares with the test. */
extern struct subject {
	volatile int ready, go;
	int port, peer_port;
	char path[4][128];
} *subject;

/* For its files. */
extern char subject_directory[];

/* Without root, for pids and ptrace, there is nothing to test: false. */
bool subject_prepare(void);
/* `set_up` runs in it, with no descriptors open. */
pid_t subject_start(void (*set_up)(void));
void subject_end(pid_t pid);

/* In the subject. */
static inline void must(int result)
{
	if (result < 0) {
		fprintf(stderr, "the subject failed: errno %d\n", errno);
		_exit(1);
	}
}

/* Moves it to the number, which it returns. */
int put_at(int fd, int number);
void watch(int epoll, int fd, uint32_t events, uint64_t data);

/* What the check says, for the caller to free. */
char *check_text(pid_t pid, uint32_t flags);
void expect_line(const char *text, const char *start, const char *part);

struct moved {
	pid_t pid;
	struct husk husk;
	struct remote_area area;
	struct image_set *images;
	struct descriptor_table before, after;
	uint64_t dump_ns, build_ns;
};

pid_t free_pid(void);
int moved_dump(struct moved *m, pid_t pid, uint32_t flags, struct phaul_error *err);
int moved_build(struct moved *m, int reserve, struct phaul_error *err);
/* Both, and compares; a failure ends the test. */
void move_subject(struct moved *m, pid_t pid, uint32_t flags);
/* A duplicate of ours. */
int moved_own(const struct moved *m, int fd);
const struct descriptor *moved_after(const struct moved *m, int fd);
const struct descriptor *moved_before(const struct moved *m, int fd);
void moved_forget(struct moved *m);
/* Of before and after: descriptors, and the line of fdinfo that `key` begins. */
void compare_tables(const struct moved *m);
void expect_fdinfo(const struct moved *m, int fd, const char *key);

#endif
