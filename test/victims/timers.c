/* timers.c - REPORT: timers of every kind, running, disarmed and expired, compared with what they should be by a
 * clock that both hosts share.
 */
#include <math.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#include "victim.h"

#define SLACK_S 1.0
#define FAR_S 5000
#define TICKING_S 0.2
#define POSIX 7

static volatile int ticks, thread_ticks, calls;
static timer_t posix[POSIX];
static pid_t thread_tid;
static volatile int thread_ends;

static void tick(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	if (info->si_value.sival_int == 77)
		ticks++;
	else if (info->si_value.sival_int == 78 && syscall(SYS_gettid) == thread_tid)
		thread_ticks++;
}

static void *thread(void *arg)
{
	(void)arg;
	thread_tid = syscall(SYS_gettid);
	while (!thread_ends)
		usleep(1000);
	return NULL;
}

/* In a thread of its own each time, which a thread of the C library starts. */
static void call(union sigval value)
{
	if (value.sival_int == 79)
		__sync_fetch_and_add(&calls, 1);
}

static double seconds(struct timespec t)
{
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void expect(const char *what, double is, double should)
{
	if (fabs(is - should) > SLACK_S)
		victim_fail("%s: %.3f s instead of %.3f", what, is, should);
}

static timer_t make(clockid_t clock, int notify, int value, double first, double interval)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = value };
	struct itimerspec spec = {
		.it_value = { first, fmod(first, 1) * 1e9 }, .it_interval = { interval, fmod(interval, 1) * 1e9 },
	};
	timer_t timer;

	if (notify == SIGEV_THREAD_ID)
		event._sigev_un._tid = thread_tid;
	if (notify == SIGEV_THREAD)
		event.sigev_notify_function = call;
	victim_check(timer_create(clock, &event, &timer) == 0);
	victim_check(timer_settime(timer, 0, &spec, NULL) == 0);
	return timer;
}

/* ---- of POSIX ---- */

static void start_posix(void)
{
	posix[0] = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, 77, 0.01, 0.01);
	posix[1] = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, 78, 0.01, 0.01);
	posix[2] = make(CLOCK_REALTIME, SIGEV_NONE, 0, FAR_S, 7);
	timer_delete(make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 1, 0));	/* leaves a gap in the ids */
	posix[3] = make(CLOCK_BOOTTIME, SIGEV_NONE, 0, FAR_S, 0);
	posix[4] = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);		/* disarmed */
	posix[5] = make(CLOCK_PROCESS_CPUTIME_ID, SIGEV_NONE, 0, FAR_S, 0);
	posix[6] = make(CLOCK_MONOTONIC, SIGEV_THREAD, 79, 0.05, 0.05);
}

static void check_posix(double passed)
{
	struct itimerspec spec;

	victim_check(timer_gettime(posix[0], &spec) == 0);
	victim_check(spec.it_interval.tv_sec == 0 && spec.it_interval.tv_nsec == 10000000);
	victim_check(timer_gettime(posix[2], &spec) == 0);
	expect("a timer of the wall clock", seconds(spec.it_value), FAR_S - passed);
	victim_check(spec.it_interval.tv_sec == 7);
	victim_check(timer_gettime(posix[3], &spec) == 0);
	expect("a timer of the boot clock", seconds(spec.it_value), FAR_S - passed);
	victim_check(timer_gettime(posix[4], &spec) == 0 && !spec.it_value.tv_sec && !spec.it_value.tv_nsec);
	victim_check(timer_gettime(posix[5], &spec) == 0);
	/* Of the process's own time, of which hardly any has passed; it starts again on the target. */
	expect("a timer of CPU time", seconds(spec.it_value), FAR_S);
	/* The ids go on where they were. */
	victim_check(make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0) != posix[3]);
}

/* Those that run do so. */
static void check_ticks(uint64_t start, double passed)
{
	int before = ticks, thread_before = thread_ticks, calls_before = calls;

	while ((victim_now_ns() - start) / 1e9 < passed + TICKING_S)	/* ticks end each sleep */
		usleep(1000);
	victim_check(ticks > before && thread_ticks > thread_before && calls > calls_before);
}

/* ---- interval timers ---- */

static void start_intervals(void)
{
	setitimer(ITIMER_REAL, &(struct itimerval){ { 11, 0 }, { FAR_S, 0 } }, NULL);
	setitimer(ITIMER_VIRTUAL, &(struct itimerval){ { 12, 0 }, { FAR_S, 0 } }, NULL);
	setitimer(ITIMER_PROF, &(struct itimerval){ { 13, 0 }, { FAR_S, 0 } }, NULL);
}

static void check_intervals(double passed)
{
	struct itimerval old;

	getitimer(ITIMER_REAL, &old);
	expect("ITIMER_REAL", old.it_value.tv_sec + old.it_value.tv_usec / 1e6, FAR_S - passed);
	victim_check(old.it_interval.tv_sec == 11);
	getitimer(ITIMER_VIRTUAL, &old);
	expect("ITIMER_VIRTUAL", old.it_value.tv_sec, FAR_S);
	victim_check(old.it_interval.tv_sec == 12);
	getitimer(ITIMER_PROF, &old);
	expect("ITIMER_PROF", old.it_value.tv_sec, FAR_S);
	victim_check(old.it_interval.tv_sec == 13);
}

/* ---- descriptors ---- */

static int relative, expired, absolute;

static void start_descriptors(void)
{
	struct itimerspec spec = {0};

	relative = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	timerfd_settime(relative, 0, &(struct itimerspec){ { 9, 0 }, { FAR_S, 0 } }, NULL);
	expired = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
	timerfd_settime(expired, 0, &(struct itimerspec){ { 0, 20000000 }, { 0, 1000000 } }, NULL);
	absolute = timerfd_create(CLOCK_BOOTTIME, 0);
	clock_gettime(CLOCK_BOOTTIME, &spec.it_value);
	spec.it_value.tv_sec += FAR_S;
	timerfd_settime(absolute, TFD_TIMER_ABSTIME, &spec, NULL);
}

static void check_descriptors(double passed)
{
	struct itimerspec spec;
	uint64_t count;

	timerfd_gettime(relative, &spec);
	expect("a relative timerfd", seconds(spec.it_value), FAR_S - passed);
	victim_check(spec.it_interval.tv_sec == 9 && read(relative, &count, 8) < 0);
	timerfd_gettime(absolute, &spec);
	expect("an absolute timerfd", seconds(spec.it_value), FAR_S - passed);
	victim_check(read(expired, &count, 8) == 8);
	expect("expirations of a timerfd", count / 50.0, (passed + TICKING_S) / 0.02 / 50);
	victim_check(fcntl(relative, F_GETFL) & O_NONBLOCK && fcntl(relative, F_GETFD) == FD_CLOEXEC);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = tick, .sa_flags = SA_SIGINFO | SA_RESTART };
	pthread_t other;
	uint64_t start;
	double passed;

	victim_begin(argc, argv);
	sigaction(SIGRTMIN + 1, &action, NULL);
	victim_check(pthread_create(&other, NULL, thread, NULL) == 0);
	while (!thread_tid)
		usleep(1000);
	start = victim_now_ns();
	start_posix();
	start_intervals();
	start_descriptors();
	while (victim_now_ns() - start < 200000000)
		usleep(1000);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	passed = (victim_now_ns() - start) / 1e9;
	check_ticks(start, passed);
	check_posix(passed);
	check_intervals(passed);
	check_descriptors(passed);
	thread_ends = 1;
	pthread_join(other, NULL);
	return victim_ok();
}
