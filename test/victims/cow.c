/* cow.c - REPORT [MIB [restless]]: a family whose memory is the parent's until one of them writes to it. What each has, and
 * that what nobody wrote is in memory once, is checked at the end; that each writes for itself alone, too. MIB is the size of
 * what all leave as it is. If it is restless, children come and go that see whether memory changes under their eyes.
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "victim.h"

#define PAGE 4096
#define PAGES 64		/* of an area */
#define KIN 7			/* 0 is the parent of 1 to 4, 1 of 5, 4 of 6; 4 began a session when it had that one */
#define SHORT_LIVED 4
#define WAIT_MS 60000
#define ENOUGH 0.95		/* of the pages that could be shared: what is in doubt is copied */

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102	/* Linux 6.13 */
#define MADV_GUARD_REMOVE 103
#endif

static const int parent_of[KIN] = { 0, 0, 0, 0, 0, 1, 4 };

enum area { KEPT, BROKEN, PROTECTED, MOVED, DROPPED, FILED, LATER, NOT_FORKED, WIPED, REPLACED, GUARDED, AREAS };

/* Who wrote what is in a page: its number in the family; or nobody, and it is zero, or the file's; or it can't be touched. */
enum { GUARD = -3, SAME = -2, NOBODY = -1, ALL = 0, PARENT_LATER = 100, SELF_LATER = 200 };

static char *areas[AREAS], *counted;
static size_t pages_of[AREAS];
static char file_content[PAGES * PAGE];
static bool has_guards;
static unsigned int count;	/* that this process has written to `counted` */

static struct {
	_Atomic int phase, arrived, failed;
	_Atomic int pids[KIN];
	char why[300];
} *common;

static void fail(int who, const char *what, int area, size_t page)
{
	if (!common->failed++)
		snprintf(common->why, sizeof(common->why), "process %d: %s, area %d, page %zu", who, what, area, page);
}

static void write_page(enum area area, size_t page, int writer)
{
	unsigned int *words = (unsigned int *)(areas[area] + page * PAGE);

	for (unsigned int i = 0; i < PAGE / sizeof(*words); i++)
		words[i] = (writer + 1) * 1000003u + area * 70001u + page * 1024u + i;
}

static bool is_by(enum area area, size_t page, int writer)
{
	const unsigned int *words = (unsigned int *)(areas[area] + page * PAGE);

	if (writer == GUARD)
		return process_vm_readv(getpid(), &(struct iovec){ &(char){0}, 1 }, 1, &(struct iovec){ (void *)words, 1 }, 1, 0) < 0;
	if (writer == NOBODY && area == FILED)
		return !memcmp(words, file_content + page * PAGE, PAGE);
	for (unsigned int i = 0; i < PAGE / sizeof(*words); i++)
		if (words[i] != (writer == NOBODY ? 0 : (writer + 1) * 1000003u + area * 70001u + page * 1024u + i))
			return false;
	return true;
}

/* ---- who changes what ---- */

/* Before the first fork. */
static int first_writer(enum area area, size_t page)
{
	if (area == GUARDED && page % 4 == 3)
		return has_guards ? GUARD : ALL;
	return area == LATER || (area == FILED && page % 2) ? NOBODY : ALL;
}

static int changed(enum area area, int page, int who)
{
	switch (area) {
	case BROKEN:
		return page % 8 == 7 && !who ? PARENT_LATER : who && page % 8 == who ? who : SAME;
	case DROPPED:
		return who && page % 4 == who % 4 ? NOBODY : SAME;
	case FILED:
		return who == 1 && page % 8 == 1 ? who : who == 2 && page % 8 == 0 ? NOBODY : SAME;
	case LATER:
		return who ? SAME : PARENT_LATER;
	case NOT_FORKED:
		return who ? who : SAME;
	case WIPED:
		return !who ? SAME : who == 1 && page % 2 ? who : NOBODY;
	case REPLACED:
		return who == 3 && page < PAGES / 2 ? who : SAME;
	case GUARDED:
		return who == 2 && page % 4 == 3 ? who : has_guards && who < 2 && page % 4 == who ? GUARD : SAME;
	default:
		return SAME;
	}
}

static void make(enum area area, size_t page, int writer)
{
	char *at = areas[area] + page * PAGE;

	if (writer >= 0 && area == GUARDED && has_guards)
		victim_check(!madvise(at, PAGE, MADV_GUARD_REMOVE));
	if (writer >= 0)
		write_page(area, page, writer);
	else if (writer != SAME)
		victim_check(!madvise(at, PAGE, writer == GUARD ? MADV_GUARD_INSTALL : MADV_DONTNEED));
}

static int writer_of(enum area area, size_t page, int who)
{
	int own = changed(area, page, who);

	return own != SAME ? own : parent_of[who] ? writer_of(area, page, parent_of[who]) : first_writer(area, page);
}

/* By the change of one who has just been forked; by the parent when it has forked all. */
static void change(int who)
{
	if (who)
		victim_check(mmap(areas[NOT_FORKED], PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
				  0) != MAP_FAILED);
	if (who == 3)
		victim_check(mmap(areas[REPLACED], PAGES / 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				  -1, 0) != MAP_FAILED);
	for (int area = 0; area < AREAS; area++)
		for (size_t page = 0; page < PAGES; page++)
			make(area, page, changed(area, page, who));
	if (who == 2) {
		char *to = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		areas[MOVED] = mremap(areas[MOVED], PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		victim_check(areas[MOVED] != MAP_FAILED && !mlock2(areas[DROPPED], PAGES * PAGE, MLOCK_ONFAULT));
	}
	victim_check(!mprotect(areas[PROTECTED], PAGES * PAGE, who == 1 ? PROT_NONE : who == 0 ? PROT_READ : PROT_READ | PROT_WRITE));
}

/* ---- the family ---- */

static void count_on(void)
{
	count++;
	*(unsigned int *)(counted + count % PAGES * PAGE) = count;
}

static void check_count(int who)
{
	for (unsigned int i = 0; i < PAGES && i < count; i++)
		if (*(unsigned int *)(counted + (count - i) % PAGES * PAGE) != count - i)
			fail(who, "what it wrote last is lost", -1, (count - i) % PAGES);
}

static void check_pages(int who)
{
	if (who == 1)
		mprotect(areas[PROTECTED], PAGES * PAGE, PROT_READ);
	for (int area = 0; area < AREAS; area++)
		for (size_t page = 0; page < pages_of[area]; page++)
			if (!is_by(area, page, writer_of(area, page, who)))
				fail(who, "another's content", area, page);
	check_count(who);
}

static void check_alone(int who)
{
	if (!is_by(KEPT, 0, SELF_LATER + who))
		fail(who, "another has written to its memory", KEPT, 0);
}

static void wait_for(_Atomic int *what, int value)
{
	for (int i = 0; *what < value && i < WAIT_MS; i++)
		usleep(1000);
}

/* What all do at the end, each by itself, step by step. */
static void take_part(int who)
{
	static void (*const steps[])(int) = { check_pages, NULL, check_alone };

	for (int step = 0; step < 3; step++) {
		wait_for(&common->phase, step + 2);
		if (steps[step])
			steps[step](who);
		else
			write_page(KEPT, 0, SELF_LATER + who);
		common->arrived++;
	}
}

static void beget(int who);

static void live(int who)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	change(who);
	for (int child = who + 1; child < KIN; child++)
		if (parent_of[child] == who)
			beget(child);
	if (who == 4)
		setsid();
	common->pids[who] = getpid();
	while (common->phase < 2) {
		count_on();
		usleep(1000);
	}
	take_part(who);
	for (;;)
		pause();
}

static void beget(int who)
{
	pid_t pid = fork();

	victim_check(pid >= 0);
	if (!pid)
		live(who);
	wait_for(&common->pids[who], 1);
	victim_check(common->pids[who]);
}

/* ---- what is shared ---- */

static void read_frames(pid_t pid, const char *at, uint64_t *ret, size_t pages)
{
	char path[48];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	victim_check(fd >= 0 && pread(fd, ret, pages * 8, (uintptr_t)at / PAGE * 8) == (ssize_t)pages * 8);
	close(fd);
	for (size_t i = 0; i < pages; i++)
		ret[i] = ret[i] >> 63 ? ret[i] & ((1ull << 55) - 1) : 0;
}

/* Of one area of a child, which may be the parent's where both have what the same one wrote. */
static void count_shared(enum area area, int who, size_t *could, size_t *are)
{
	uint64_t *own = calloc(2 * pages_of[area], sizeof(*own)), *parents = own + pages_of[area];

	read_frames(common->pids[who], areas[area], own, pages_of[area]);
	read_frames(common->pids[parent_of[who]], areas[area], parents, pages_of[area]);
	for (size_t page = 0; page < pages_of[area]; page++) {
		int writer = writer_of(area, page, who);
		bool same = writer == writer_of(area, page, parent_of[who]) && writer >= 0;

		if (!same && own[page] && own[page] == parents[page] && writer >= 0)
			victim_fail("process %d and its parent share page %zu of area %d, which one of them wrote", who, page, area);
		*could += same;
		*are += same && own[page] && own[page] == parents[page];
	}
	free(own);
}

static void check_shared(const char *when)
{
	for (int who = 1; who < KIN; who++) {
		size_t could = 0, are = 0;

		/* A husk of its kind has to be forked before its parent's has memory, if they move while they run. */
		if (who == 6)
			continue;
		for (int area = 0; area < AREAS; area++)
			if (area != NOT_FORKED && area != WIPED && area != MOVED)
				count_shared(area, who, &could, &are);
		if (are < ENOUGH * could)
			victim_fail("%s: of %zu pages that process %d could share with its parent, it shares %zu", when, could, who, are);
	}
}

/* ---- those who come and go ---- */

static unsigned long sum(void)
{
	unsigned long sum = 0;

	for (size_t i = 0; i < PAGES * PAGE / sizeof(unsigned int); i++)
		sum = sum * 31 + ((unsigned int *)counted)[i] + ((unsigned int *)areas[BROKEN])[i];
	return sum;
}

static void live_shortly(void)
{
	unsigned long before = sum();

	for (int i = 0; i < 50; i++) {
		((volatile unsigned int *)areas[KEPT])[i * (PAGE / sizeof(int)) % (pages_of[KEPT] * 1024)] = i;
		usleep(3000);
	}
	_exit(sum() == before ? 0 : 9);
}

static void replace_short_lived(int *living, bool beget_more)
{
	int status;
	pid_t pid;

	while (*living && (pid = waitpid(-1, &status, beget_more ? WNOHANG : 0)) > 0) {
		(*living)--;
		if (status)
			victim_fail("memory of a child has changed: it ended with status %x", status);
	}
	while (beget_more && *living < SHORT_LIVED) {
		pid = fork();
		victim_check(pid >= 0);
		if (!pid)
			live_shortly();
		(*living)++;
	}
}

/* ---- all of it ---- */

static void set_up(size_t mib)
{
	int file = open("/bin/bash", O_RDONLY | O_CLOEXEC);
	char *page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	has_guards = !madvise(page, PAGE, MADV_GUARD_INSTALL);
	munmap(page, PAGE);

	victim_check(file >= 0 && pread(file, file_content, sizeof(file_content), 0) == sizeof(file_content));
	for (int area = 0; area < AREAS; area++) {
		pages_of[area] = area == KEPT ? mib << 8 : PAGES;
		/* With a gap, so that none merge. */
		areas[area] = mmap(NULL, (pages_of[area] + 1) * PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | (area == FILED ? 0 : MAP_ANONYMOUS), area == FILED ? file : -1, 0);
		victim_check(areas[area] != MAP_FAILED && !munmap(areas[area] + pages_of[area] * PAGE, PAGE));
		for (size_t page = 0; page < pages_of[area]; page++)
			make(area, page, first_writer(area, page));
	}
	close(file);
	counted = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	victim_check(counted != MAP_FAILED && common != MAP_FAILED);
	victim_check(!madvise(areas[NOT_FORKED], PAGES * PAGE, MADV_DONTFORK));
	victim_check(!madvise(areas[WIPED], PAGES * PAGE, MADV_WIPEONFORK));
}

static void do_together(void (*own)(int))
{
	common->arrived = 0;
	common->phase++;
	if (own)
		own(0);
	else
		write_page(KEPT, 0, SELF_LATER);
	wait_for(&common->arrived, KIN - 1);
	if (common->failed || common->arrived < KIN - 1)
		victim_fail("%s (%d of %d have answered)", common->failed ? common->why : "step", common->arrived, KIN - 1);
}

int main(int argc, char **argv)
{
	bool restless = argc > 3 && !strcmp(argv[3], "restless");
	int living = 0;

	victim_begin(argc, argv);
	set_up(argc > 2 ? atoi(argv[2]) : 4);
	common->pids[0] = getpid();
	for (int who = 1; who < KIN; who++)
		if (!parent_of[who])
			beget(who);
	change(0);
	check_shared("before it is moved");
	common->phase = 1;
	victim_ready();
	while (victim_tick()) {
		count_on();
		if (restless)
			replace_short_lived(&living, true);
		usleep(1000);
	}
	if (restless)
		replace_short_lived(&living, false);
	check_shared("at the end");
	do_together(check_pages);
	do_together(NULL);
	do_together(check_alone);
	return victim_ok();
}
