/* remote_test.c - threads that run batches for a tracer go on as their own when it is killed. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "freeze.h"

#define PAGE 4096ul
#define AREA_SIZE (1ul << 20)
#define THREADS 6
#define CALLS 200		/* in each batch */
#define KILLS 300
#define PATIENCE_S 30

struct shared {
	uint64_t laps[THREADS];
	uint64_t rounds;	/* of the tracers */
	char complaint[128];
};

static struct shared *shared;
static void *area_at;
static int pipe_fds[2];

static void nap(long us)
{
	nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL);
}

static void complain(const char *what, long detail)
{
	snprintf(shared->complaint, sizeof(shared->complaint), "%s (%ld)", what, detail);
	_exit(1);
}

/* Integer and floating-point work whose every lap has the same result. */
static double work(void)
{
	uint64_t hash = 1469598103934665603ull;
	double sum = 0;

	for (int i = 1; i < 20000; i++) {
		hash = (hash ^ i) * 1099511628211ull;
		sum += 1.0 / i + (hash >> 60);
	}
	return sum;
}

/* Spins with a value of its own in each register but rsp, and looks if all are still there: 0 if so. */
static uint64_t spin(void)
{
	uint64_t wrong;

	__asm__ volatile(
		"sub $128, %%rsp\n push %%rbp\n push %%rbx\n"
		"mov $1, %%ebx\n mov $2, %%ecx\n mov $3, %%edx\n mov $4, %%esi\n mov $5, %%edi\n mov $6, %%ebp\n"
		"mov $8, %%r8d\n mov $9, %%r9d\n mov $10, %%r10d\n mov $11, %%r11d\n mov $12, %%r12d\n"
		"mov $13, %%r13d\n mov $14, %%r14d\n mov $15, %%r15d\n mov $100000, %%eax\n"
		"1: dec %%rax\n jnz 1b\n"
		"xor $1, %%rbx\n xor $2, %%rcx\n xor $3, %%rdx\n xor $4, %%rsi\n xor $5, %%rdi\n xor $6, %%rbp\n"
		"xor $8, %%r8\n xor $9, %%r9\n xor $10, %%r10\n xor $11, %%r11\n xor $12, %%r12\n"
		"xor $13, %%r13\n xor $14, %%r14\n xor $15, %%r15\n"
		"or %%rbx, %%rax\n or %%rcx, %%rax\n or %%rdx, %%rax\n or %%rsi, %%rax\n or %%rdi, %%rax\n"
		"or %%rbp, %%rax\n or %%r8, %%rax\n or %%r9, %%rax\n or %%r10, %%rax\n or %%r11, %%rax\n"
		"or %%r12, %%rax\n or %%r13, %%rax\n or %%r14, %%rax\n or %%r15, %%rax\n"
		"pop %%rbx\n pop %%rbp\n add $128, %%rsp\n"
		: "=a"(wrong) : : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc",
		"memory");
	return wrong;
}

static void *thread(void *arg)
{
	size_t n = (size_t)arg;
	const double expected = work();
	sigset_t mine, now;

	sigemptyset(&mine);
	sigaddset(&mine, SIGUSR1);
	if (n % 2)
		sigaddset(&mine, SIGURG);
	pthread_sigmask(SIG_SETMASK, &mine, NULL);
	for (;;) {
		struct timespec rest = { .tv_nsec = 3000000 };
		char c;
		int err;

		switch (n % 3) {
		case 0:
			if (work() != expected)
				complain("a computation gave another result", n);
			if (spin())
				complain("a register has another value", n);
			break;
		case 1:
			err = clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
			if (err)
				complain("a sleep was cut short", err);
			break;
		case 2:
			if (read(pipe_fds[0], &c, 1) != 1)
				complain("a read was cut short", errno);
			break;
		}
		pthread_sigmask(0, NULL, &now);
		if (memcmp(&mine, &now, 8))
			complain("another signal mask", n);
		__atomic_add_fetch(&shared->laps[n], 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void subject(void)
{
	pthread_t id;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t n = 1; n < THREADS; n++)
		pthread_create(&id, NULL, thread, (void *)n);
	thread(0);
}

static void noise(pid_t pid)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		nap(100);
		kill(pid, SIGURG);
	}
}

/* Runs batches in all threads until it is killed. */
static void tracer(pid_t pid)
{
	struct phaul_error err;
	struct remote_area area;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (remote_area_adopt(pid, (remote_addr)area_at, AREA_SIZE, &area))
		complain("no area", 0);
	for (;;) {
		struct remote remotes[THREADS];
		struct batch batches[THREADS];
		struct frozen f;

		if (freeze(pid, 5000, &f, &err))
			complain(err.what, err.code);
		remote_area_reset(&area);
		for (size_t i = 0; i < f.count; i++) {
			remote_begin_with(&remotes[i], f.threads[i].tid, 0, &f.threads[i].regs, f.threads[i].mask);
			if (batch_begin(&batches[i], &area, &remotes[i], CALLS))
				complain("no room for a batch", i);
			for (int call = 0; call < CALLS; call++)
				batch_call(&batches[i], "tell its id", SYS_gettid);
		}
		if (batch_run(batches, f.count, &err))
			complain(err.what, err.code);
		for (size_t i = 0; i < f.count; i++) {
			for (int call = 0; call < CALLS; call++)
				if (batch_result(&batches[i], call) != f.threads[i].tid)
					complain("a call has no answer", batch_result(&batches[i], call));
			batch_free(&batches[i]);
			remote_end(&remotes[i]);
		}
		thaw(&f);
		__atomic_add_fetch(&shared->rounds, 1, __ATOMIC_RELAXED);
		nap(50);
	}
}

static int child(void (*run)(pid_t), pid_t arg)
{
	pid_t pid = fork();

	if (pid == 0) {
		run(arg);
		_exit(0);
	}
	return pid;
}

static void run_subject(pid_t unused)
{
	(void)unused;
	subject();
}

/* Every thread makes progress, without a complaint. */
static int goes_on(pid_t pid)
{
	uint64_t before[THREADS];
	size_t n = 0;

	memcpy(before, shared->laps, sizeof(before));
	for (time_t end = time(NULL) + PATIENCE_S; n < THREADS && time(NULL) < end; ) {
		int status;

		if (waitpid(pid, &status, WNOHANG) == pid) {
			printf("the process ended, %s %d; %s\n", WIFSIGNALED(status) ? "by signal" : "exit",
			       WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), shared->complaint);
			return 0;
		}
		if (n % 3 == 2 && write(pipe_fds[1], "", 1) != 1)
			return 0;
		if (__atomic_load_n(&shared->laps[n], __ATOMIC_RELAXED) != before[n])
			n++;
		else
			nap(100);
	}
	if (n < THREADS)
		printf("thread %zu stands still\n", n);
	return n == THREADS && !shared->complaint[0];
}

/* Even if all those that do nothing by default are pending. */
static int end_signal_is_not_pending(void)
{
	uint64_t pending = 1ull << (SIGURG - 1) | 1ull << (SIGWINCH - 1) | 1ull << (SIGCHLD - 1) | 1ull << (SIGRTMAX - 1);
	struct remote r;

	remote_choose_signal(&r, 0, pending);
	if (1ull << (r.end_signal - 1) & pending)
		printf("batches would end with signal %d, which is pending\n", r.end_signal);
	return !(1ull << (r.end_signal - 1) & pending);
}

int main(void)
{
	pid_t pid, noisy;
	int ok;

	if (!end_signal_is_not_pending())
		return 1;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	area_at = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || area_at == MAP_FAILED || mprotect(area_at, PAGE, PROT_READ | PROT_EXEC) ||
	    pipe(pipe_fds))
		return 1;
	pid = child(run_subject, 0);
	noisy = child(noise, pid);
	ok = goes_on(pid);
	srand(1);
	for (int kills = 0; ok && kills < KILLS; kills++) {
		uint64_t rounds = __atomic_load_n(&shared->rounds, __ATOMIC_RELAXED);
		pid_t t = child(tracer, pid);

		/* At least one round, and then at any moment of one. */
		for (time_t end = time(NULL) + PATIENCE_S; time(NULL) < end && !shared->complaint[0] &&
		     __atomic_load_n(&shared->rounds, __ATOMIC_RELAXED) == rounds; )
			nap(100);
		nap(rand() % 1500);
		kill(t, SIGKILL);
		waitpid(t, NULL, 0);
		ok = !shared->complaint[0] && goes_on(pid);
		if (!ok)
			printf("after %d kills: %s\n", kills + 1, shared->complaint);
	}
	kill(noisy, SIGKILL);
	kill(pid, SIGKILL);
	while (wait(NULL) > 0)
		;
	return !ok;
}
