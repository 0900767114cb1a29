/* hugetlb.c - huge pages: private ones that were touched in part, some given back; ones that a child shares; a memfd of them. They
 * are written all the time.
 */
#include <errno.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "victim.h"

#define HUGE (2ul << 20)
#define PAGES 4
#define WORDS (HUGE / 8)

static uint64_t *map(int flags, int fd)
{
	uint64_t *at = mmap(NULL, PAGES * HUGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (at == MAP_FAILED)
		victim_fail("no huge pages (/proc/sys/vm/nr_hugepages): %s", strerror(errno));
	return at;
}

/* Numbers go round in the first page, one for each tick; others lie still. */
static void write_to(uint64_t *at, uint64_t n)
{
	at[n % WORDS] = n + 1;
}

static void check_written(const char *what, const uint64_t *at, uint64_t written)
{
	for (uint64_t i = 0; i < written; i++)
		if (i + WORDS >= written && at[i % WORDS] != i + 1)
			victim_fail("%s: word %ld is %ld", what, (long)i, (long)at[i % WORDS]);
	for (size_t i = 0; i < WORDS; i += 513)
		if (at[WORDS + i] != i * 3)
			victim_fail("%s: word %zu of the second page is %ld", what, i, (long)at[WORDS + i]);
}

int main(int argc, char **argv)
{
	uint64_t *own, *shared, *file, word, written = 0;
	int memory, status;
	pid_t child;

	victim_begin(argc, argv);
	memory = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	victim_check(memory >= 0 && ftruncate(memory, PAGES * HUGE) == 0);
	own = map(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1);
	shared = map(MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1);
	file = map(MAP_SHARED, memory);
	for (size_t i = 0; i < WORDS; i += 513)
		own[WORDS + i] = shared[WORDS + i] = file[WORDS + i] = i * 3;
	child = fork();
	if (!child) {
		while (!shared[3 * WORDS])
			usleep(1000);
		_exit(shared[WORDS + 513] == 513 * 3 && own[WORDS + 513] == 513 * 3 ? 7 : 1);
	}

	victim_ready();
	while (victim_tick()) {
		write_to(own, written);
		write_to(shared, written);
		write_to(file, written++);
		/* What was there is gone, and zero when it is touched again. */
		if (written % 64 == 0)
			victim_check(madvise(own + 2 * WORDS, HUGE, MADV_DONTNEED) == 0);
		if (written % 64 == 32)
			own[2 * WORDS + 700] = written;
		usleep(1000);
	}

	check_written("private", own, written);
	check_written("shared", shared, written);
	check_written("memfd", file, written);
	victim_check(pread(memory, &word, sizeof(word), HUGE + 513 * 8) == sizeof(word) && word == 513 * 3);
	file[2 * WORDS + 1] = 1;
	victim_check(pread(memory, &word, sizeof(word), 2 * HUGE + 8) == sizeof(word) && word == 1);
	victim_check(own[3 * WORDS + 5] == 0 && file[3 * WORDS] == 0);
	if (own[2 * WORDS + 700] != (written % 64 < 32 ? 0 : written / 64 * 64 + 32))
		victim_fail("word 700 of the third page is %ld after %ld", (long)own[2 * WORDS + 700], (long)written);
	shared[3 * WORDS] = 1;
	victim_check(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 7);
	return victim_ok();
}
