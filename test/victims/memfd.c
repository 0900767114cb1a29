/* memfd.c - memory with the form of a file: sealed, mapped shared and privately, open twice, executable; shared with a
 * child over fork; and pidfds: of the child, of one that has ended, of the process itself.
 */
#include <errno.h>
#include <linux/memfd.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "victim.h"

#define SIZE (3 * 4096)

static int pidfd_of(pid_t pid)
{
	return syscall(SYS_pidfd_open, pid, 0);
}

static int is_readable(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, 0) == 1;
}

int main(int argc, char **argv)
{
	int memfd, again, sealed, of_child, of_dead, of_self;
	char path[64], *shared, *private;
	volatile char *common;
	struct stat a, b;
	pid_t child, dead;

	victim_begin(argc, argv);
	memfd = memfd_create("phaul", MFD_ALLOW_SEALING);
	victim_check(memfd >= 0 && ftruncate(memfd, SIZE + 100) == 0 && pwrite(memfd, "start", 5, 0) == 5);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", memfd);
	again = open(path, O_RDONLY);
	victim_check(again >= 0 && lseek(again, 7, SEEK_SET) == 7);
	shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, again, 0);
	victim_check(shared != MAP_FAILED && private != MAP_FAILED);
	strcpy(shared + 4096, "shared");
	strcpy(private + 8192, "private");
	victim_check(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
	sealed = memfd_create("script", MFD_ALLOW_SEALING);
	victim_check(write(sealed, "#!/bin/true\n", 12) == 12);
	victim_check(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL) == 0);
	common = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	child = fork();
	if (!child) {
		while (common[100] != 'q')
			usleep(1000);
		common[101] = 'a';
		for (;;)
			pause();
	}
	dead = fork();
	if (!dead)
		_exit(0);
	of_child = pidfd_of(child);
	of_dead = pidfd_of(dead);
	of_self = pidfd_of(getpid());
	victim_check(waitpid(dead, NULL, 0) == dead && of_child >= 0 && of_dead >= 0 && of_self >= 0);

	victim_ready();
	while (victim_tick())
		usleep(1000);

	victim_check(!strcmp(shared, "start") && !strcmp(shared + 4096, "shared") && !strcmp(private + 8192, "private"));
	victim_check(!strcmp(private, "start") && shared[8192] == 0 && lseek(again, 0, SEEK_CUR) == 7);
	victim_check(fstat(memfd, &a) == 0 && fstat(again, &b) == 0 && a.st_ino == b.st_ino && a.st_size == SIZE + 100);
	victim_check(fcntl(memfd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW) && ftruncate(memfd, 1) < 0);
	victim_check(fcntl(sealed, F_GET_SEALS) == (F_SEAL_WRITE | F_SEAL_SEAL) && write(sealed, "x", 1) < 0);
	common[100] = 'q';
	while (common[101] != 'a')
		usleep(1000);
	victim_check(pwrite(memfd, "S", 1, 0) == 1 && shared[0] == 'S' && common[0] == 'S');
	victim_check(!is_readable(of_child) && is_readable(of_dead) && !is_readable(of_self));
	victim_check(syscall(SYS_pidfd_send_signal, of_dead, 0, NULL, 0) < 0 && errno == ESRCH);
	victim_check(syscall(SYS_pidfd_send_signal, of_child, SIGKILL, NULL, 0) == 0);
	victim_check(waitpid(child, NULL, 0) == child && is_readable(of_child));
	return victim_ok();
}
