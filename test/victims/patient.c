/* patient.c - REPORT [MIB]: waits in every way that a stop could end early, and reports "woken: NAME" if one does: a
 * futex, a long sleep, a poll. Its main thread dirties a page each millisecond and sleeps, so that many of these can
 * run at once.
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "victim.h"

#define PAGE 4096

static int futex_word, pipe_fds[2];

static void *wait_futex(void *arg)
{
	(void)arg;
	for (;;) {
		syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		victim_report("woken: futex");
	}
	return NULL;
}

static void *wait_sleep(void *arg)
{
	(void)arg;
	for (;;) {
		nanosleep(&(struct timespec){ .tv_sec = 100000 }, NULL);
		victim_report("woken: nanosleep");
	}
	return NULL;
}

static void *wait_poll(void *arg)
{
	struct pollfd fd = { .fd = pipe_fds[0], .events = POLLIN };

	(void)arg;
	while (poll(&fd, 1, 100000000) != 1)
		victim_report("woken: poll");
	return NULL;
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	size_t pages = (argc > 2 ? atol(argv[2]) : 4) * (1 << 20) / PAGE;
	uint32_t *arena = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t *written = calloc(pages, sizeof(*written));
	pthread_t thread, poller;
	sigset_t all, before;
	size_t page = 0;

	if (arena == MAP_FAILED || !written || pipe(pipe_fds))
		victim_fail("setting up: %s", strerror(errno));
	for (size_t i = 0; i < pages; i++)
		arena[i * (PAGE / 4)] = i;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	if (pthread_create(&thread, NULL, wait_futex, NULL) || pthread_create(&thread, NULL, wait_sleep, NULL) ||
	    pthread_create(&poller, NULL, wait_poll, NULL))
		victim_fail("no thread");
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	victim_ready();
	while (victim_tick()) {
		page = (page + 7919) % pages;
		arena[page * (PAGE / 4)] = page + ++written[page];
		usleep(1000);
	}
	victim_check(write(pipe_fds[1], "x", 1) == 1);
	pthread_join(poller, NULL);
	for (size_t i = 0; i < pages; i++)
		if (arena[i * (PAGE / 4)] != i + written[i])
			victim_fail("page %zu is %u instead of %zu", i, arena[i * (PAGE / 4)], i + written[i]);
	return victim_ok();
}
