/* track_test.c - what a process writes is found, whatever its mappings went through, by each kind of tracker that this
 * kernel has.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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
#define READ 8ul		/* and the next one */
#define TABLE_PAGES (HUGE_PAGE / PAGE)
#define ARENA_PAGES 1024ul
#define ROUNDS 40
#define LOOKS 5000
#define HUGE_PAGES 4ul
#define HUGE_SIZE (HUGE_PAGES * HUGE_PAGE)
#define HUGE_DROPPED 1ul

static const struct tracker_kind *kind;

/* The memory that a subject has: PAGES at `at`, an empty page elsewhere, room for two page tables, and huge pages, the last
 * of which is zero; NULL if the machine gives none. */
static char *at, *empty, *tables[2], *huge;

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
	case 'D':
		return madvise(huge + HUGE_DROPPED * HUGE_PAGE, HUGE_PAGE, MADV_DONTNEED);
	case 'R':
		return *(volatile char *)(huge + HUGE_DROPPED * HUGE_PAGE);
	case 'a':
		write_everywhere(1);
	}
	return 0;
}

/* From a pipe, but as from a disk that never answers. */
static void read_directly(bool vector)
{
	struct iovec to = { at + READ * PAGE + 100, PAGE };
	int fds[2];

	if (pipe(fds) || fcntl(fds[0], F_SETFL, O_DIRECT) || (vector ? readv(fds[0], &to, 1) : read(fds[0], to.iov_base, to.iov_len)) >= 0)
		_exit(4);
}

static void subject(int fd)
{
	char order = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned long i = 0; i < PAGES; i++)
		at[i * PAGE] = 1;
	for (unsigned long i = 0; i < TABLE_PAGES; i++)
		tables[0][i * PAGE] = tables[1][i * PAGE] = 1 + i % 100;
	if (huge && mmap(huge, HUGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(4);
	for (unsigned long i = 0; huge && i < HUGE_PAGES; i++)
		huge[i * HUGE_PAGE + (i + 1) * 1000] = i + 1 < HUGE_PAGES;
	do {
		if (order != 'a' && obey(order))
			_exit(2);
		if (write(fd, &order, 1) != 1)
			_exit(3);
		if (order == 'a')
			write_everywhere(1);
		if (order == 'b' || order == 'v')
			read_directly(order == 'v');
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

/* A process of ours, tracked. */
struct tested {
	struct tracker tracker;
	pid_t pid;
	int fd;
	size_t pages;
};

static void map_at(char *to, size_t size)
{
	mmap(to, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

static void start(struct tested *s, size_t pages)
{
	char *all = mmap(NULL, 64 * PAGE + pages * PAGE + 8 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fds[2];

	munmap(all, 64 * PAGE + pages * PAGE + 8 * HUGE_PAGE);
	tables[0] = (char *)(((uintptr_t)all + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	tables[1] = tables[0] + 2 * HUGE_PAGE;
	at = tables[1] + 2 * HUGE_PAGE + 8 * PAGE;
	empty = at + (pages + 40) * PAGE;
	for (int i = 0; i < 2; i++) {
		map_at(tables[i], HUGE_PAGE);
		madvise(tables[i], HUGE_PAGE, MADV_NOHUGEPAGE);
	}
	map_at(at, pages * PAGE);
	map_at(empty, PAGE);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		exit(1);
	s->pages = pages;
	s->pid = fork();
	if (s->pid == 0)
		subject(fds[1]);
	close(fds[1]);
	s->fd = fds[0];
	if (read(s->fd, &(char){0}, 1) != 1)
		exit(1);
	s->tracker = open_tracker(s->pid, kind);
}

static void end(struct tested *s)
{
	tracker_close(&s->tracker);
	close(s->fd);
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
	munmap(at, s->pages * PAGE);
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
	struct tested s;
	int failed = 0;

	start(&s, PAGES);
	page = at + WRITTEN * PAGE;
	if (!finds(&s.tracker, page, false))
		failed = puts("a page that was never sent isn't found");
	if (kind != &tracker_none && finds(&s.tracker, page, false))
		failed = puts("a page that wasn't written is found");
	tell(s.fd, 'm');
	tell(s.fd, 'w');
	if (again && !finds(&s.tracker, page, false))
		failed = puts("a page that was written after an mremap() beside it isn't found");
	if (again)
		tell(s.fd, 'w');
	if (!finds(&s.tracker, page, true))
		failed = puts(again ? "nor when it was written once more" : "the last look finds no page that was written "
			      "after an mremap() beside it");
	end(&s);
	return failed;
}

/* The target has it still, with what was in it. */
static int dropped(bool read)
{
	struct final_scan found = {0};
	struct tested s;
	int failed = 0;

	start(&s, PAGES);
	look(&s.tracker, NULL, &found, false);
	tell(s.fd, 'd');
	if (read)
		tell(s.fd, 'r');
	free_found(&found);
	look(&s.tracker, NULL, &found, true);
	if (!holds(&found.absent, (uint64_t)at + DROPPED * PAGE) && !holds(&found.dirty, (uint64_t)at + DROPPED * PAGE))
		failed = printf("a page that was dropped%s is neither absent nor written\n", read ? " and read" : "");
	free_found(&found);
	end(&s);
	return failed;
}

/* `looks` and orders in their order, l for a look. Also when it comes back, all zeros, as what was never written, and whatever the
 * looks in between have seen of it; what is as it was isn't found, nor zeros that were zeros. */
static int dropped_huge(const char *looks)
{
	uint64_t first = (uint64_t)huge, page = first + HUGE_DROPPED * HUGE_PAGE;
	struct final_scan found = {0};
	struct tested s;
	int failed = 0;

	start(&s, PAGES);
	look(&s.tracker, NULL, &found, false);
	for (size_t i = 0; i < HUGE_PAGES; i++)
		if (!holds(&found.dirty, first + i * HUGE_PAGE))
			failed = puts("a huge page that was never sent isn't found");
	free_found(&found);
	for (const char *order = looks; *order; order++) {
		if (*order == 'l')
			look(&s.tracker, NULL, &found, false);
		else
			tell(s.fd, *order);
	}
	look(&s.tracker, NULL, &found, true);
	for (uint64_t at = page; at < page + HUGE_PAGE && !failed; at += PAGE)
		if (!holds(&found.absent, at) && !holds(&found.dirty, at))
			failed = printf("%lx of a huge page that was dropped is neither absent nor written (%s)\n", at - page, looks);
	for (size_t i = 0; i < HUGE_PAGES; i++)
		if (kind != &tracker_none && i != HUGE_DROPPED && holds(&found.dirty, first + i * HUGE_PAGE))
			failed = printf("huge page %zu, which is as it was, counts as written (%s)\n", i, looks);
	free_found(&found);
	end(&s);
	return failed;
}

static int dropped_huge_pages(void)
{
	const char *const all[] = { "D", "DR", "lDR", "DlR", "DRl", "DlRl", "DlRll" };
	int failed = 0;

	for (size_t i = 0; huge && i < sizeof(all) / sizeof(*all); i++)
		failed |= dropped_huge(all[i]);
	return failed;
}

/* Before, it may be in the one that brought the order. */
static void wait_in_call(pid_t pid, long number)
{
	unsigned long fd, first;
	char path[32];
	long call = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/syscall", pid);
	for (int i = 0; i < LOOKS && call != number; i++) {
		usleep(1000);
		f = fopen(path, "re");
		/* That one's buffer is elsewhere. */
		if (!f || fscanf(f, "%ld %lx %lx", &call, &fd, &first) != 3 ||
		    (number == SYS_read && first - (unsigned long)at >= PAGES * PAGE))
			call = -1;
		if (f)
			fclose(f);
	}
	if (call != number)
		must(-1, "waiting for a read");
}

/* What a disk writes to was written when the request began, and is again when it ends. */
static int read_from_disk(char order)
{
	struct final_scan found = {0};
	struct tested s;
	int failed = 0;

	if (kind != &tracker_uffd)
		return 0;
	start(&s, PAGES);
	tell(s.fd, order);
	wait_in_call(s.pid, order == 'b' ? SYS_read : SYS_readv);
	look(&s.tracker, NULL, &found, false);
	free_found(&found);
	look(&s.tracker, NULL, &found, false);
	free_found(&found);
	look(&s.tracker, NULL, &found, true);
	for (unsigned long i = READ - 1; i < READ + 3; i++)
		if (holds(&found.dirty, (uint64_t)at + i * PAGE) != (i == READ || i == READ + 1))
			failed = printf("page %lu of a buffer that is being read to is %s (%c)\n", i - READ, i - READ < 2 ? "clean" : "written",
					order);
	free_found(&found);
	end(&s);
	return failed;
}

/* Moves that are large enough move whole page tables, and don't look into them. */
static int moved_tables(bool last)
{
	struct tested s;
	int failed = 0;

	start(&s, PAGES);
	finds(&s.tracker, at, false);
	tell(s.fd, 't');
	if (!finds(&s.tracker, tables[1] + 7 * PAGE, last))
		failed = printf("pages that were moved over others aren't found by %s look\n", last ? "the last" : "the next");
	end(&s);
	return failed;
}

/* Between the reading of the map and the look. */
static int mapped_meanwhile(bool last)
{
	struct final_scan found = {0};
	struct memory_map map;
	struct tested s;
	int failed = 0;

	start(&s, PAGES);
	look(&s.tracker, NULL, &found, false);
	must(memory_map_read(s.pid, true, &map, &err), "reading the map");
	tell(s.fd, 'n');
	look(&s.tracker, &map, &found, false);
	if (!finds(&s.tracker, at + 2 * PAGES * PAGE, last))
		failed = puts("what was mapped after a round's map was read is never found");
	memory_map_free(&map);
	free_found(&found);
	end(&s);
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
	struct tested s;
	int failed = 0;

	memset(copy, 0, sizeof(copy));
	start(&s, ARENA_PAGES);
	tell(s.fd, 'a');
	for (int i = 0; i < ROUNDS; i++) {
		look(&s.tracker, NULL, &found, false);
		take_all(s.pid, &found);
		free_found(&found);
		usleep(200 * (i % 4));
	}
	must(freeze(s.pid, 5000, &frozen, &err), "freezing");
	look(&s.tracker, NULL, &found, true);
	take_all(s.pid, &found);
	for (size_t i = 0; i < ARENA_PAGES; i++)
		take(s.pid, (uint64_t)at + i * PAGE, original + i * PAGE);
	for (size_t i = 0; i < ARENA_PAGES && !failed; i++)
		if (memcmp(copy + i * PAGE, original + i * PAGE, PAGE))
			failed = printf("page %zu of a process that was copied round by round is another one\n", i);
	free_found(&found);
	thaw(&frozen);
	end(&s);
	return failed;
}

#define SETTING "/proc/sys/vm/nr_overcommit_hugepages"

/* How many huge pages more the kernel may make when they are asked for. */
static void let_make(long count)
{
	FILE *f = fopen(SETTING, "r+e");
	long before;

	if (f && fscanf(f, "%ld", &before) == 1) {
		rewind(f);
		fprintf(f, "%ld", before + count);
	}
	if (f)
		fclose(f);
}

static void make_no_more(void)
{
	let_make(-(long)HUGE_PAGES);
}

/* Where subjects are to have huge pages: here there is nothing. */
static void find_place(void)
{
	let_make(HUGE_PAGES);
	atexit(make_no_more);
	huge = mmap(NULL, HUGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (huge == MAP_FAILED) {
		printf("this machine gives no huge pages: %s\n", strerror(errno));
		huge = NULL;
	} else {
		mmap(huge, HUGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	}
}

int main(void)
{
	const struct tracker_kind *all[] = { &tracker_uffd, &tracker_soft_dirty, &tracker_none };
	int failed = 0;

	find_place();
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		kind = all[i];
		if (!kind->usable()) {
			printf("this kernel has no %s\n", kind->what);
			continue;
		}
		if (moved_beside(false) | moved_beside(true) | dropped(false) | dropped(true) | moved_tables(false) |
		    moved_tables(true) | mapped_meanwhile(false) | mapped_meanwhile(true) | dropped_huge_pages() | read_from_disk('b') |
		    read_from_disk('v') | copies())
			failed = printf("... by %s\n", kind->name);
		fflush(stdout);
	}
	return failed != 0;
}
