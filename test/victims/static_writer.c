/* static_writer.c - REPORT MIB PAGES_A_SECOND [THREADS [SLEEP_US]]: dirties random pages of an arena at a steady rate;
 * every page can be told from its number and version. THREADS more threads only sleep on a futex. It keeps its CPU busy, unless
 * it is told to sleep between two looks at the clock. SIGUSR2 also reports "wrote PAGES SECONDS", by its own clock.
 */
#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "victim.h"

#define PAGE 4096
#define SLICE_NS 100000		/* of work between two looks at the clock */

static uint64_t random_state = 88172645463325252ull;
static int idle_word;

static uint64_t random_number(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint64_t word(uint64_t page, uint32_t version, size_t i)
{
	uint64_t x = (page << 32 ^ version) * 0x9e3779b97f4a7c15ull + i * 0xd1342543de82ef95ull;

	return x ^ x >> 29;
}

static void fill(uint64_t *at, uint64_t page, uint32_t version)
{
	for (size_t i = 0; i < PAGE / 8; i++)
		at[i] = word(page, version, i);
}

static void *idle(void *arg)
{
	(void)arg;
	while (!victim_ended)
		syscall(SYS_futex, &idle_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return NULL;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	uint64_t pages = (argc > 2 ? atoll(argv[2]) : 16) * (1 << 20) / PAGE;
	double rate = argc > 3 ? atof(argv[3]) : 10000;
	int threads = argc > 4 ? atoi(argv[4]) : 0;
	/* At a rate of 0 it leaves the CPU to others, so that streams can be measured. */
	useconds_t sleep_us = argc > 5 ? atoi(argv[5]) : rate == 0 ? 1000 : 0;
	uint64_t *arena = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t *version = calloc(pages, sizeof(*version));
	pthread_t *others = calloc(threads + 1, sizeof(*others));
	pthread_attr_t attr;
	uint64_t start, written = 0, done = 0;

	if (arena == MAP_FAILED || !version || !others)
		victim_fail("no memory");
	madvise(arena, pages * PAGE, MADV_NOHUGEPAGE);
	for (uint64_t page = 0; page < pages; page++)
		fill(arena + page * (PAGE / 8), page, 0);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&others[i], &attr, idle, NULL))
			victim_fail("no thread");
	victim_ready();
	start = victim_now_ns();
	for (;;) {
		bool told = victim_tell;

		if (!victim_tick())
			break;
		if (told)
			victim_report("wrote %llu %.6f", (unsigned long long)done, (victim_now_ns() - start) / 1e9);
		uint64_t due = (victim_now_ns() - start) / 1e9 * rate;

		/* What was missed while standing still is not made up for at once. */
		if (due > written + rate / 100 + 1) {
			written = due;
			continue;
		}
		for (; written < due; written++) {
			uint64_t page = random_number() % pages;

			fill(arena + page * (PAGE / 8), page, ++version[page]);
			done++;
		}
		if (sleep_us)
			usleep(sleep_us);
		while (!sleep_us && victim_now_ns() - victim_last_ns < SLICE_NS)
			;
	}
	for (uint64_t page = 0; page < pages; page++)
		for (size_t i = 0; i < PAGE / 8; i++)
			if (arena[page * (PAGE / 8) + i] != word(page, version[page], i))
				victim_fail("page %llu word %zu of version %u", (unsigned long long)page, i,
					    version[page]);
	idle_word = 1;
	syscall(SYS_futex, &idle_word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
	for (int i = 0; i < threads; i++)
		pthread_join(others[i], NULL);
	return victim_ok();
}
