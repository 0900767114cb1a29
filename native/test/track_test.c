/* track_test.c - what a process writes is found, whatever its mappings went through, by each kind of tracker that this
 * kernel has.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "freeze.h"
#include "tracked.h"

#define PAGE 4096ul
#define HUGE_PAGE (2ul << 20)
#define PAGES 16ul
#define WRITTEN 3ul		/* the page that is written again and again */
#define DROPPED 5ul
#define TABLE_PAGES (HUGE_PAGE / PAGE)
#define ARENA_PAGES 1024ul
#define ROUNDS 40

static const struct tracker_kind *kind;

/* The memory that a subject has: PAGES at `at`, an empty page elsewhere, and room for two page tables. */
static char *at, *empty, *tables[2];

static void write_everywhere(unsigned int seed)
{
	for (;;) {
		seed = seed * 1103515245 + 12345;
		((uint32_t *)(at + (seed >> 8) % ARENA_PAGES * PAGE))[seed >> 22] += seed;
		if (seed >> 22 == 7) {
			char *page = at + (seed >> 12) % ARENA_PAGES * PAGE;

			madvise(page, PAGE, MADV_DONTNEED);
			if (seed & 1 << 20)
				(void)*(volatile char *)page;
		}
	}
}

static int obey(char order)
{
	static char count;

	switch (order) {
	case 'w':
		at[WRITTEN * PAGE] = ++count;
		return 0;
	case 'm':	/* an empty mapping to right behind the others */
		return mremap(empty, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at + PAGES * PAGE) == MAP_FAILED;
	case 'd':
		return madvise(at + DROPPED * PAGE, PAGE, MADV_DONTNEED);
	case 'r':
		return *(volatile char *)(at + DROPPED * PAGE);
	case 't':	/* one full table over the other, and an empty one where it was */
		return mremap(tables[0], HUGE_PAGE, HUGE_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, tables[1]) == MAP_FAILED ||
		       mmap(tables[0], HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
			       MAP_FAILED;
	case 'n':	/* something new */
		return mmap(at + 2 * PAGES * PAGE, PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ||
		       !memset(at + 2 * PAGES * PAGE, 1, PAGE);
	case 'a':
		write_everywhere(1);
	}
	return 0;
}

static void subject(int fd)
{
	char order = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned long i = 0; i < PAGES; i++)
		at[i * PAGE] = 1;
	for (unsigned long i = 0; i < TABLE_PAGES; i++)
		tables[0][i * PAGE] = tables[1][i * PAGE] = 1 + i % 100;
	do {
		if (order != 'a' && obey(order))
			_exit(2);
		if (write(fd, &order, 1) != 1)
			_exit(3);
		if (order == 'a')
			write_everywhere(1);
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

static pid_t start(size_t pages, int *ret_fd)
{
	char *all = mmap(NULL, 64 * PAGE + pages * PAGE + 8 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fds[2];
	pid_t pid;

	munmap(all, 64 * PAGE + pages * PAGE + 8 * HUGE_PAGE);
	tables[0] = (char *)(((uintptr_t)all + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	tables[1] = tables[0] + 2 * HUGE_PAGE;
	at = tables[1] + 2 * HUGE_PAGE + 8 * PAGE;
	empty = at + (pages + 40) * PAGE;
	for (int i = 0; i < 2; i++) {
		mmap(tables[i], HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		madvise(tables[i], HUGE_PAGE, MADV_NOHUGEPAGE);
	}
	mmap(at, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	mmap(empty, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		exit(1);
	pid = fork();
	if (pid == 0)
		subject(fds[1]);
	close(fds[1]);
	if (read(fds[0], &(char){0}, 1) != 1)
		exit(1);
	*ret_fd = fds[0];
	return pid;
}

static void end(pid_t pid, int fd, size_t pages)
{
	close(fd);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(at, pages * PAGE);
	munmap(empty, PAGE);
	munmap(tables[0], HUGE_PAGE);
	munmap(tables[1], HUGE_PAGE);
}

static void free_found(struct final_scan *f)
{
	range_list_free(&f->dirty);
	range_list_free(&f->absent);
	range_list_free(&f->sparse);
	range_list_free(&f->populated);
	range_list_free(&f->guards);
}

/* What a round, or the last look, finds in `to`; the map is that of `map` if there is one. */
static void look(struct tracker *t, struct memory_map *map, struct final_scan *to, bool last)
{
	struct memory_map own;

	if (!map)
		must(memory_map_read(t->pid, true, &own, &err), "reading the map");
	if (last) {
		must(t->kind->final(t, map ? map : &own, to, &err), "the last look");
	} else {
		must(t->kind->cover(t, map ? map : &own, &err), "tracking");
		must(t->kind->scan(t, map ? map : &own, true, &to->dirty, &err), "looking");
	}
	if (!map)
		memory_map_free(&own);
}

static bool finds(struct tracker *t, const char *page, bool last)
{
	struct final_scan found = {0};
	bool ret;

	look(t, NULL, &found, last);
	ret = holds(&found.dirty, (uint64_t)page);
	free_found(&found);
	return ret;
}

/* An mremap() beside a tracked mapping merges with it, and takes the tracking from it. */
static int moved_beside(bool again)
{
	const char *page;
	struct tracker t;
	int fd, failed = 0;
	pid_t pid = start(PAGES, &fd);

	t = open_tracker(pid, kind);
	page = at + WRITTEN * PAGE;
	if (!finds(&t, page, false))
		failed = puts("a page that was never sent isn't found");
	if (kind != &tracker_none && finds(&t, page, false))
		failed = puts("a page that wasn't written is found");
	tell(fd, 'm');
	tell(fd, 'w');
	if (again && !finds(&t, page, false))
		failed = puts("a page that was written after an mremap() beside it isn't found");
	if (again)
		tell(fd, 'w');
	if (!finds(&t, page, true))
		failed = puts(again ? "nor when it was written once more" : "the last look finds no page that was written "
			      "after an mremap() beside it");
	tracker_close(&t);
	end(pid, fd, PAGES);
	return failed;
}

/* The target has it still, with what was in it. */
static int dropped(bool read)
{
	struct final_scan found = {0};
	struct tracker t;
	int fd, failed = 0;
	pid_t pid = start(PAGES, &fd);

	t = open_tracker(pid, kind);
	look(&t, NULL, &found, false);
	tell(fd, 'd');
	if (read)
		tell(fd, 'r');
	free_found(&found);
	look(&t, NULL, &found, true);
	if (!holds(&found.absent, (uint64_t)at + DROPPED * PAGE) && !holds(&found.dirty, (uint64_t)at + DROPPED * PAGE))
		failed = printf("a page that was dropped%s is neither absent nor written\n", read ? " and read" : "");
	free_found(&found);
	tracker_close(&t);
	end(pid, fd, PAGES);
	return failed;
}

/* Moves that are large enough move whole page tables, and don't look into them. */
static int moved_tables(bool last)
{
	struct tracker t;
	int fd, failed = 0;
	pid_t pid = start(PAGES, &fd);

	t = open_tracker(pid, kind);
	finds(&t, at, false);
	tell(fd, 't');
	if (!finds(&t, tables[1] + 7 * PAGE, last))
		failed = printf("pages that were moved over others aren't found by %s look\n", last ? "the last" : "the next");
	tracker_close(&t);
	end(pid, fd, PAGES);
	return failed;
}

/* Between the reading of the map and the look. */
static int mapped_meanwhile(bool last)
{
	struct final_scan found = {0};
	struct memory_map map;
	struct tracker t;
	int fd, failed = 0;
	pid_t pid = start(PAGES, &fd);

	t = open_tracker(pid, kind);
	look(&t, NULL, &found, false);
	must(memory_map_read(pid, true, &map, &err), "reading the map");
	tell(fd, 'n');
	look(&t, &map, &found, false);
	if (!finds(&t, at + 2 * PAGES * PAGE, last))
		failed = puts("what was mapped after a round's map was read is never found");
	memory_map_free(&map);
	free_found(&found);
	tracker_close(&t);
	end(pid, fd, PAGES);
	return failed;
}

static char copy[ARENA_PAGES * PAGE], original[ARENA_PAGES * PAGE];

static void take(pid_t pid, uint64_t page, char *to)
{
	struct iovec local = { to, PAGE }, remote = { (void *)page, PAGE };

	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)PAGE && errno != EFAULT)
		must(-errno, "reading");
}

static void take_all(pid_t pid, const struct final_scan *found)
{
	for (size_t i = 0; i < ARENA_PAGES; i++) {
		uint64_t page = (uint64_t)at + i * PAGE;

		if (holds(&found->dirty, page))
			take(pid, page, copy + i * PAGE);
		else if (holds(&found->absent, page))
			memset(copy + i * PAGE, 0, PAGE);
	}
}

/* A process that writes all the time, and drops pages, is copied by what is found. */
static int copies(void)
{
	struct final_scan found = {0};
	struct frozen frozen;
	struct tracker t;
	int fd, failed = 0;
	pid_t pid = start(ARENA_PAGES, &fd);

	memset(copy, 0, sizeof(copy));
	t = open_tracker(pid, kind);
	tell(fd, 'a');
	for (int i = 0; i < ROUNDS; i++) {
		look(&t, NULL, &found, false);
		take_all(pid, &found);
		free_found(&found);
		usleep(200 * (i % 4));
	}
	must(freeze(pid, 5000, &frozen, &err), "freezing");
	look(&t, NULL, &found, true);
	take_all(pid, &found);
	for (size_t i = 0; i < ARENA_PAGES; i++)
		take(pid, (uint64_t)at + i * PAGE, original + i * PAGE);
	for (size_t i = 0; i < ARENA_PAGES && !failed; i++)
		if (memcmp(copy + i * PAGE, original + i * PAGE, PAGE))
			failed = printf("page %zu of a process that was copied round by round is another one\n", i);
	free_found(&found);
	tracker_close(&t);
	thaw(&frozen);
	end(pid, fd, ARENA_PAGES);
	return failed;
}

int main(void)
{
	const struct tracker_kind *all[] = { &tracker_uffd, &tracker_soft_dirty, &tracker_none };
	int failed = 0;

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		kind = all[i];
		if (!kind->usable()) {
			printf("this kernel has no %s\n", kind->what);
			continue;
		}
		if (moved_beside(false) | moved_beside(true) | dropped(false) | dropped(true) | moved_tables(false) |
		    moved_tables(true) | mapped_meanwhile(false) | mapped_meanwhile(true) | copies())
			failed = printf("... by %s\n", kind->name);
		fflush(stdout);
	}
	return failed != 0;
}
