/* locks.c - locks on files: flock(2), of a process and of an open file description (fcntl), of parts, for reading; given on
 * by fork. All in a directory beside the report.
 */
#include <errno.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "victim.h"

static int file(const char *name)
{
	int fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);

	victim_check(fd >= 0 && write(fd, "0123456789", 10) == 10);
	return fd;
}

/* Would another process get this lock? */
static int is_free(const char *name, int kind, int type, int start, int len)
{
	struct flock lock = { .l_type = type, .l_start = start, .l_len = len };
	int status;
	pid_t pid = fork();

	if (!pid) {
		int fd = open(name, O_RDWR);

		if (kind == LOCK_EX)
			_exit(flock(fd, (type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB) ? 1 : 0);
		_exit(fcntl(fd, kind, &lock) ? 1 : 0);
	}
	waitpid(pid, &status, 0);
	return WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv)
{
	struct flock part = { .l_type = F_WRLCK, .l_start = 2, .l_len = 3 }, all = { .l_type = F_WRLCK };
	struct flock reading = { .l_type = F_RDLCK, .l_start = 7 };
	int exclusive, shared, posix, ofd;
	char place[PATH_MAX];
	pid_t child;

	victim_begin(argc, argv);
	snprintf(place, sizeof(place), "%s.files", victim_path);
	victim_check(mkdir(place, 0700) == 0 && chdir(place) == 0);
	exclusive = file("exclusive");
	shared = file("shared");
	posix = file("posix");
	ofd = file("ofd");
	victim_check(flock(exclusive, LOCK_EX) == 0 && flock(shared, LOCK_SH) == 0);
	victim_check(fcntl(posix, F_SETLK, &part) == 0 && fcntl(posix, F_SETLK, &reading) == 0 && fcntl(ofd, F_OFD_SETLK, &all) == 0);
	child = fork();
	if (!child) {
		/* It has the same descriptions, and with them all locks but those of its parent alone. */
		close(posix);
		for (;;)
			pause();
	}

	victim_ready();
	while (victim_tick())
		usleep(1000);

	victim_check(!is_free("exclusive", LOCK_EX, F_RDLCK, 0, 0));
	victim_check(!is_free("shared", LOCK_EX, F_WRLCK, 0, 0) && is_free("shared", LOCK_EX, F_RDLCK, 0, 0));
	victim_check(is_free("posix", F_SETLK, F_WRLCK, 0, 2) && !is_free("posix", F_SETLK, F_RDLCK, 4, 1));
	victim_check(is_free("posix", F_SETLK, F_WRLCK, 5, 2) && is_free("posix", F_SETLK, F_RDLCK, 7, 0) &&
		     !is_free("posix", F_SETLK, F_WRLCK, 100, 1));
	victim_check(!is_free("ofd", F_OFD_SETLK, F_RDLCK, 0, 0));
	close(exclusive);
	close(ofd);
	victim_check(!is_free("exclusive", LOCK_EX, F_RDLCK, 0, 0) && !is_free("ofd", F_OFD_SETLK, F_RDLCK, 0, 0));
	kill(child, SIGKILL);
	victim_check(waitpid(child, NULL, 0) == child);
	victim_check(is_free("exclusive", LOCK_EX, F_WRLCK, 0, 0) && is_free("ofd", F_OFD_SETLK, F_WRLCK, 0, 0));
	close(posix);
	victim_check(is_free("posix", F_SETLK, F_WRLCK, 0, 0));
	return victim_ok();
}
