/* sysv.c - System V shared memory, attached by two processes, read-only once, and a segment that is removed but attached;
 * and POSIX shared memory.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/wait.h>

#include "victim.h"

#define SIZE (5 * 4096)

int main(int argc, char **argv)
{
	volatile char *common;
	const char *only;
	char *doomed, *posix, name[64];
	int id, doomed_id, fd;
	struct shmid_ds ds;
	pid_t child;

	victim_begin(argc, argv);
	id = shmget(0x70680000 | (getpid() & 0xffff), SIZE - 100, IPC_CREAT | IPC_EXCL | 0640);
	doomed_id = shmget(IPC_PRIVATE, 8192, 0600);
	victim_check(id >= 0 && doomed_id >= 0);
	common = shmat(id, NULL, 0);
	only = shmat(id, NULL, SHM_RDONLY);
	doomed = shmat(doomed_id, NULL, 0);
	victim_check(common != (void *)-1 && only != (void *)-1 && doomed != (void *)-1 && !shmctl(doomed_id, IPC_RMID, NULL));
	strcpy((char *)common + 4096, "segment");
	strcpy(doomed, "doomed");
	snprintf(name, sizeof(name), "/phaul-victim-%d", getpid());
	fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	victim_check(fd >= 0 && !ftruncate(fd, 4096));
	posix = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	victim_check(posix != MAP_FAILED && !close(fd));
	strcpy(posix, "posix");
	child = fork();
	if (!child) {
		while (common[0] != 'q')
			usleep(1000);
		common[1] = 'a';
		for (;;)
			pause();
	}

	victim_ready();
	while (victim_tick())
		usleep(1000);

	victim_check(!strcmp(only + 4096, "segment") && !strcmp(doomed, "doomed") && !strcmp(posix, "posix"));
	common[0] = 'q';
	while (only[1] != 'a')
		usleep(1000);
	victim_check(!shmctl(id, IPC_STAT, &ds) && ds.shm_nattch == 4 && (ds.shm_perm.mode & 0777) == 0640);
	victim_check(ds.shm_segsz == SIZE - 100 && shmget(ds.shm_perm.__key, 0, 0) == id);
	victim_check(!shmctl(doomed_id, IPC_STAT, &ds) && ds.shm_perm.mode & SHM_DEST && ds.shm_nattch == 2);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	victim_check(!shmctl(id, IPC_STAT, &ds) && ds.shm_nattch == 2 && !shmdt(only) && !shmctl(id, IPC_RMID, NULL));
	victim_check(!shmdt(doomed) && shmctl(doomed_id, IPC_STAT, &ds) < 0);
	shm_unlink(name);
	return victim_ok();
}
