/* events_test.c - what counts, times and signals goes on, and what watches it. */
#include <arpa/inet.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "subject.h"

static void set_up_counters(void)
{
	struct itimerspec periodic = { { 0, 20000000 }, { 0, 30000000 } };
	struct itimerspec single = { { 0, 0 }, { 100, 500 } }, absolute = { { 5, 0 }, { 0, 0 } };
	uint64_t large = 0xfffffffffffffffeull;
	sigset_t mask;

	must(eventfd(0x1234, EFD_NONBLOCK));			/* 0 */
	must(eventfd(3, EFD_SEMAPHORE | EFD_CLOEXEC));		/* 1 */
	must(eventfd(0, 0));					/* 2 */
	must(write(2, &large, 8));
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMIN + 3);
	must(signalfd(-1, &mask, SFD_NONBLOCK));		/* 3 */
	must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));	/* 4 */
	must(timerfd_settime(4, 0, &periodic, NULL));
	must(timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC));	/* 5 */
	must(timerfd_settime(5, 0, &single, NULL));
	must(timerfd_create(CLOCK_BOOTTIME, 0));		/* 6 */
	must(clock_gettime(CLOCK_BOOTTIME, &absolute.it_value));
	absolute.it_value.tv_sec += 50;
	must(timerfd_settime(6, TFD_TIMER_ABSTIME, &absolute, NULL));
	must(timerfd_create(CLOCK_MONOTONIC, 0));		/* 7: never armed */
	must(timerfd_create(CLOCK_MONOTONIC, 0));		/* 8: went off, unread */
	single.it_value = (struct timespec){ 0, 1 };
	must(timerfd_settime(8, 0, &single, NULL));
	must(dup2(2, 9));
}

static void counters_go_on(void)
{
	pid_t pid = subject_start(set_up_counters);
	struct itimerspec left;
	uint64_t value;
	struct moved m;
	int fd;

	usleep(100000);
	kill(pid, SIGSTOP);
	move_subject(&m, pid, 0);
	for (int i = 0; i < 3; i++) {
		expect_fdinfo(&m, i, "eventfd-count:");
		expect_fdinfo(&m, i, "eventfd-semaphore:");
	}
	expect(moved_after(&m, 2)->id == moved_after(&m, 9)->id && moved_after(&m, 1)->id != moved_after(&m, 2)->id);
	fd = moved_own(&m, 1);
	expect(read(fd, &value, 8) == 8 && value == 1);
	close(fd);
	expect_fdinfo(&m, 3, "sigmask:");
	for (int i = 4; i <= 8; i++) {
		expect_fdinfo(&m, i, "clockid:");
		expect_fdinfo(&m, i, "settime flags:");
		expect_fdinfo(&m, i, "it_interval:");
	}
	fd = moved_own(&m, 4);
	/* 20 ms, then each 30 ms, for more than 100. */
	expect(read(fd, &value, 8) == 8 && value >= 3);
	expect(!timerfd_gettime(fd, &left) && left.it_value.tv_nsec > 0 &&
	       left.it_value.tv_nsec <= 30000000);
	close(fd);
	fd = moved_own(&m, 5);
	expect(!timerfd_gettime(fd, &left) && left.it_value.tv_sec >= 98 &&
	       left.it_value.tv_sec <= 100);
	close(fd);
	fd = moved_own(&m, 6);
	expect(!timerfd_gettime(fd, &left) && left.it_value.tv_sec >= 48 &&
	       left.it_value.tv_sec < 50);
	expect(left.it_interval.tv_sec == 5);
	close(fd);
	fd = moved_own(&m, 7);
	expect(!timerfd_gettime(fd, &left) && !left.it_value.tv_sec && !left.it_value.tv_nsec);
	close(fd);
	fd = moved_own(&m, 8);
	expect(read(fd, &value, 8) == 8 && value == 1);
	close(fd);
	moved_forget(&m);
	subject_end(pid);
}

static void set_up_epoll(void)
{
	struct epoll_event event;
	int ends[2];

	must(epoll_create1(EPOLL_CLOEXEC));		/* 0 */
	must(pipe(ends));				/* 1, 2 */
	must(eventfd(0, 0));				/* 3 */
	must(eventfd(7, 0));				/* 4 */
	must(socket(AF_INET, SOCK_DGRAM, 0));		/* 5 */
	must(epoll_create1(0));				/* 6 */
	watch(0, 1, EPOLLIN, 0x1111111111111111);
	watch(0, 3, EPOLLIN | EPOLLET, ~0ull);
	watch(0, 4, EPOLLIN | EPOLLONESHOT, 4);
	must(epoll_wait(0, &event, 1, 0));		/* 4 goes off once, and is silent now */
	watch(0, 5, EPOLLIN | EPOLLRDHUP, 5);
	watch(6, 0, EPOLLIN, 600);			/* nested */
	watch(6, 2, EPOLLOUT, 602);
	/* Watched under 20, which is closed; under 21, which is another's; twice under 22. */
	must(dup2(3, 20));
	watch(0, 20, EPOLLIN, 20);
	must(close(20));
	must(dup2(3, 21));
	watch(0, 21, EPOLLIN, 21);
	must(dup2(1, 21));
	must(dup2(3, 22));
	watch(0, 22, EPOLLIN, 22);
	must(dup2(4, 22));
	watch(0, 22, EPOLLIN, 23);
}

/* The lines of fdinfo that tell of a watch, without addresses: sorted. */
static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

static int watches_of(const struct descriptor *d, char lines[32][64])
{
	int n = 0, fd;
	unsigned int events;
	unsigned long long data;

	for (const char *at = d->fdinfo; (at = strstr(at, "tfd:")); at++)
		if (sscanf(at, "tfd: %d events: %x data: %llx", &fd, &events, &data) == 3)
			snprintf(lines[n++], 64, "%d %x %llx", fd, events & ~(EPOLLERR | EPOLLHUP),
				 data);
	qsort(lines, n, 64, by_text);
	return n;
}

static void epoll_watches_the_same(void)
{
	pid_t pid = subject_start(set_up_epoll);
	char was[32][64], is[32][64], *text = check_text(pid, 0);
	struct epoll_event events[16];
	int fd, n, trigger;
	struct moved m;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	move_subject(&m, pid, 0);
	for (int epoll = 0; epoll <= 6; epoll += 6) {
		n = watches_of(moved_before(&m, epoll), was);
		expect(n == (epoll ? 2 : 8) && watches_of(moved_after(&m, epoll), is) == n);
		for (int i = 0; i < n; i++)
			if (strcmp(was[i], is[i]))
				die("fd %d: was %s, is %s", epoll, was[i], is[i]);
	}
	fd = moved_own(&m, 0);
	trigger = moved_own(&m, 3);
	n = epoll_wait(fd, events, 16, 0);
	expect(n == 1 && events[0].data.u64 == 23);
	expect(write(trigger, &(uint64_t){ 1 }, 8) == 8);
	/* 3 itself, and under 20, 21 and 22; 4 under 22. */
	expect(epoll_wait(fd, events, 16, 0) == 5);
	close(trigger);
	close(fd);
	fd = moved_own(&m, 6);
	expect(epoll_wait(fd, events, 16, 0) == 2);
	close(fd);
	moved_forget(&m);
	subject_end(pid);
}

int main(void)
{
	if (!subject_prepare())
		return 77;
	counters_go_on();
	epoll_watches_the_same();
	rmdir(subject_directory);
	return 0;
}
