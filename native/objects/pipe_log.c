/* pipe_log.c - who reads a pipe on the target whose reader stayed on the source: a process that
 * appends all of it to a file, and ends with the pipe. It is init's child from the start. */
#include "pipe_log.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE (64 * 1024)

struct reader {
	int pipe, log;
	char *stack;
	int *err;
};

void pipe_log_path(char *ret, size_t size, pid_t pid, int number)
{
	snprintf(ret, size, PIPE_LOG_DIRECTORY "/%d.fd%d.log", pid, number);
}

/* The memory is the caller's, and so is errno: the calls are few, and all handlers are dropped
 * before a signal can come. */
static int become_cat(void *argument)
{
	const struct reader *r = argument;
	int pipe, log, null;
	static char *const words[] = { "cat", NULL }, *const nothing[] = { NULL };
	sigset_t none;

	setsid();
	for (int signal = 1; signal < NSIG; signal++)
		if (signal != SIGKILL && signal != SIGSTOP)
			syscall(SYS_rt_sigaction, signal, &(unsigned long[4]){ 0 }, NULL, 8);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* First out of the way of the numbers that they get. */
	pipe = fcntl(r->pipe, F_DUPFD, 3);
	log = fcntl(r->log, F_DUPFD, 3);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (pipe < 0 || log < 0 || null < 0 || dup2(pipe, 0) < 0 || dup2(log, 1) < 0 ||
	    dup2(null, 2) < 0 || syscall(SYS_close_range, 3, ~0u, 0) < 0 || chdir("/") < 0 ||
	    execve("/bin/cat", words, nothing) < 0)
		*r->err = -errno;
	return 1;
}

static int hand_to_init(void *argument)
{
	const struct reader *r = argument;

	if (clone(become_cat, r->stack + STACK_SIZE, CLONE_VM | CLONE_VFORK | SIGCHLD,
		  (void *)r) < 0)
		*r->err = -errno;
	return 0;
}

/* Two generations, so that the reader is never our zombie; no exit signal, so that nobody who waits
 * for children in this process learns of the first; no copy of our memory, as this happens in the
 * freeze. */
static int start(struct reader *r)
{
	int err = 0;
	char *stacks = mmap(NULL, 2 * STACK_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	sigset_t all, before;
	pid_t pid;

	if (stacks == MAP_FAILED)
		return -errno;
	r->stack = stacks;
	r->err = &err;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	pid = clone(hand_to_init, stacks + 2 * STACK_SIZE, CLONE_VM | CLONE_VFORK, r);
	if (pid < 0)
		err = -errno;
	else
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	munmap(stacks, 2 * STACK_SIZE);
	return err;
}

int pipe_log_start(int pipe, const char *path)
{
	struct reader r = { .pipe = pipe };
	int err;

	if (mkdir(PIPE_LOG_DIRECTORY, 0700) < 0 && errno != EEXIST)
		return -errno;
	r.log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (r.log < 0)
		return -errno;
	err = start(&r);
	close(r.log);
	return err;
}
