/* settings.c - REPORT: what a process and each of its threads are set to, beside credentials: scheduling of every class, CPUs, I/O
 * priority, timer slack, membarrier, user of the login, signals for the death of the parent, credentials that threads have of their own,
 * securebits, the OOM killer's score, whose children orphans become, memory that grows, clocks that never go back.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "victim.h"

#define THREADS 5
#define SIZE 2048
#define GETS_REGISTRATIONS (1 << 9)
#define PAGE 4096

struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static char before[THREADS + 1][SIZE], after[SIZE];
static volatile int at_work, ends;
static struct timespec last[3];
static const clockid_t clocks[3] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW };

static void add(char *to, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(to + strlen(to), SIZE - strlen(to), format, args);
	va_end(args);
}

static void describe(char *to)
{
	struct attributes a = { .size = sizeof(a) };
	uint64_t cpus[16] = { 0 };
	uint32_t user[3], caps[6] = { 0 }, head[2] = { _LINUX_CAPABILITY_VERSION_3 };
	int signal = 0;

	*to = 0;
	victim_check(syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) == 0);
	add(to, "policy %u flags %lx nice %d priority %u of %lu %lu %lu; ", a.policy, a.flags, a.nice, a.priority, a.runtime, a.deadline, a.period);
	victim_check(syscall(SYS_sched_getaffinity, 0, sizeof(cpus), cpus) > 0);
	add(to, "CPUs %lx; I/O priority %lx; ", cpus[0], syscall(SYS_ioprio_get, 1, 0));
	add(to, "slack %d; ", prctl(PR_GET_TIMERSLACK));
	prctl(PR_GET_PDEATHSIG, &signal);
	add(to, "death %d; ", signal);
	syscall(SYS_getresuid, &user[0], &user[1], &user[2]);
	syscall(SYS_capget, head, caps);
	add(to, "user %u %u %u %d; capabilities %x %x %x; ", user[0], user[1], user[2], setfsuid(-1), caps[0], caps[1], caps[2]);
	add(to, "bounded %d ambient %d securebits %x privileges %d", prctl(PR_CAPBSET_READ, CAP_WAKE_ALARM),
	    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0), prctl(PR_GET_SECUREBITS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void schedule(int policy, int priority)
{
	struct attributes a = { .size = sizeof(a), .policy = policy, .priority = priority };

	if (policy == 6) {	/* SCHED_DEADLINE */
		a.runtime = 1000000;
		a.deadline = 10000000;
		a.period = 20000000;
	}
	/* Where the host gives none to its groups there is none to be moved. */
	(void)syscall(SYS_sched_setattr, 0, &a, 0);
}

static void give_up_capabilities(void)
{
	uint32_t head[2] = { _LINUX_CAPABILITY_VERSION_3 }, caps[6];

	victim_check(syscall(SYS_capget, head, caps) == 0);
	caps[0] = caps[1] = 1 << CAP_KILL | 1 << CAP_NET_RAW | 1 << CAP_SETPCAP;
	caps[2] = 1 << CAP_KILL;
	caps[3] = caps[4] = caps[5] = 0;
	victim_check(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED) == 0);
	victim_check(prctl(PR_CAPBSET_DROP, CAP_WAKE_ALARM) == 0 && syscall(SYS_capset, head, caps) == 0);
	victim_check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
	victim_check(prctl(PR_SET_SECUREBITS, prctl(PR_GET_SECUREBITS) | SECBIT_NO_CAP_AMBIENT_RAISE) == 0);
}

static void *thread(void *arg)
{
	long which = (long)arg;
	cpu_set_t one;

	CPU_ZERO(&one);
	switch (which) {
	case 0:
		schedule(SCHED_FIFO, 3);
		CPU_SET(0, &one);
		victim_check(sched_setaffinity(0, sizeof(one), &one) == 0);
		break;
	case 1:
		schedule(SCHED_RR, 2);
		prctl(PR_SET_TIMERSLACK, 123456);
		break;
	case 2:
		schedule(6, 0);
		break;
	case 3:
		schedule(SCHED_IDLE, 0);
		victim_check(syscall(SYS_ioprio_set, 1, 0, 3 << 13) == 0);	/* when nobody else wants the disk */
		/* Of this thread alone, as servers of files do it. */
		victim_check(syscall(SYS_setresuid, -1, 1234, -1) == 0);
		break;
	default:
		give_up_capabilities();
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	}
	describe(before[which]);
	__sync_fetch_and_add(&at_work, 1);
	while (ends <= which)
		usleep(1000);
	describe(after);
	if (strcmp(before[which], after))
		victim_fail("thread %ld: %.190s instead of %.190s", which, after, before[which]);
	return NULL;
}

/* One thread after the other, as they share `after`. */
static void compare_threads(pthread_t *threads)
{
	for (int i = 0; i < THREADS; i++) {
		ends = i + 1;
		pthread_join(threads[i], NULL);
	}
}

static void look_at_clocks(void)
{
	for (int i = 0; i < 3; i++) {
		struct timespec now;

		victim_check(clock_gettime(clocks[i], &now) == 0);
		if (now.tv_sec < last[i].tv_sec || (now.tv_sec == last[i].tv_sec && now.tv_nsec < last[i].tv_nsec))
			victim_fail("clock %d went back from %ld.%09ld to %ld.%09ld", clocks[i], last[i].tv_sec, last[i].tv_nsec, now.tv_sec,
				    now.tv_nsec);
		last[i] = now;
	}
}

static unsigned login(void)
{
	unsigned uid = 0;
	FILE *f = fopen("/proc/self/loginuid", "r");

	if (f && fscanf(f, "%u", &uid) != 1)
		uid = 0;
	if (f)
		fclose(f);
	return uid;
}

static int oom_score(void)
{
	FILE *f = fopen("/proc/self/oom_score_adj", "r");
	int score = 0;

	victim_check(f && fscanf(f, "%d", &score) == 1 && !fclose(f));
	return score;
}

static void set_oom_score(int score)
{
	FILE *f = fopen("/proc/self/oom_score_adj", "w");

	victim_check(f && fprintf(f, "%d", score) > 0 && !fclose(f));
}

/* Its own child becomes ours when it ends. */
static pid_t fork_twice(void)
{
	pid_t us = getpid(), child = fork();

	victim_check(child >= 0);
	if (child)
		return child;
	signal(SIGTERM, SIG_DFL);
	child = getpid();
	set_oom_score(765);
	if (!fork()) {
		while (getppid() == child)
			usleep(1000);
		_exit(getppid() == us && oom_score() == 765 ? 0 : 1);
	}
	for (;;)
		pause();
}

static void adopt(pid_t child)
{
	int status;

	victim_check(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
	victim_check(waitpid(-1, &status, 0) > 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		victim_fail("an orphan came to somebody else, or had another OOM score (%x)", status);
}

/* As the stack of the main thread does, pages come below it. */
static void grow(char *at)
{
	at[-PAGE] = 'g';
	victim_check(at[-PAGE] == 'g');
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	int barriers, fd, dead = 0;
	unsigned user;
	char *growing;
	pid_t child, parent;

	victim_begin(argc, argv);
	fd = open("/proc/self/loginuid", O_WRONLY);
	if (fd >= 0 && write(fd, "1000", 4) < 0)
		dead = 0;	/* without auditing */
	close(fd);
	user = login();
	victim_check(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0) == 0);
	victim_check(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0) == 0);
	barriers = syscall(SYS_membarrier, GETS_REGISTRATIONS, 0);
	victim_check(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0);
	growing = mmap(NULL, 64 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	victim_check(munmap(growing, 64 * PAGE) == 0);
	growing = mmap(growing + 60 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	victim_check(growing != MAP_FAILED);
	grow(growing);
	for (long i = 0; i < THREADS; i++)
		victim_check(pthread_create(&threads[i], NULL, thread, (void *)i) == 0);
	child = fork();
	victim_check(child >= 0);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGUSR2);
		__atomic_store_n(&dead, 1, __ATOMIC_SEQ_CST);
		signal(SIGTERM, SIG_DFL);
		raise(SIGSTOP);
		/* Told to go on when it shall say what it has. */
		describe(after);
		_exit(strstr(after, "death 12;") ? 0 : 1);
	}
	while (at_work < THREADS)
		usleep(1000);
	victim_check(waitpid(child, &dead, WUNTRACED) == child && WIFSTOPPED(dead));
	victim_check(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 && prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS_LOCKED) == 0);
	set_oom_score(432);
	parent = fork_twice();
	describe(before[THREADS]);
	look_at_clocks();
	victim_ready();
	while (victim_tick()) {
		look_at_clocks();
		usleep(1000);
	}

	look_at_clocks();
	compare_threads(threads);
	describe(after);
	if (strcmp(before[THREADS], after))
		victim_fail("%.190s instead of %.190s", after, before[THREADS]);
	if (syscall(SYS_membarrier, GETS_REGISTRATIONS, 0) != barriers)
		victim_fail("registered for membarrier as %lx, not %x", syscall(SYS_membarrier, GETS_REGISTRATIONS, 0), barriers);
	if (login() != user)
		victim_fail("the user of the login is %u, not %u", login(), user);
	grow(growing - PAGE);
	victim_check(waitpid(child, &dead, WNOHANG) == 0);
	kill(child, SIGCONT);
	victim_check(waitpid(child, &dead, 0) == child);
	if (!WIFEXITED(dead) || WEXITSTATUS(dead))
		victim_fail("the stopped child lost its signal for the death of its parent (%x)", dead);
	victim_check(oom_score() == 432 && prctl(PR_GET_CHILD_SUBREAPER, &dead) == 0 && dead == 1);
	adopt(parent);
	return victim_ok();
}
