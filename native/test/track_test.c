/* track_test.c - what a process writes is found, whatever its mappings went through. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tracked.h"

#define PAGE 4096ul
#define PAGES 16ul
#define WRITTEN 3ul		/* the page that is written again and again */

/* Does what it is told: 'w' writes one page, 'm' moves an empty mapping to right behind the others. */
static void subject(int fd, char *at, char *empty)
{
	char order = 0, count = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned long i = 0; i < PAGES; i++)
		at[i * PAGE] = 1;
	do {
		if (order == 'w')
			at[WRITTEN * PAGE] = ++count;
		if (order == 'm' && mremap(empty, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at + PAGES * PAGE) == MAP_FAILED)
			_exit(2);
		if (write(fd, &order, 1) != 1)
			_exit(3);
	} while (read(fd, &order, 1) == 1);
	_exit(0);
}

static void tell(int fd, char order)
{
	if (write(fd, &order, 1) != 1 || read(fd, &order, 1) != 1) {
		puts("the process ended");
		exit(1);
	}
}

static int look(struct tracker *t, pid_t pid, uint64_t page, bool last)
{
	struct final_scan gone = {0};
	struct range_list dirty = {0};
	struct memory_map map;
	int found;

	must(memory_map_read(pid, true, &map, &err), "reading the map");
	if (last) {
		must(t->kind->final(t, &map, &gone, &err), "the last look");
	} else {
		must(t->kind->cover(t, &map, &err), "tracking");
		must(t->kind->scan(t, &map, true, &dirty, &err), "looking");
	}
	found = holds(last ? &gone.dirty : &dirty, page);
	memory_map_free(&map);
	range_list_free(&dirty);
	range_list_free(&gone.dirty);
	range_list_free(&gone.absent);
	range_list_free(&gone.sparse);
	range_list_free(&gone.populated);
	range_list_free(&gone.guards);
	return found;
}

/* An mremap() beside a tracked mapping merges with it, and takes the tracking from it. */
static int moved_beside(bool again)
{
	char *all = mmap(NULL, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at = all + 8 * PAGE, *empty = all + 48 * PAGE;
	uint64_t page = (uint64_t)at + WRITTEN * PAGE;
	struct tracker t;
	int fds[2], failed = 0;
	pid_t pid;

	munmap(all, 64 * PAGE);
	mmap(at, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	mmap(empty, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		return 1;
	pid = fork();
	if (pid == 0)
		subject(fds[1], at, empty);
	if (read(fds[0], &(char){0}, 1) != 1)
		return 1;
	t = open_tracker(pid);
	if (!look(&t, pid, page, false))
		failed = puts("a page that was never sent isn't found");
	if (look(&t, pid, page, false))
		failed = puts("a page that wasn't written is found");
	tell(fds[0], 'm');
	tell(fds[0], 'w');
	if (again && !look(&t, pid, page, false))
		failed = puts("a page that was written after an mremap() beside it isn't found");
	if (again)
		tell(fds[0], 'w');
	if (!look(&t, pid, page, true))
		failed = puts(again ? "nor when it was written once more" : "the last look finds no page that was written "
			      "after an mremap() beside it");
	tracker_close(&t);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(at, PAGES * PAGE);
	munmap(empty, PAGE);
	return failed;
}

int main(void)
{
	if (!tracker_uffd.usable()) {
		puts("skipped: this kernel has no userfaultfd with WP_ASYNC");
		return 77;
	}
	return moved_beside(false) || moved_beside(true);
}
