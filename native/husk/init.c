/* init.c - the first process of a pid namespace: takes note of the ends of all others, and ends with the last. A phaul that has
 * come in to move them on (nsenter) is nobody's child in here, and is waited for all the same.
 */
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <linux/wait.h>

#define ESRCH 3
#define ECHILD 10

static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__ ("r10") = d;
	long result;

	__asm__ volatile ("syscall" : "=a" (result) : "a" (number), "D" (a), "S" (b), "d" (c), "r" (r10) : "rcx", "r11", "memory");
	return result;
}

__attribute__((noreturn, used)) void _start(void)
{
	static const char name[] = "phaul-init";

	static const struct { long seconds, nanoseconds; } moment = { 0, 50000000 };

	call(SYS_prctl, PR_SET_NAME, (long)name, 0, 0);
	for (;;) {
		while (call(SYS_wait4, -1, 0, __WALL, 0) != -ECHILD)
			;
		if (call(SYS_kill, -1, 0, 0, 0) == -ESRCH)
			call(SYS_exit_group, 0, 0, 0, 0);
		call(SYS_nanosleep, (long)&moment, 0, 0, 0);
	}
}
