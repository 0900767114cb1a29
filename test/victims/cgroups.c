/* cgroups.c - REPORT: in control groups of its own, of version 2 and of a hierarchy of version 1; a child in a group below, a thread
 * in another one.
 */
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "victim.h"

static int v1, v2;		/* the hierarchies */
static char name[64];
static char of_main[8192], of_child[8192], of_thread[8192], now[8192];
static pid_t tid;
static volatile int ends;

static int open_hierarchy(const char *type, const char *controller)
{
	int fs = fsopen(type, FSOPEN_CLOEXEC), fd;

	victim_check(fs >= 0);
	if (controller)
		victim_check(fsconfig(fs, FSCONFIG_SET_FLAG, controller, NULL, 0) == 0);
	/* A kernel or host without it. */
	fd = fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) ? -1 : fsmount(fs, FSMOUNT_CLOEXEC, 0);
	close(fs);
	return fd;
}

static void enter(int root, const char *group, const char *file)
{
	char path[256];
	int fd;

	if (root < 0)
		return;
	(void)mkdirat(root, group, 0755);
	snprintf(path, sizeof(path), "%s/%s", group, file);
	fd = openat(root, path, O_WRONLY);
	victim_check(fd >= 0 && write(fd, "0", 1) == 1);
	close(fd);
}

static void describe(pid_t id, char to[8192])
{
	char path[64];
	FILE *f;
	size_t got;

	/* Of a thread of ours, or of another process. */
	snprintf(path, sizeof(path), "/proc/self/task/%d/cgroup", id);
	if (access(path, R_OK))
		snprintf(path, sizeof(path), "/proc/%d/cgroup", id);
	f = fopen(path, "r");
	got = f ? fread(to, 1, 8191, f) : 0;
	victim_check(got > 0);
	to[got] = 0;
	for (char *at = to; (at = strchr(at, '\n')); )
		*at = ' ';
	fclose(f);
}

static void *thread(void *below)
{
	enter(v1, below, "tasks");
	tid = syscall(SYS_gettid);
	while (!ends)
		usleep(1000);
	return NULL;
}

static void expect(const char *whom, pid_t id, const char *before)
{
	describe(id, now);
	if (strcmp(before, now))
		victim_fail("the groups of %s are %.150s, and were %.150s", whom, now, before);
}

/* Nobody may be left in them. */
static void clean(int root, const char *below)
{
	if (root < 0)
		return;
	enter(root, ".", "cgroup.procs");
	(void)unlinkat(root, below, AT_REMOVEDIR);
	(void)unlinkat(root, name, AT_REMOVEDIR);
}

int main(int argc, char **argv)
{
	char below[96];
	pthread_t other;
	pid_t child;

	victim_begin(argc, argv);
	snprintf(name, sizeof(name), "phaul-%d", getpid());
	snprintf(below, sizeof(below), "%s/below", name);
	v2 = open_hierarchy("cgroup2", NULL);
	v1 = open_hierarchy("cgroup", "pids");
	enter(v2, name, "cgroup.procs");
	enter(v1, name, "cgroup.procs");
	child = fork();
	victim_check(child >= 0);
	if (!child) {
		enter(v2, below, "cgroup.procs");
		close(v1);
		close(v2);
		for (;;)
			pause();
	}
	/* It leads to the same group of version 1 as a thread. */
	if (argc > 2 && !strcmp(argv[2], "threads")) {
		victim_check(pthread_create(&other, NULL, thread, below) == 0);
		while (!tid)
			usleep(1000);
		describe(tid, of_thread);
	}
	close(v1);
	close(v2);
	describe(getpid(), of_main);
	do {
		usleep(1000);
		describe(child, of_child);
	} while (v2 >= 0 && !strstr(of_child, below));
	victim_ready();
	while (victim_tick())
		usleep(1000);

	expect("the process", getpid(), of_main);
	expect("its child", child, of_child);
	if (tid) {
		expect("its thread", tid, of_thread);
		ends = 1;
		pthread_join(other, NULL);
	}
	kill(child, SIGKILL);
	victim_check(waitpid(child, NULL, 0) == child);
	clean(open_hierarchy("cgroup2", NULL), below);
	clean(open_hierarchy("cgroup", "pids"), below);
	return victim_ok();
}
