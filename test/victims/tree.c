/* tree.c - a process with children: one in a session of its own that answers over pipes, one that is stopped, one
 * that has ended and is not waited for. They share an open file's position, and anonymous memory.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "victim.h"

#define ENDED_WITH 7

static int to_child[2], from_child[2], file;
static volatile int *shared;

/* Adds one to what is shared whenever it is told to. */
static void answer(void)
{
	char c;

	if (setsid() < 0)
		_exit(1);
	do {
		if (write(from_child[1], "", 1) != 1)
			_exit(2);
		if (read(to_child[0], &c, 1) != 1)
			_exit(3);
		(*shared)++;
	} while (write(file, "child ", 6) == 6);
	_exit(4);
}

static pid_t child(void (*run)(void))
{
	pid_t pid = fork();

	if (pid == 0) {
		if (run)
			run();
		_exit(ENDED_WITH);
	}
	return pid;
}

static void sleep_for_ever(void)
{
	for (;;)
		pause();
}

static void wait_for_state(pid_t pid, int how, int code)
{
	siginfo_t info = {0};

	if (waitid(P_PID, pid, &info, how | WNOWAIT) < 0 || info.si_pid != pid || info.si_code != code)
		victim_fail("child %d is in another state (code %d, %s)", pid, info.si_code, strerror(errno));
}

static void talk(int expected)
{
	char c;

	if (write(to_child[1], "", 1) != 1 || read(from_child[0], &c, 1) != 1)
		victim_fail("the child does not answer");
	if (*shared != expected)
		victim_fail("the child's writes to shared memory are not seen: %d", *shared);
}

int main(int argc, char **argv)
{
	char name[] = "/tmp/phaul-victim-tree.XXXXXX", c;
	pid_t talker, stopped, ended;
	int status;

	victim_begin(argc, argv);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	file = mkstemp(name);
	if (shared == MAP_FAILED || file < 0 || pipe(to_child) || pipe(from_child))
		victim_fail("setting up");
	talker = child(answer);
	stopped = child(sleep_for_ever);
	ended = child(NULL);
	kill(stopped, SIGSTOP);
	wait_for_state(stopped, WSTOPPED, CLD_STOPPED);
	wait_for_state(ended, WEXITED, CLD_EXITED);
	if (read(from_child[0], &c, 1) != 1)
		victim_fail("the child did not start");
	talk(1);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	talk(2);
	if (lseek(file, 0, SEEK_CUR) != 12)
		victim_fail("the position of the file is not shared: %ld", (long)lseek(file, 0, SEEK_CUR));
	unlink(name);
	if (getsid(talker) != talker || getsid(stopped) == stopped || getpgid(stopped) != getpgrp())
		victim_fail("another session or process group");
	if (waitpid(ended, &status, 0) != ended || !WIFEXITED(status) || WEXITSTATUS(status) != ENDED_WITH)
		victim_fail("the child that had ended is not there any more");
	if (waitpid(stopped, &status, WNOHANG) != 0)
		victim_fail("the stopped child has ended");
	kill(stopped, SIGKILL);
	kill(talker, SIGKILL);
	if (waitpid(stopped, NULL, 0) != stopped || waitpid(talker, NULL, 0) != talker)
		victim_fail("the children are another's");
	return victim_ok();
}
