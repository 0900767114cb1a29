/* pipes_test.c - pipes with what waits in them, and those of which somebody outside has an end. */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "subject.h"

static void set_up_pipes(void)
{
	int ends[2];
	char path[32];

	put_at(open("/dev/null", O_RDWR), 0);
	must(pipe2(ends, O_CLOEXEC | O_NONBLOCK));	/* 1, 2 */
	must(write(ends[1], "first", 5));
	must(write(ends[1], " and second", 11));
	must(pipe(ends));				/* 3, 4 */
	must(fcntl(ends[0], F_SETPIPE_SZ, 1 << 17));
	for (int i = 0; i < 100; i++)
		must(write(ends[1], (char[1000]){ 'x' }, 1000));
	must(pipe(ends)); /* 5, 6: only one is kept, its other end is gone */
	must(write(ends[1], "last words", 10));
	must(close(ends[1]));
	must(pipe(ends));				/* 6, 7 */
	must(close(ends[0]));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", 3);
	must(open(path, O_RDONLY | O_NONBLOCK));	/* 6: a second description of 3's pipe */
}

static void pipes_keep_their_content(void)
{
	pid_t pid = subject_start(set_up_pipes);
	char buffer[200] = "", *text = check_text(pid, 0);
	struct pollfd writer;
	struct moved m;
	int fd, bytes;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	move_subject(&m, pid, 0);
	fd = moved_own(&m, 1);
	expect(read(fd, buffer, sizeof(buffer)) == 16 && !strcmp(buffer, "first and second"));
	expect(read(fd, buffer, 1) < 0 && errno == EAGAIN);
	close(fd);
	fd = moved_own(&m, 3);
	expect(fcntl(fd, F_GETPIPE_SZ) == 1 << 17);
	expect(!ioctl(fd, FIONREAD, &bytes) && bytes == 100000);
	close(fd);
	expect(moved_after(&m, 6)->st.st_ino == moved_after(&m, 3)->st.st_ino);
	expect(moved_after(&m, 4)->st.st_ino == moved_after(&m, 3)->st.st_ino);
	expect(moved_after(&m, 1)->st.st_ino != moved_after(&m, 3)->st.st_ino);
	fd = moved_own(&m, 5);
	memset(buffer, 0, sizeof(buffer));
	expect(read(fd, buffer, sizeof(buffer)) == 10 && !strcmp(buffer, "last words"));
	expect(read(fd, buffer, 1) == 0);
	close(fd);
	writer = (struct pollfd){ .fd = moved_own(&m, 7), .events = POLLOUT };
	expect(poll(&writer, 1, 0) == 1 && writer.revents & POLLERR);
	close(writer.fd);
	/* The source still has its bytes. */
	fd = syscall(SYS_pidfd_getfd, m.before.pidfd, 1, 0);
	expect(!ioctl(fd, FIONREAD, &bytes) && bytes == 16);
	close(fd);
	moved_forget(&m);
	subject_end(pid);
}

static int outside[3][2];

/* Not in the child's setup, where all was closed: the ends are what it is started with. */
static pid_t start_with_outside_ends(void (*set_up)(void))
{
	pid_t pid;

	memset(subject, 0, sizeof(*subject));
	for (int i = 0; i < 3; i++)
		expect(pipe2(outside[i], O_CLOEXEC) == 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		must(dup2(outside[0][0], 0));
		must(dup2(outside[1][1], 1));
		must(dup2(1, 2));
		must(dup2(outside[2][1], 3));
		close_range(4, ~0u, 0);
		set_up();
		subject->ready = 1;
		for (;;)
			pause();
	}
	while (!subject->ready)
		usleep(1000);
	return pid;
}

static void set_up_nothing(void)
{
}

static void set_up_stdio_only(void)
{
	close(3);
}

static void close_outside(void)
{
	for (int i = 0; i < 3; i++) {
		close(outside[i][0]);
		close(outside[i][1]);
	}
}

/* Holds outside ends in a process other than this one, which is no witness: it is the engine. */
static pid_t start_holder(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "logger");
		close(outside[2][1]);
		subject->go = 1;
		for (;;)
			pause();
	}
	while (!subject->go)
		usleep(1000);
	return pid;
}

static void outside_ends_are_told(void)
{
	pid_t pid = start_with_outside_ends(set_up_nothing), holder = start_holder();
	char *text = check_text(pid, 0), expected[64];

	expect_line(text, "~FD_PIPE_END\tfd 0\t", "at its end");
	snprintf(expected, sizeof(expected), "read by pid %d (logger)", holder);
	expect_line(text, "~FD_PIPE_LOG\tfd 1\tfd 1 (also fd 2) is a pipe", expected);
	snprintf(expected, sizeof(expected), "/var/log/phaul/%d.fd1.log", pid);
	expect_line(text, "~FD_PIPE_LOG\tfd 1\t", expected);
	snprintf(expected, sizeof(expected), "that pid %d (logger) reads", holder);
	expect_line(text, "FD_PIPE\tfd 3\t", expected);
	free(text);
	subject_end(holder);
	subject_end(pid);
	close_outside();
}

static void output_goes_to_a_log(void)
{
	pid_t pid = start_with_outside_ends(set_up_stdio_only);
	char path[64], buffer[64] = "";
	struct moved m;
	int fd, log = -1;

	expect(write(outside[0][1], "input", 5) == 5);
	move_subject(&m, pid, 0);
	fd = moved_own(&m, 0);
	expect(read(fd, buffer, sizeof(buffer)) == 5 && !strcmp(buffer, "input"));
	expect(read(fd, buffer, sizeof(buffer)) == 0);
	close(fd);
	fd = moved_own(&m, 2);
	expect(write(fd, "to the log\n", 11) == 11);
	close(fd);
	snprintf(path, sizeof(path), "/var/log/phaul/%d.fd1.log", m.pid);
	memset(buffer, 0, sizeof(buffer));
	for (int i = 0; i < 200 && !buffer[0]; i++) {
		usleep(10000);
		log = open(path, O_RDONLY);
		if (log >= 0 && read(log, buffer, sizeof(buffer)) < 0)
			die("%s can't be read", path);
		close(log);
	}
	expect(!strcmp(buffer, "to the log\n"));
	/* No child is left with us. */
	expect(waitpid(m.pid, NULL, WNOHANG) <= 0);
	moved_forget(&m);
	unlink(path);
	subject_end(pid);
	close_outside();
}

static void set_up_packets(void)
{
	int ends[2];

	must(pipe2(ends, O_DIRECT));
	must(write(ends[1], "one", 3));
}

static void packets_are_refused(void)
{
	pid_t pid = subject_start(set_up_packets);
	char *text = check_text(pid, 0);

	expect_line(text, "FD_PIPE\tfd 0\t", "3 bytes");
	free(text);
	subject_end(pid);
}

int main(void)
{
	if (!subject_prepare())
		return 77;
	pipes_keep_their_content();
	outside_ends_are_told();
	output_goes_to_a_log();
	packets_are_refused();
	rmdir(subject_directory);
	return 0;
}
