/* inherit_test.c - what a child has from its parent, and the parent's husk has as well, is told from what it hasn't. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inherit.h"
#include "tracked.h"

#define PAGE 4096ul
#define PAGES 16ul

/* Of the pages, each for another fate. */
enum { WRITTEN_BEFORE_FORK = 1, WRITTEN_BY_CHILD, WRITTEN_BY_PARENT, WRITTEN_BY_CHILD_LATE, WRITTEN_BY_PARENT_LATE, FATES };

static int fds[2][2];		/* to the parent, and to the child that it forks */
static char *at;

/* Writes the page that it is told, or forks one that does the same from then on. */
static void obey(void)
{
	unsigned char order = 255;
	int who = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	do {
		if (order < PAGES)
			at[order * PAGE] += 1;
		if (order == 'f' && !fork())
			who = 1 + prctl(PR_SET_PDEATHSIG, SIGKILL);
		if ((order != 'f' || who) && write(fds[who][1], &order, 1) != 1)
			_exit(3);
	} while (read(fds[who][1], &order, 1) == 1);
	_exit(0);
}

static void tell(int who, unsigned char order, int answers)
{
	if ((order != 255 && write(fds[who][0], &order, 1) != 1) || read(fds[answers][0], &order, 1) != 1) {
		puts("the process ended");
		exit(1);
	}
}

static void look(struct tracker *t, struct memory_map *map, struct range_list *dirty)
{
	must(memory_map_read(t->pid, true, map, &err), "reading the map");
	must(t->kind->cover(t, map, &err), "tracking");
	must(t->kind->scan(t, map, true, dirty, &err), "looking");
}

static pid_t child_of(pid_t pid)
{
	char path[64];
	int child = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	f = fopen(path, "re");
	if (!f || fscanf(f, "%d", &child) != 1)
		must(-1, "finding the child");
	fclose(f);
	return child;
}

static int compare(const struct inherit_from *from, const struct tracker *child, const struct memory_map *map,
		   const struct range_list *dirty, bool frozen)
{
	struct range_list own = {0}, inherited = {0};
	struct inherit_from parent = *from;
	int failed = 0;

	parent.frozen = frozen;
	must(range_list_without(dirty, &(struct range_list){0}, &own), "copying a list");
	must(inherit_find(&parent, map, child->pagemap, &own, &inherited), "comparing");
	for (unsigned long i = 0; i < PAGES; i++) {
		uint64_t page = (uint64_t)at + i * PAGE;
		bool shared = !i || i >= FATES;

		if (holds(&inherited, page) != shared || holds(&own, page) == shared)
			failed = printf("page %lu is %s as the parent's%s\n", i, shared ? "not told" : "told",
					frozen ? ", frozen" : "");
	}
	range_list_free(&own);
	range_list_free(&inherited);
	return failed;
}

static int find(void)
{
	struct memory_map first, told, map;
	struct range_list sent = {0}, parents = {0}, dirty = {0};
	struct tracker parent, child;
	struct inherit_from from;
	int failed;
	pid_t pid;

	at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(at, 1, PAGES * PAGE);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds[0]) || socketpair(AF_UNIX, SOCK_STREAM, 0, fds[1]))
		return 1;
	pid = fork();
	if (pid == 0) {
		memset(at, 2, PAGES * PAGE);
		obey();
	}
	tell(0, 255, 0);
	parent = open_tracker(pid, &tracker_uffd);
	look(&parent, &first, &sent);
	tell(0, WRITTEN_BEFORE_FORK, 0);
	tell(0, 'f', 1);
	tell(1, WRITTEN_BY_CHILD, 1);
	tell(0, WRITTEN_BY_PARENT, 0);
	child = open_tracker(child_of(pid), &tracker_uffd);
	look(&parent, &told, &parents);
	look(&child, &map, &dirty);
	tell(1, WRITTEN_BY_CHILD_LATE, 1);
	tell(0, WRITTEN_BY_PARENT_LATE, 0);
	from = (struct inherit_from){ .told = &told, .dirty = &parents, .pagemap = parent.pagemap };
	failed = compare(&from, &child, &map, &dirty, false);
	if (compare(&from, &child, &map, &dirty, true))
		failed = 1;
	tracker_close(&parent);
	tracker_close(&child);
	memory_map_free(&first);
	memory_map_free(&told);
	memory_map_free(&map);
	range_list_free(&sent);
	range_list_free(&parents);
	range_list_free(&dirty);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return failed;
}

/* ---- mappings ---- */

static const char parents_map[] =
	"10000-20000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
	"20000-30000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac dc \n"
	"30000-40000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac wf \n"
	"40000-50000 rw-p 00001000 08:01 7 /bin/x\nVmFlags: rd wr mr mw me ac \n"
	"50000-60000 rw-p 00001000 08:01 7 /bin/x\nVmFlags: rd wr mr mw me ac \n"
	"60000-70000 rw-s 00000000 00:01 9 /dev/zero (deleted)\nVmFlags: rd wr sh mr mw me ms \n"
	"70000-80000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
	"90000-a0000 r-xp 00000000 00:00 0 [vdso]\nVmFlags: rd ex mr mw me de \n";

/* The first is smaller, the second but last of another file, the last protected. */
static const char childs_map[] =
	"14000-18000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
	"20000-30000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
	"30000-40000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac wf \n"
	"40000-50000 rw-p 00001000 08:01 7 /bin/x\nVmFlags: rd wr mr mw me ac \n"
	"50000-60000 rw-p 00002000 08:01 7 /bin/x\nVmFlags: rd wr mr mw me ac \n"
	"60000-70000 rw-s 00000000 00:01 9 /dev/zero (deleted)\nVmFlags: rd wr sh mr mw me ms \n"
	"70000-78000 ---p 00000000 00:00 0 \nVmFlags: mr mw me ac \n"
	"90000-a0000 r-xp 00000000 00:00 0 [vdso]\nVmFlags: rd ex mr mw me de \n";

static const char other_program[] =
	"10000-20000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
	"a0000-b0000 r-xp 00000000 00:00 0 [vdso]\nVmFlags: rd ex mr mw me de \n";

static int is(const struct range_list *list, const uint64_t (*ranges)[2], size_t count, const char *what)
{
	int failed = list->count != count;

	for (size_t i = 0; i < list->count && i < count; i++)
		if (list->at[i].address != ranges[i][0] || range_end(&list->at[i]) != ranges[i][1])
			failed = 1;
	if (failed)
		printf("%s: wrong ranges\n", what);
	for (size_t i = 0; i < list->count && failed; i++)
		printf("  %lx-%lx\n", list->at[i].address, range_end(&list->at[i]));
	return failed;
}

static int candidates(const char *childs, const uint64_t (*ranges)[2], size_t count)
{
	struct memory_map parent, child;
	struct range_list found = {0};
	int failed;

	must(memory_map_parse(strdup(parents_map), &parent), "parsing");
	must(memory_map_parse(strdup(childs), &child), "parsing");
	must(inherit_candidates(&parent, &child, &found), "comparing mappings");
	failed = is(&found, ranges, count, "candidates");
	range_list_free(&found);
	memory_map_free(&parent);
	memory_map_free(&child);
	return failed;
}

static int order(void)
{
	const struct page_range mixed[] = { { 0x9000, 2 }, { 0x1000, 8 }, { 0x2000, 1 }, { 0xb000, 1 }, { 0x8000, 2 } };
	struct range_list list = { calloc(5, sizeof(*mixed)), 5, 5, 14 };
	const uint64_t ordered[][2] = { { 0x1000, 0xc000 } };
	int failed;

	memcpy(list.at, mixed, sizeof(mixed));
	range_list_order(&list);
	failed = is(&list, ordered, 1, "what was out of order") || list.pages != 11;
	range_list_free(&list);
	return failed;
}

static int lists(void)
{
	struct page_range left[] = { { 0x1000, 3 }, { 0x8000, 1 }, { 0xa000, 6 } }, right[] = { { 0x2000, 1 }, { 0x8000, 4 }, { 0xf000, 9 } };
	struct range_list a = { left, 3, 3, 10 }, b = { right, 3, 3, 14 }, common = {0}, without = {0}, all = {0};
	const uint64_t in_both[][2] = { { 0x2000, 0x3000 }, { 0x8000, 0x9000 }, { 0xa000, 0xc000 }, { 0xf000, 0x10000 } };
	const uint64_t alone[][2] = { { 0x1000, 0x2000 }, { 0x3000, 0x4000 }, { 0xc000, 0xf000 } };
	const uint64_t whole[][2] = { { 0x1000, 0x4000 }, { 0x8000, 0x9000 }, { 0xa000, 0x10000 } };
	int failed;

	must(range_list_common(&a, &b, &common) ?: range_list_without(&a, &b, &without) ?: range_list_without(&a, &(struct range_list){0}, &all),
	     "comparing lists");
	failed = is(&common, in_both, 4, "what is in both") || is(&without, alone, 3, "what is in one") || is(&all, whole, 3, "all");
	range_list_free(&common);
	range_list_free(&without);
	range_list_free(&all);
	return failed;
}

int main(void)
{
	const uint64_t given[][2] = { { 0x14000, 0x18000 }, { 0x40000, 0x50000 }, { 0x70000, 0x78000 } };

	if (order() || lists() || candidates(childs_map, given, 3) || candidates(other_program, NULL, 0))
		return 1;
	if (!tracker_uffd.usable()) {
		puts("skipped: this kernel has no userfaultfd with WP_ASYNC");
		return 77;
	}
	return find();
}
