/* fifos.c - named pipes: with something in one, whose both ends a child and its parent have; one for reading that nobody
 * writes yet; and one open for both, with flags. All in a directory beside the report.
 */
#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "victim.h"

#define MOST 70000

static volatile sig_atomic_t told;

static void tell(int signal, siginfo_t *info, void *unused)
{
	(void)unused;
	told = signal == SIGUSR1 ? info->si_fd : -1;
}

int main(int argc, char **argv)
{
	static char pattern[MOST], got[MOST];
	struct sigaction action = { .sa_sigaction = tell, .sa_flags = SA_RESTART | SA_SIGINFO };
	int reader, writer, alone, both;
	char place[PATH_MAX];
	pid_t child;

	victim_begin(argc, argv);
	snprintf(place, sizeof(place), "%s.files", victim_path);
	victim_check(mkdir(place, 0700) == 0 && chdir(place) == 0);
	victim_check(mkfifo("full", 0600) == 0 && mkfifo("alone", 0600) == 0 && mkfifo("both", 0640) == 0);
	for (size_t i = 0; i < MOST; i++)
		pattern[i] = i * 7 + i / 251;
	alone = open("alone", O_RDONLY | O_NONBLOCK);
	both = open("both", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	reader = open("full", O_RDONLY | O_NONBLOCK);
	writer = open("full", O_WRONLY);
	/* The descriptor whose pipe has something is told by a signal. */
	victim_check(!sigaction(SIGUSR1, &action, NULL) && !fcntl(alone, F_SETOWN, getpid()) && !fcntl(alone, F_SETSIG, SIGUSR1) &&
		     !fcntl(alone, F_SETFL, O_NONBLOCK | O_ASYNC));
	victim_check(alone >= 0 && both >= 0 && reader >= 0 && writer >= 0);
	victim_check(fcntl(writer, F_SETPIPE_SZ, 1 << 17) == 1 << 17 && write(writer, pattern, MOST) == MOST);
	child = fork();
	if (!child) {
		char byte;

		close(reader);
		/* Told by the other pipe, it writes one more. */
		close(open("both", O_RDONLY | O_NONBLOCK));
		victim_check(fcntl(both, F_SETFL, O_RDWR) == 0);
		if (read(both, &byte, 1) == 1 && write(writer, "end", 3) == 3)
			_exit(7);
		_exit(1);
	}
	close(writer);

	victim_ready();
	while (victim_tick())
		usleep(1000);

	victim_check(fcntl(reader, F_GETPIPE_SZ) == 1 << 17 && fcntl(reader, F_GETFL) == (O_RDONLY | O_NONBLOCK | 0100000));
	victim_check(read(reader, got, MOST) == MOST && !memcmp(got, pattern, MOST));
	victim_check(read(reader, got, 1) < 0 && errno == EAGAIN);
	victim_check(read(alone, got, 1) == 0);
	victim_check(write(both, "x", 1) == 1);
	victim_check(waitpid(child, (int *)got, 0) == child && WEXITSTATUS(*(int *)got) == 7);
	victim_check(read(reader, got, MOST) == 3 && !memcmp(got, "end", 3));
	victim_check(read(reader, got, 1) == 0);
	/* Whoever opens it by name has the same one. */
	writer = open("alone", O_WRONLY | O_NONBLOCK);
	victim_check(writer >= 0 && write(writer, "new", 3) == 3 && read(alone, got, 10) == 3);
	victim_check(fcntl(alone, F_GETOWN) == getpid() && told == alone);
	return victim_ok();
}
