/* clocks.c - REPORT: clocks that begin with the host: they never go back, and never leap; whoever waits for a time of theirs is not
 * woken before. With the argument "apart" it begins by giving itself clocks that are ahead of the host's.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/timerfd.h>

#include "victim.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

#define LEAP_S 60
#define FAR_S 100000

static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME };
static struct timespec last[2];
static volatile int woken;

static void look(void)
{
	for (int i = 0; i < 2; i++) {
		struct timespec now;

		victim_check(clock_gettime(clocks[i], &now) == 0);
		if (now.tv_sec < last[i].tv_sec || (now.tv_sec == last[i].tv_sec && now.tv_nsec < last[i].tv_nsec) ||
		    (last[i].tv_sec && now.tv_sec > last[i].tv_sec + LEAP_S))
			victim_fail("clock %d went from %ld.%09ld to %ld.%09ld", clocks[i], last[i].tv_sec, last[i].tv_nsec, now.tv_sec, now.tv_nsec);
		last[i] = now;
	}
}

static void *sleeper(void *until)
{
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, until, NULL) == EINTR)
		;
	woken = 1;
	return NULL;
}

/* A program is in the namespace that the one before it has made. */
static void be_apart(char **argv)
{
	static const char offsets[] = "monotonic 5000 0\nboottime 7000 0\n";
	int fd;

	victim_check(unshare(CLONE_NEWTIME) == 0);
	fd = open("/proc/self/timens_offsets", O_WRONLY);
	victim_check(fd >= 0 && write(fd, offsets, strlen(offsets)) == (ssize_t)strlen(offsets));
	close(fd);
	execl("/proc/self/exe", argv[0], argv[1], NULL);
	victim_fail("running again: errno %d", errno);
}

int main(int argc, char **argv)
{
	struct itimerspec far = { .it_value = { 0, 0 } }, left;
	struct timespec until;
	pthread_t thread;
	double before;
	int timer;

	victim_begin(argc, argv);
	if (argc > 2 && !strcmp(argv[2], "apart"))
		be_apart(argv);
	look();
	until = last[0];
	until.tv_sec += FAR_S;
	far.it_value = until;
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	victim_check(timer >= 0 && timerfd_settime(timer, TFD_TIMER_ABSTIME, &far, NULL) == 0);
	victim_check(pthread_create(&thread, NULL, sleeper, &until) == 0);
	victim_ready();
	while (victim_tick()) {
		look();
		usleep(1000);
	}
	look();
	victim_check(!woken);
	victim_check(timerfd_gettime(timer, &left) == 0);
	before = left.it_value.tv_sec + (last[0].tv_sec - (until.tv_sec - FAR_S));
	if (before < FAR_S - 2 || before > FAR_S + 2)
		victim_fail("a timer has %ld s left at %ld s, and was set to %ld s", left.it_value.tv_sec, last[0].tv_sec, until.tv_sec);
	return victim_ok();
}
