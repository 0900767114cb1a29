/* family.c - a process whose family changes all the time: children that come and go, run other programs, begin sessions, have
 * children of their own and leave them behind. What they write to shared memory, and how each ends, is counted.
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "victim.h"

#define CHILDREN 6
#define PAGES 64
#define LIVES_MS 200

/* Of each kind of child. */
static struct counts {
	_Atomic unsigned int begun, written[PAGES][1024];
} *shared;

static unsigned int started, ended, orphans;

static void write_shared(unsigned int seed)
{
	for (int i = 0; i < 200; i++) {
		seed = seed * 1103515245 + 12345;
		shared->written[(seed >> 16) % PAGES][seed % 1024]++;
		shared->begun++;
		usleep(LIVES_MS * 5);
	}
}

/* Private memory that must be its own. */
static void check_private(unsigned int seed)
{
	volatile unsigned int *own = mmap(NULL, 32 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (unsigned int i = 0; own != MAP_FAILED && i < 32 * 1024; i++)
		own[i] = seed + i;
	write_shared(seed);
	for (unsigned int i = 0; own != MAP_FAILED && i < 32 * 1024; i++)
		if (own[i] != seed + i)
			_exit(9);
}

static void live(unsigned int kind)
{
	switch (kind % 5) {
	case 0:		/* another program, for a while */
		execl("/bin/sleep", "sleep", "0.2", NULL);
		_exit(8);
	case 1:		/* a session of its own */
		setsid();
		check_private(kind);
		break;
	case 2:		/* leaves a child behind, which becomes the first one's */
		if (fork() == 0)
			check_private(kind);
		break;
	case 3:		/* a child of its own, that it waits for */
		if (fork() == 0) {
			check_private(kind);
			_exit(7);
		}
		if (wait(NULL) < 0)
			_exit(6);
		break;
	default:
		check_private(kind);
	}
	_exit(7);
}

static void beget(void)
{
	pid_t pid = fork();

	victim_check(pid >= 0);
	if (!pid)
		live(started);
	orphans += started % 5 == 2;
	started++;
}

static void bury(bool wait_for_all)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, wait_for_all ? 0 : WNOHANG)) > 0) {
		ended++;
		if (!WIFEXITED(status) || (WEXITSTATUS(status) != 7 && WEXITSTATUS(status) != 0))
			victim_fail("child %d ended with status %x", pid, status);
	}
}

int main(int argc, char **argv)
{
	unsigned int sum = 0;

	victim_begin(argc, argv);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	victim_check(shared != MAP_FAILED && !prctl(PR_SET_CHILD_SUBREAPER, 1));
	victim_ready();
	while (victim_tick()) {
		bury(false);
		while (started + orphans - ended < CHILDREN)
			beget();
		usleep(1000);
	}
	bury(true);
	victim_check(ended == started + orphans);
	for (size_t i = 0; i < PAGES; i++)
		for (size_t n = 0; n < 1024; n++)
			sum += shared->written[i][n];
	if (sum != shared->begun)
		victim_fail("%u writes to shared memory are there, of %u", sum, (unsigned int)shared->begun);
	return victim_ok();
}
