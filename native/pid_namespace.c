/* pid_namespace.c - a program in a pid namespace of its own, with husk/init.c as the first process there.
 *
 *	phaul ── a moment ── init (pid 1 there) ── the program
 *
 * The moment ends at once, which makes the namespace nobody's child but init's. All that is mounted follows the host, but
 * /proc, which shows the namespace.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "error.h"

extern const uint8_t init_program[], init_program_end[];

/* What of it failed, for whoever waits at the other end of a pipe. */
struct failure {
	int err;
	char doing[60];
};

struct beginning {
	char *const *argv, *const *envp;
	int talk, host_proc, init, last_pid;
	int failure;		/* the pipe; the programs that run at last close it */
};

/* All below run in forks of a process with threads: nothing but system calls. */
__attribute__((noreturn)) static void give_up(const struct beginning *b, const char *doing)
{
	struct failure failure = { .err = errno };

	strncpy(failure.doing, doing, sizeof(failure.doing) - 1);
	(void)!write(b->failure, &failure, sizeof(failure));
	_exit(1);
}

static long fork_here(unsigned long flags)
{
	return syscall(SYS_clone, flags, NULL, NULL, NULL, 0);
}

/* Ours may be any numbers: they go above those that the program shall have, and then to these. */
static void become_program(const struct beginning *b)
{
	int from[] = { b->talk, b->talk, 2, b->host_proc }, count = sizeof(from) / sizeof(*from);
	struct beginning own = *b;
	uint64_t none = 0;

	own.failure = fcntl(b->failure, F_DUPFD_CLOEXEC, count);
	for (int i = 0; i < count; i++)
		from[i] = fcntl(from[i], F_DUPFD_CLOEXEC, count);
	for (int i = 0; i < count; i++)
		if (dup2(from[i], i) < 0)
			give_up(&own, "handing over descriptors");
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
	syscall(SYS_close_range, count, ~0u, CLOSE_RANGE_CLOEXEC);
	execve(own.argv[0], own.argv, own.envp);
	give_up(&own, "running the agent in it");
}

static void begin_with(const struct beginning *b)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%d", b->last_pid), fd;

	if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		give_up(b, "having mounts that follow the host's");
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		give_up(b, "mounting its /proc");
	fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, length) != length)
		give_up(b, "choosing pids (ns_last_pid: the kernel needs CONFIG_CHECKPOINT_RESTORE)");
	close(fd);
}

/* Pid 1 of the new namespace. */
static void become_init(const struct beginning *b)
{
	uint64_t none = 0;
	long program;

	begin_with(b);
	setsid();
	program = fork_here(SIGCHLD);
	if (program == 0)
		become_program(b);
	if (program < 0)
		give_up(b, "starting the agent in it");
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
	syscall(SYS_close_range, 0, ~0u, CLOSE_RANGE_CLOEXEC);
	syscall(SYS_execveat, b->init, "", (char *[]){ "phaul-init", NULL }, (char *[]){ NULL }, AT_EMPTY_PATH);
	give_up(b, "running its init");
}

static int spawn(const struct beginning *b)
{
	int status;
	pid_t moment = fork_here(0);

	if (moment == 0) {
		long init = fork_here(CLONE_NEWPID | CLONE_NEWNS | SIGCHLD);

		if (init == 0)
			become_init(b);
		if (init < 0)
			give_up(b, "making it, which needs CAP_SYS_ADMIN");
		_exit(0);
	}
	if (moment < 0)
		return -errno;
	while (waitpid(moment, &status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int init_file(void)
{
	int fd = memfd_create("phaul-init", MFD_CLOEXEC);
	ssize_t size = init_program_end - init_program;

	if (fd < 0 || write(fd, init_program, size) == size)
		return fd;
	close(fd);
	errno = EIO;
	return -1;
}

/* Waits until both programs run, which closes the pipe, or one of them can't. */
static int begin(struct beginning *b, struct phaul_error *err)
{
	struct failure failure = {0};
	int ends[2] = { -1, -1 }, code = pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0;
	ssize_t got = 0;

	b->failure = ends[1];
	code = code ?: spawn(b);
	close(ends[1]);
	while (!code && (got = read(ends[0], &failure, sizeof(failure))) < 0)
		code = errno == EINTR ? 0 : -errno;
	close(ends[0]);
	if (code)
		return phaul_fail(err, code, "namespace", "making a pid namespace");
	return got ? phaul_fail(err, failure.err ? -failure.err : -EIO, "namespace", "making a pid namespace: %s", failure.doing) : 0;
}

int phaul_pid_namespace(char *const *argv, char *const *envp, int last_pid, struct phaul_error *err)
{
	int pair[2] = { -1, -1 }, code = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ? -errno : 0;
	struct beginning b = { argv, envp, pair[1], open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC), init_file(), last_pid, -1 };

	if (!code && (b.host_proc < 0 || b.init < 0))
		code = -errno;
	code = code ? phaul_fail(err, code, "namespace", "preparing a pid namespace") : begin(&b, err);
	close(pair[1]);
	close(b.init);
	close(b.host_proc);
	if (!code)
		return pair[0];
	close(pair[0]);
	return code;
}
