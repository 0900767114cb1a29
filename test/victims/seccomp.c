/* seccomp.c - a filter that all threads share, one more that a single thread has, and no new privileges. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "victim.h"

static volatile int stage;

/* The call fails with this error from now on. */
static int forbid(int call, int error, unsigned int flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int fails_with(int call)
{
	return syscall(call) < 0 ? errno : 0;
}

static void *extra(void *unused)
{
	(void)unused;
	victim_check(forbid(SYS_getpgrp, 99, 0) == 0);
	stage = 1;
	while (stage != 2)
		usleep(1000);
	victim_check(fails_with(SYS_getppid) == 77 && fails_with(SYS_getpgrp) == 99 && fails_with(SYS_getuid) == 0);
	stage = 3;
	return NULL;
}

static void *plain(void *unused)
{
	(void)unused;
	while (stage != 4)
		usleep(1000);
	victim_check(fails_with(SYS_getppid) == 77 && fails_with(SYS_getpgrp) == 0 && fails_with(SYS_getuid) == 88);
	stage = 5;
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t a, b;

	victim_begin(argc, argv);
	victim_check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && forbid(SYS_getppid, 77, 0) == 0);
	victim_check(!pthread_create(&a, NULL, extra, NULL) && !pthread_create(&b, NULL, plain, NULL));
	while (stage != 1)
		usleep(1000);

	victim_ready();
	while (victim_tick())
		usleep(1000);

	victim_check(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && fails_with(SYS_getppid) == 77);
	stage = 2;
	pthread_join(a, NULL);
	/* For all threads, which takes that they have the first one from the same hand. */
	victim_check(stage == 3 && forbid(SYS_getuid, 88, SECCOMP_FILTER_FLAG_TSYNC) == 0);
	stage = 4;
	pthread_join(b, NULL);
	victim_check(stage == 5 && fails_with(SYS_getuid) == 88);
	return victim_ok();
}
