/* two-hosts-enter.c - runs a command inside a host of scripts/two-hosts, as ssh would but at once.
 *
 *	enter PID COMMAND [ARG...]		PID: the host's init
 *
 * nsenter(1) would do but for two things: it doesn't pass signals on, and the command keeps a working
 * directory of the mount namespace it came from, which no host could find again.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static const int passed_on[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH };
static const size_t passed_count = sizeof(passed_on) / sizeof(passed_on[0]);

static void fail(const char *what)
{
	fprintf(stderr, "two-hosts: %s: %s\n", what, strerror(errno));
	exit(126);
}

static void enter(pid_t init)
{
	char directory[PATH_MAX];
	int flags = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWTIME;
	int fd = syscall(SYS_pidfd_open, init, 0);

	if (fd < 0)
		fail("the host's init");
	if (!getcwd(directory, sizeof(directory)))
		strcpy(directory, "/root");
	if (setns(fd, flags) < 0)
		fail("the host's namespaces");
	close(fd);
	if (chdir(directory) < 0 && chdir("/root") < 0 && chdir("/") < 0)
		fail("chdir");
}

/* Keys pressed on a terminal reach the command by themselves, and come from the kernel. */
static void pass_on(pid_t child, const siginfo_t *info)
{
	if (info->si_code <= 0)
		kill(child, info->si_signo);
}

static int wait_for(pid_t child, const sigset_t *signals)
{
	siginfo_t info;
	int status;

	for (;;) {
		if (sigwaitinfo(signals, &info) < 0)
			continue;
		if (info.si_signo != SIGCHLD) {
			pass_on(child, &info);
			continue;
		}
		if (waitpid(child, &status, WNOHANG | WUNTRACED) <= 0)
			continue;
		if (WIFEXITED(status))
			return WEXITSTATUS(status);
		if (WIFSIGNALED(status))
			return 128 + WTERMSIG(status);
		raise(SIGSTOP);
		kill(child, SIGCONT);
	}
}

int main(int argc, char **argv)
{
	sigset_t signals, before;
	pid_t child;

	if (argc < 3) {
		fprintf(stderr, "usage: enter PID COMMAND [ARG...]\n");
		return 2;
	}
	enter(atoi(argv[1]));

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	for (size_t i = 0; i < passed_count; i++)
		sigaddset(&signals, passed_on[i]);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_BLOCK, &signals, &before);

	child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		sigprocmask(SIG_SETMASK, &before, NULL);
		execvp(argv[2], argv + 2);
		int code = errno == ENOENT ? 127 : 126;

		fprintf(stderr, "two-hosts: %s: %s\n", argv[2], strerror(errno));
		_exit(code);
	}
	return wait_for(child, &signals);
}
