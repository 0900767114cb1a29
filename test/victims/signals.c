/* signals.c - REPORT: handlers of every kind, signals that are pending for the process and for a thread, masks,
 * a thread in its handler on a stack of its own.
 */
#include <pthread.h>
#include <stdbool.h>
#include <sys/syscall.h>

#include "victim.h"

#define STACK (64 << 10)

struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

static struct kernel_action before[65], after[65];
static volatile int caught[65], values[8], value_count;
static volatile bool in_handler, leave_handler, end_thread;
static char stack[STACK];
static pthread_t other;

static void count(int signal)
{
	caught[signal]++;
}

static void keep(int signal, siginfo_t *info, void *context)
{
	(void)context;
	caught[signal]++;
	if (value_count < 8)
		values[value_count++] = info->si_value.sival_int;
}

/* On the signal stack, over the move. */
static void stay(int signal)
{
	volatile char here[128];

	(void)signal;
	here[0] = 42;
	in_handler = true;
	while (!leave_handler)
		usleep(1000);
	if ((char *)here < stack || (char *)here > stack + STACK || here[0] != 42)
		victim_fail("the handler isn't on its stack any more");
	in_handler = false;
}

static void *waiter(void *arg)
{
	stack_t own = { .ss_sp = stack, .ss_size = STACK }, told;
	sigset_t set, now;

	(void)arg;
	sigaltstack(&own, NULL);
	sigfillset(&set);
	sigdelset(&set, SIGWINCH);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	pthread_sigmask(SIG_SETMASK, NULL, &set);	/* some can't be blocked */
	while (!end_thread)
		usleep(1000);
	victim_check(!in_handler);
	sigaltstack(NULL, &told);
	victim_check(told.ss_sp == stack && told.ss_size == STACK && !(told.ss_flags & (SS_DISABLE | SS_ONSTACK)));
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	victim_check(!memcmp(&set, &now, 8));
	sigpending(&now);
	victim_check(sigismember(&now, SIGRTMIN + 2) && sigismember(&now, SIGALRM) && !sigismember(&now, SIGUSR2));
	value_count = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);	/* the process's two and this thread's one */
	victim_check(caught[SIGRTMIN + 2] == 3);
	victim_check(values[0] + values[1] + values[2] == 7 + 8 + 9);
	return NULL;
}

static void read_actions(struct kernel_action *to)
{
	for (int i = 1; i <= 64; i++)
		syscall(SYS_rt_sigaction, i, NULL, &to[i], 8);
}

int main(int argc, char **argv)
{
	struct sigaction a = { .sa_sigaction = keep, .sa_flags = SA_SIGINFO | SA_NODEFER };
	sigset_t pending, blocked, now;

	victim_begin(argc, argv);
	sigaddset(&a.sa_mask, SIGHUP);
	sigaddset(&a.sa_mask, SIGRTMAX);
	sigaction(SIGRTMIN + 2, &a, NULL);
	sigaction(SIGRTMIN + 3, &(struct sigaction){ .sa_handler = count, .sa_flags = SA_RESETHAND }, NULL);
	sigaction(SIGWINCH, &(struct sigaction){ .sa_handler = stay, .sa_flags = SA_ONSTACK | SA_RESTART }, NULL);
	sigaction(SIGALRM, &(struct sigaction){ .sa_handler = count, .sa_flags = SA_NOCLDSTOP }, NULL);
	signal(SIGTRAP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGURG, SIG_DFL);
	victim_check(pthread_create(&other, NULL, waiter, NULL) == 0);
	usleep(50000);
	pthread_kill(other, SIGWINCH);
	while (!in_handler)
		usleep(1000);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN + 2);
	sigaddset(&blocked, SIGRTMIN + 3);
	sigaddset(&blocked, SIGALRM);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_int = 7 });
	sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_int = 8 });
	/* For the other thread alone; its handler runs, so that it can't tell yet. */
	victim_check(pthread_sigqueue(other, SIGRTMIN + 2, (union sigval){ .sival_int = 9 }) == 0);
	kill(getpid(), SIGALRM);
	read_actions(before);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	read_actions(after);
	for (int i = 1; i <= 64; i++)
		if (memcmp(&before[i], &after[i], sizeof(before[i])))
			victim_fail("the handler of signal %d is another one", i);
	sigpending(&pending);
	victim_check(sigismember(&pending, SIGRTMIN + 2) && sigismember(&pending, SIGALRM));
	sigprocmask(SIG_SETMASK, NULL, &now);
	victim_check(sigismember(&now, SIGRTMIN + 3) && !sigismember(&now, SIGHUP) && caught[SIGALRM] == 0);
	victim_check(in_handler);
	leave_handler = true;
	end_thread = true;
	pthread_join(other, NULL);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &blocked, NULL);
	victim_check(caught[SIGALRM] == 1);
	raise(SIGTRAP);
	sigaddset(&blocked, SIGRTMIN + 3);
	sigprocmask(SIG_UNBLOCK, &blocked, NULL);
	raise(SIGRTMIN + 3);
	victim_check(caught[SIGRTMIN + 3] == 1 && signal(SIGRTMIN + 3, SIG_DFL) == SIG_DFL);
	return victim_ok();
}
