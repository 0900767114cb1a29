/* restarts.c - REPORT [alone]: a thread in each system call that waits; alone, the main thread in one. None may come back early, or with EINTR, because
 * it was stopped or moved; those with a time limit end when it is over, and where the kernel tells how much is
 * left, not later either.
 */
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "victim.h"

#define LIMIT_S 4
#define LATE_S 1.5	/* for a busy machine; one that starts again is later by what had passed, some 2 s */

static int empty_pipe[2], full_pipe[2], events, epoll, listener, datagrams, timer, signals, word;
static volatile bool over;

static int wait_futex(void)
{
	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static int wait_pipe(void)
{
	char byte;

	return read(empty_pipe[0], &byte, 1);
}

static int wait_full_pipe(void)
{
	return write(full_pipe[1], "x", 1);
}

static int wait_eventfd(void)
{
	uint64_t value;

	return read(events, &value, 8);
}

static int wait_timerfd(void)
{
	uint64_t value;

	return read(timer, &value, 8);
}

static int wait_signalfd(void)
{
	struct signalfd_siginfo info;

	return read(signals, &info, sizeof(info));
}

static int wait_poll(void)
{
	return poll(&(struct pollfd){ .fd = empty_pipe[0], .events = POLLIN }, 1, -1);
}

static int wait_epoll(void)
{
	struct epoll_event event;

	return epoll_wait(epoll, &event, 1, -1);
}

static int wait_select(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(empty_pipe[0], &set);
	return select(empty_pipe[0] + 1, &set, NULL, NULL, NULL);
}

static int wait_accept(void)
{
	return accept(listener, NULL, NULL);
}

static int wait_receive(void)
{
	char bytes[16];

	return recv(datagrams, bytes, sizeof(bytes), 0);
}

static int wait_signal(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	return sigwaitinfo(&set, NULL);
}

static int wait_pause(void)
{
	return pause();
}

static int wait_suspend(void)
{
	sigset_t all;

	sigfillset(&all);
	return sigsuspend(&all);
}

/* With a time limit: 0 if it was reached. */

static int limit_nanosleep(void)
{
	struct timespec left;

	return nanosleep(&(struct timespec){ .tv_sec = LIMIT_S }, &left);
}

static int limit_nanosleep_untold(void)
{
	return nanosleep(&(struct timespec){ .tv_sec = LIMIT_S }, NULL);
}

static int limit_clock_nanosleep(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += LIMIT_S;
	return clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL);
}

static int limit_ppoll(void)
{
	struct timespec limit = { .tv_sec = LIMIT_S };

	return syscall(SYS_ppoll, &(struct pollfd){ .fd = empty_pipe[0], .events = POLLIN }, 1, &limit, NULL, 8);
}

static int limit_select(void)
{
	struct timeval limit = { .tv_sec = LIMIT_S };

	return select(0, NULL, NULL, NULL, &limit);
}

static int limit_condition(void)
{
	pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += LIMIT_S;
	pthread_mutex_lock(&mutex);
	return pthread_cond_timedwait(&condition, &mutex, &until) == ETIMEDOUT ? 0 : -1;
}

static int limit_poll(void)
{
	return poll(&(struct pollfd){ .fd = empty_pipe[0], .events = POLLIN }, 1, LIMIT_S * 1000);
}

static int limit_epoll(void)
{
	struct epoll_event event;

	return epoll_wait(epoll, &event, 1, LIMIT_S * 1000);
}

static int limit_futex(void)
{
	struct timespec limit = { .tv_sec = LIMIT_S };

	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0) < 0 && errno == ETIMEDOUT ? 0 : -1;
}

static int limit_signal(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 4);
	return sigtimedwait(&set, NULL, &(struct timespec){ .tv_sec = LIMIT_S }) < 0 && errno == EAGAIN ? 0 : -1;
}

static int limit_receive(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char byte;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){ .tv_sec = LIMIT_S }, sizeof(struct timeval));
	return recv(fd, &byte, 1, 0) < 0 && errno == EAGAIN ? 0 : -1;
}

static const struct wait {
	const char *name;
	int (*run)(void);
	enum { ENDLESS, EXACT, AT_LEAST } kind;
} waits[] = {
	{ "futex", wait_futex, ENDLESS }, { "read of a pipe", wait_pipe, ENDLESS },
	{ "write to a full pipe", wait_full_pipe, ENDLESS }, { "read of an eventfd", wait_eventfd, ENDLESS },
	{ "read of a timerfd", wait_timerfd, ENDLESS }, { "read of a signalfd", wait_signalfd, ENDLESS },
	{ "poll", wait_poll, ENDLESS }, { "epoll_wait", wait_epoll, ENDLESS }, { "select", wait_select, ENDLESS },
	{ "accept", wait_accept, ENDLESS }, { "recv", wait_receive, ENDLESS }, { "sigwaitinfo", wait_signal, ENDLESS },
	{ "pause", wait_pause, ENDLESS }, { "sigsuspend", wait_suspend, ENDLESS },
	{ "nanosleep", limit_nanosleep, EXACT }, { "clock_nanosleep", limit_clock_nanosleep, EXACT },
	{ "ppoll", limit_ppoll, EXACT }, { "select with a limit", limit_select, EXACT },
	{ "pthread_cond_timedwait", limit_condition, EXACT },
	{ "nanosleep without a rest", limit_nanosleep_untold, AT_LEAST }, { "poll with a limit", limit_poll, AT_LEAST },
	{ "epoll_wait with a limit", limit_epoll, AT_LEAST }, { "futex with a limit", limit_futex, AT_LEAST },
	{ "sigtimedwait", limit_signal, AT_LEAST }, { "recv with a limit", limit_receive, AT_LEAST },
};

#define WAITS (sizeof(waits) / sizeof(*waits))

static void *run(void *arg)
{
	const struct wait *w = arg;
	uint64_t start = victim_now_ns();
	int ret = w->run(), error = errno;
	double seconds = (victim_now_ns() - start) / 1e9;

	if (over && w->kind == ENDLESS)
		return NULL;
	if (w->kind == ENDLESS || ret)
		victim_fail("%s came back after %.3f s: %d (%s)", w->name, seconds, ret, strerror(error));
	if (seconds < LIMIT_S || (w->kind == EXACT && seconds > LIMIT_S + LATE_S))
		victim_fail("%s took %.3f s instead of %d", w->name, seconds, LIMIT_S);
	return NULL;
}

static void set_up(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	char page[4096] = "";
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	victim_check(pipe(empty_pipe) == 0 && pipe(full_pipe) == 0);
	fcntl(full_pipe[1], F_SETFL, O_NONBLOCK);
	while (write(full_pipe[1], page, sizeof(page)) > 0)
		;
	fcntl(full_pipe[1], F_SETFL, 0);
	events = eventfd(0, 0);
	timer = timerfd_create(CLOCK_MONOTONIC, 0);
	timerfd_settime(timer, 0, &(struct itimerspec){ .it_value.tv_sec = 1000000 }, NULL);
	signals = signalfd(-1, &set, 0);
	epoll = epoll_create1(0);
	epoll_ctl(epoll, EPOLL_CTL_ADD, empty_pipe[0], &(struct epoll_event){ .events = EPOLLIN });
	listener = socket(AF_INET, SOCK_STREAM, 0);
	datagrams = socket(AF_INET, SOCK_DGRAM, 0);
	victim_check(bind(listener, (void *)&address, sizeof(address)) == 0 && listen(listener, 1) == 0);
	victim_check(bind(datagrams, (void *)&address, sizeof(address)) == 0);
}

int main(int argc, char **argv)
{
	pthread_t threads[WAITS];
	sigset_t all, before;

	victim_begin(argc, argv);
	set_up();
	if (argc > 2) {
		victim_ready();
		run((void *)&(struct wait){ "nanosleep of the main thread", limit_nanosleep, EXACT });
		while (victim_tick())
			usleep(1000);
		return victim_ok();
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (size_t i = 0; i < WAITS; i++)
		victim_check(pthread_create(&threads[i], NULL, run, (void *)&waits[i]) == 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	usleep(100000);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	for (size_t i = 0; i < WAITS; i++)
		if (waits[i].kind != ENDLESS)
			pthread_join(threads[i], NULL);
	over = true;
	return victim_ok();
}
