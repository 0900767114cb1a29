/* descriptors_test.c - a child sets descriptors up; they are read, checked, dumped, built in a husk
 * and compared. Needs root, for pids and ptrace. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../husk.h"
#include "../objects/descriptors.h"
#include "../tree.h"

#define die(format, ...) \
	do { \
		fprintf(stderr, "%s:%d: " format "\n", __func__, __LINE__, ##__VA_ARGS__); \
		exit(1); \
	} while (0)
#define expect(condition) \
	do { \
		if (!(condition)) \
			die("not so: %s (errno %d)", #condition, errno); \
	} while (0)

static char directory[] = "/tmp/phaul-descriptors-XXXXXX";

/* ---- the subject ---- */

static struct shared {
	volatile int ready, go;
	int port, peer_port;
	char path[4][128];
} *shared;

static void must(int result)
{
	if (result < 0) {
		fprintf(stderr, "the subject failed: errno %d\n", errno);
		_exit(1);
	}
}

static pid_t start(void (*set_up)(void))
{
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		prctl(PR_SET_NAME, "subject");
		close_range(0, ~0u, 0);
		set_up();
		shared->ready = 1;
		for (;;)
			pause();
	}
	for (int i = 0; !shared->ready && i < 5000; i++) {
		if (waitpid(pid, NULL, WNOHANG) == pid)
			die("the subject is dead");
		usleep(1000);
	}
	expect(shared->ready);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int put_at(int fd, int number)
{
	must(fd);
	if (fd == number)
		return fd;
	must(dup2(fd, number));
	close(fd);
	return number;
}

/* ---- check ---- */

static char *check_text(pid_t pid, uint32_t flags)
{
	struct descriptor_table table;
	struct phaul_error err = { 0 };
	struct task task = { .pid = pid, .state = TASK_ALIVE };
	struct tree alone = { .tasks = &task, .count = 1 };
	struct check c = { .pid = pid, .flags = flags, .descriptors = &table, .tree = &alone, .capacity = 1 << 16 };

	c.text = calloc(1, c.capacity);
	if (descriptors_read(pid, false, &table, &err))
		die("%s", err.what);
	descriptors_check(&c);
	descriptors_free(&table);
	return c.text;
}

static void expect_line(const char *text, const char *start, const char *part)
{
	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		if (*line == '\n')
			line++;
		if (!strncmp(line, start, strlen(start)) && strstr(line, part) &&
		    strstr(line, part) < line + strcspn(line, "\n"))
			return;
	}
	die("no line that begins with \"%s\" and says \"%s\" in:\n%s", start, part, text);
}

/* ---- moving ---- */

struct moved {
	pid_t pid;
	struct husk husk;
	struct remote_area area;
	struct image_set *images;
	struct descriptor_table before, after;
	uint64_t dump_ns, build_ns;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static pid_t free_pid(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	waitpid(pid, NULL, 0);
	return pid;
}

static int dump_to(struct moved *m, pid_t pid, uint32_t flags, struct phaul_error *err)
{
	struct dump dump = { .pid = pid, .ns_pid = m->pid, .flags = flags, .err = err,
			     .descriptors = &m->before };
	uint64_t start = now_ns();
	int code;

	m->images = dump.images = image_set_new();
	code = descriptors_read(pid, false, &m->before, err);
	if (!code)
		code = descriptors_dump(&dump);
	m->dump_ns = now_ns() - start;
	dump_free(&dump);
	return code;
}

static int build_in_husk(struct moved *m, int reserve, struct phaul_error *err)
{
	struct built_files files = { 0 };
	struct build build = { .pid = m->pid, .images = m->images, .leader = &m->husk.leader,
			       .area = &m->area, .files = &files, .table = m->pid, .err = err };
	uint32_t count;
	uint64_t start;
	int code;

	errno = 0;
	code = husk_open(m->pid, "", &m->husk, err);
	if (code)
		return code;
	expect(remote_area_map(&m->husk.leader, 0, 1 << 18, &m->area) == 0);
	if (reserve)
		expect(descriptors_reserve(&build, reserve) == 0);
	start = now_ns();
	code = built_files_read(m->images, &m->pid, 1, &files, err);
	if (!code)
		code = descriptors_build(&build, &count);
	m->build_ns = now_ns() - start;
	built_files_free(&files);
	if (!code)
		expect(count == m->before.count);
	return code;
}

static void compare_tables(const struct moved *m)
{
	expect(m->before.count == m->after.count);
	for (size_t i = 0; i < m->before.count; i++) {
		const struct descriptor *b = &m->before.at[i], *a = &m->after.at[i];

		if (b->fd != a->fd || b->cloexec != a->cloexec || b->flags != a->flags ||
		    b->pos != a->pos || b->id != a->id || (b->st.st_mode ^ a->st.st_mode) & S_IFMT)
			die("fd %d: cloexec %d flags %o pos %lu id %u became fd %d: cloexec %d "
			    "flags %o pos "
			    "%lu id %u",
			    b->fd, b->cloexec, b->flags, (unsigned long)b->pos, b->id, a->fd,
			    a->cloexec, a->flags, (unsigned long)a->pos, a->id);
	}
}

static void move(struct moved *m, pid_t pid, uint32_t flags)
{
	struct phaul_error err = { 0 };

	memset(m, 0, sizeof(*m));
	m->pid = free_pid();
	if (dump_to(m, pid, flags, &err) || build_in_husk(m, 0, &err) ||
	    descriptors_read(m->pid, false, &m->after, &err))
		die("%s: %s", err.where, err.what);
	compare_tables(m);
}

static int own(const struct moved *m, int fd)
{
	int ours = syscall(SYS_pidfd_getfd, m->after.pidfd, fd, 0);

	if (ours < 0)
		die("fd %d can't be had: errno %d", fd, errno);
	return ours;
}

static const struct descriptor *after(const struct moved *m, int fd)
{
	for (size_t i = 0; i < m->after.count; i++)
		if (m->after.at[i].fd == fd)
			return &m->after.at[i];
	die("there is no fd %d", fd);
}

static const struct descriptor *before(const struct moved *m, int fd)
{
	for (size_t i = 0; i < m->before.count; i++)
		if (m->before.at[i].fd == fd)
			return &m->before.at[i];
	die("there was no fd %d", fd);
}

static void forget(struct moved *m)
{
	free(m->area.mirror);
	husk_close(&m->husk);
	image_set_free(m->images);
	descriptors_free(&m->before);
	descriptors_free(&m->after);
}

/* ---- files ---- */

static void set_up_files(void)
{
	int fd;

	put_at(open("/dev/null", O_RDONLY), 0);
	snprintf(shared->path[0], sizeof(shared->path[0]), "%s/log", directory);
	put_at(open(shared->path[0], O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600), 1);
	must(dup2(1, 2));
	must(write(1, "twelve bytes", 12));
	must(fd = open(shared->path[0], O_RDONLY | O_CLOEXEC));
	must(lseek(fd, 5, SEEK_SET));
	must(fcntl(fd, F_DUPFD_CLOEXEC, 40));
	must(fcntl(fd, F_DUPFD, 41));
	/* Not the same description, though all that shows of it is equal. */
	must(fd = open(shared->path[0], O_RDONLY));
	must(lseek(fd, 5, SEEK_SET));
	must(fd = open(directory, O_RDONLY | O_DIRECTORY));
	must(syscall(SYS_getdents64, fd, (char[4096]){ 0 }, 4096));
	must(open("/dev/urandom", O_RDONLY | O_NONBLOCK));
	must(open("/dev/zero", O_RDWR));
	must(open("/dev/full", O_WRONLY | O_CLOEXEC));
}

static void files_come_back(void)
{
	pid_t pid = start(set_up_files);
	char buffer[16] = "", *text = check_text(pid, 0);
	struct moved m;
	int fd;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	move(&m, pid, 0);
	expect(after(&m, 1)->id == after(&m, 2)->id);
	expect(after(&m, 3)->id == after(&m, 40)->id && after(&m, 3)->id == after(&m, 41)->id);
	expect(after(&m, 3)->id != after(&m, 4)->id);
	expect(after(&m, 40)->cloexec && !after(&m, 41)->cloexec);
	fd = own(&m, 41);
	expect(read(fd, buffer, 15) == 7 && !strcmp(buffer, "e bytes"));
	close(fd);
	for (size_t i = 0; i < m.after.count; i++)
		expect(!strcmp(m.before.at[i].link, m.after.at[i].link));
	forget(&m);
	end(pid);
}

static void other_size_is_refused(void)
{
	pid_t pid = start(set_up_files);
	struct phaul_error err = { 0 };
	struct moved m = { .pid = free_pid() };

	expect(dump_to(&m, pid, 0, &err) == 0);
	expect(truncate(shared->path[0], 10) == 0);
	expect(build_in_husk(&m, 0, &err) == -ESTALE);
	if (!strstr(err.what, "has 10 bytes here, 12 on the source"))
		die("%s", err.what);
	forget(&m);
	end(pid);
}

/* A unix socket of the test itself, and one that is connected to it. */
static int listen_or_connect(int connects, pid_t test)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path + 1, 64, "phaul-descriptors-%d", test);
	must(connects ? connect(fd, (void *)&address, sizeof(address)) :
	     bind(fd, (void *)&address, sizeof(address)) ?: listen(fd, 1));
	return fd;
}

/* Received into a ring that is mapped. */
static int used_ring(void)
{
	struct tpacket_req ring = { .tp_block_size = 4096, .tp_block_nr = 1, .tp_frame_size = 2048, .tp_frame_nr = 2 };
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = if_nametoindex("lo") };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_PACKET, SOCK_RAW, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);
	volatile unsigned long *status;

	must(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)));
	status = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(bind(fd, (void *)&at, sizeof(at)));
	while (!*status) {
		must(sendto(sender, "", 0, 0, (void *)&to, sizeof(to)));
		usleep(1000);
	}
	close(sender);
	return fd;
}

static int other_namespace(void)
{
	int own = open("/proc/self/ns/uts", O_RDONLY), other;

	must(unshare(CLONE_NEWUTS));
	other = open("/proc/self/ns/uts", O_RDONLY);
	must(setns(own, CLONE_NEWUTS));
	close(own);
	return other;
}

/* Of which nobody has a number any more. */
static int userfaultfd_on_its_way(void)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, c = 'x';
	struct iovec part = { &c, 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	int pair[2], fd = syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);

	must(fd);
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	*h = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(h), &fd, sizeof(int));
	must(sendmsg(pair[0], &m, 0));
	close(fd);
	return pair[1];
}

static char slave_of_test[64];

static void set_up_refused_files(void)
{
	int fd;

	snprintf(shared->path[0], sizeof(shared->path[0]), "%s/first", directory);
	snprintf(shared->path[1], sizeof(shared->path[1]), "%s/elsewhere", directory);
	snprintf(shared->path[2], sizeof(shared->path[2]), "%s/elsewhere/second", directory);
	put_at(open(shared->path[0], O_CREAT | O_RDWR, 0600), 10);
	must(mkdir(shared->path[1], 0700));
	must(link(shared->path[0], shared->path[2]));
	must(unlink(shared->path[0]));
	must(fcntl(10, F_DUPFD, 30));
	put_at(syscall(SYS_pidfd_open, getppid(), 0), 18);
	put_at(listen_or_connect(1, getppid()), 19);
	put_at(open(slave_of_test, O_RDWR | O_NOCTTY), 21);
	put_at(socket(AF_INET, SOCK_STREAM, 0), 23);
	must(fcntl(23, F_SETOWN, getppid()));
	fd = syscall(SYS_io_uring_setup, 4, (char[256]){ 0 });
	if (fd >= 0)
		put_at(fd, 24);
	put_at(other_namespace(), 25);
	put_at(used_ring(), 26);
	put_at(userfaultfd_on_its_way(), 28);
}

static void obstacles_are_named(void)
{
	int listener = listen_or_connect(0, getpid()), master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	int locked = !ptsname_r(master, slave_of_test, sizeof(slave_of_test)) ? unlockpt(master) : -1;
	pid_t pid = start(set_up_refused_files);
	int accepted = accept(listener, NULL, NULL);
	struct moved m = { .pid = free_pid() };
	struct phaul_error err = { 0 };
	char *text;

	expect(locked == 0);
	close(listener);
	text = check_text(pid, 0);
	expect_line(text, "FD_DELETED\tfd 10\tfd 10 (also fd 30) is ", "ln -L /proc/");
	expect_line(text, "FD_KIND\tfd 18\tfd 18 is a pidfd of pid", "stays on this host");
	expect_line(text, "FD_UNIX_SOCKET\tfd 19\tfd 19 is a unix socket without a name", "stays on this host");
	expect_line(text, "FD_TERMINAL\tfd 21\t", "setsid");
	expect_line(text, "FD_OWNER\tfd 23\t", "F_SETOWN");
	if (strstr(text, "fd 24"))
		expect_line(text, "FD_KIND\tfd 24\tfd 24 is an io_uring instance:", "");
	expect_line(text, "FD_NAMESPACE\tfd 25\tfd 25 is a handle of a namespace that the process is not in, uts:[", "stays on this host");
	expect_line(text, "FD_PACKET\tfd 26\tfd 26 is a packet socket that has received into its ring", "on the other host");
	expect_line(text, "FD_ON_ITS_WAY\tfd 28\tfd 28 is a unix socket in which a descriptor waits to be received that is a userfaultfd:", "");
	free(text);
	/* What came after the check is found in the freeze, and said just so. */
	expect(dump_to(&m, pid, 0, &err) == -EOPNOTSUPP);
	expect(strstr(err.what, "can't be told from here"));
	image_set_free(m.images);
	descriptors_free(&m.before);
	(void)unlink(shared->path[2]);
	(void)rmdir(shared->path[1]);
	close(accepted);
	close(master);
	end(pid);
}

/* ---- pipes ---- */

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
	pid_t pid = start(set_up_pipes);
	char buffer[200] = "", *text = check_text(pid, 0);
	struct pollfd writer;
	struct moved m;
	int fd, bytes;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	move(&m, pid, 0);
	fd = own(&m, 1);
	expect(read(fd, buffer, sizeof(buffer)) == 16 && !strcmp(buffer, "first and second"));
	expect(read(fd, buffer, 1) < 0 && errno == EAGAIN);
	close(fd);
	fd = own(&m, 3);
	expect(fcntl(fd, F_GETPIPE_SZ) == 1 << 17);
	expect(!ioctl(fd, FIONREAD, &bytes) && bytes == 100000);
	close(fd);
	expect(after(&m, 6)->st.st_ino == after(&m, 3)->st.st_ino);
	expect(after(&m, 4)->st.st_ino == after(&m, 3)->st.st_ino);
	expect(after(&m, 1)->st.st_ino != after(&m, 3)->st.st_ino);
	fd = own(&m, 5);
	memset(buffer, 0, sizeof(buffer));
	expect(read(fd, buffer, sizeof(buffer)) == 10 && !strcmp(buffer, "last words"));
	expect(read(fd, buffer, 1) == 0);
	close(fd);
	writer = (struct pollfd){ .fd = own(&m, 7), .events = POLLOUT };
	expect(poll(&writer, 1, 0) == 1 && writer.revents & POLLERR);
	close(writer.fd);
	/* The source still has its bytes. */
	fd = syscall(SYS_pidfd_getfd, m.before.pidfd, 1, 0);
	expect(!ioctl(fd, FIONREAD, &bytes) && bytes == 16);
	close(fd);
	forget(&m);
	end(pid);
}

static int outside[3][2];

/* Not in the child's setup, where all was closed: the ends are what it is started with. */
static pid_t start_with_outside_ends(void (*set_up)(void))
{
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
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
		shared->ready = 1;
		for (;;)
			pause();
	}
	while (!shared->ready)
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
		shared->go = 1;
		for (;;)
			pause();
	}
	while (!shared->go)
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
	end(holder);
	end(pid);
	close_outside();
}

static void output_goes_to_a_log(void)
{
	pid_t pid = start_with_outside_ends(set_up_stdio_only);
	char path[64], buffer[64] = "";
	struct moved m;
	int fd, log = -1;

	expect(write(outside[0][1], "input", 5) == 5);
	move(&m, pid, 0);
	fd = own(&m, 0);
	expect(read(fd, buffer, sizeof(buffer)) == 5 && !strcmp(buffer, "input"));
	expect(read(fd, buffer, sizeof(buffer)) == 0);
	close(fd);
	fd = own(&m, 2);
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
	forget(&m);
	unlink(path);
	end(pid);
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
	pid_t pid = start(set_up_packets);
	char *text = check_text(pid, 0);

	expect_line(text, "FD_PIPE\tfd 0\t", "3 bytes");
	free(text);
	end(pid);
}

/* ---- what counts, times and signals ---- */

static void set_up_counters(void)
{
	struct itimerspec periodic = { { 0, 20000000 }, { 0, 30000000 } };
	struct itimerspec single = { { 0, 0 }, { 100, 500 } }, absolute = { { 5, 0 }, { 0, 0 } };
	uint64_t large = 0xfffffffffffffffeull;
	sigset_t mask;

	must(eventfd(0x1234, EFD_NONBLOCK));			/* 0 */
	must(eventfd(3, EFD_SEMAPHORE | EFD_CLOEXEC));		/* 1 */
	must(eventfd(0, 0));					/* 2 */
	must(write(2, &large, 8));
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMIN + 3);
	must(signalfd(-1, &mask, SFD_NONBLOCK));		/* 3 */
	must(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));	/* 4 */
	must(timerfd_settime(4, 0, &periodic, NULL));
	must(timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC));	/* 5 */
	must(timerfd_settime(5, 0, &single, NULL));
	must(timerfd_create(CLOCK_BOOTTIME, 0));		/* 6 */
	must(clock_gettime(CLOCK_BOOTTIME, &absolute.it_value));
	absolute.it_value.tv_sec += 50;
	must(timerfd_settime(6, TFD_TIMER_ABSTIME, &absolute, NULL));
	must(timerfd_create(CLOCK_MONOTONIC, 0));		/* 7: never armed */
	must(timerfd_create(CLOCK_MONOTONIC, 0));		/* 8: went off, unread */
	single.it_value = (struct timespec){ 0, 1 };
	must(timerfd_settime(8, 0, &single, NULL));
	must(dup2(2, 9));
}

static void expect_fdinfo(const struct moved *m, int fd, const char *key)
{
	const char *b = strstr(before(m, fd)->fdinfo, key), *a = strstr(after(m, fd)->fdinfo, key);

	if (!a || !b || strcspn(a, "\n") != strcspn(b, "\n") || strncmp(a, b, strcspn(a, "\n")))
		die("fd %d: was \"%.*s\", is \"%.*s\"", fd, b ? (int)strcspn(b, "\n") : 0, b,
		    a ? (int)strcspn(a, "\n") : 0, a);
}

static void counters_go_on(void)
{
	pid_t pid = start(set_up_counters);
	struct itimerspec left;
	uint64_t value;
	struct moved m;
	int fd;

	usleep(100000);
	kill(pid, SIGSTOP);
	move(&m, pid, 0);
	for (int i = 0; i < 3; i++) {
		expect_fdinfo(&m, i, "eventfd-count:");
		expect_fdinfo(&m, i, "eventfd-semaphore:");
	}
	expect(after(&m, 2)->id == after(&m, 9)->id && after(&m, 1)->id != after(&m, 2)->id);
	fd = own(&m, 1);
	expect(read(fd, &value, 8) == 8 && value == 1);
	close(fd);
	expect_fdinfo(&m, 3, "sigmask:");
	for (int i = 4; i <= 8; i++) {
		expect_fdinfo(&m, i, "clockid:");
		expect_fdinfo(&m, i, "settime flags:");
		expect_fdinfo(&m, i, "it_interval:");
	}
	fd = own(&m, 4);
	/* 20 ms, then each 30 ms, for more than 100. */
	expect(read(fd, &value, 8) == 8 && value >= 3);
	expect(!timerfd_gettime(fd, &left) && left.it_value.tv_nsec > 0 &&
	       left.it_value.tv_nsec <= 30000000);
	close(fd);
	fd = own(&m, 5);
	expect(!timerfd_gettime(fd, &left) && left.it_value.tv_sec >= 98 &&
	       left.it_value.tv_sec <= 100);
	close(fd);
	fd = own(&m, 6);
	expect(!timerfd_gettime(fd, &left) && left.it_value.tv_sec >= 48 &&
	       left.it_value.tv_sec < 50);
	expect(left.it_interval.tv_sec == 5);
	close(fd);
	fd = own(&m, 7);
	expect(!timerfd_gettime(fd, &left) && !left.it_value.tv_sec && !left.it_value.tv_nsec);
	close(fd);
	fd = own(&m, 8);
	expect(read(fd, &value, 8) == 8 && value == 1);
	close(fd);
	forget(&m);
	end(pid);
}

/* ---- epoll ---- */

static void watch(int epoll, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

static void set_up_epoll(void)
{
	struct epoll_event event;
	int ends[2];

	must(epoll_create1(EPOLL_CLOEXEC));		/* 0 */
	must(pipe(ends));				/* 1, 2 */
	must(eventfd(0, 0));				/* 3 */
	must(eventfd(7, 0));				/* 4 */
	must(socket(AF_INET, SOCK_DGRAM, 0));		/* 5 */
	must(epoll_create1(0));				/* 6 */
	watch(0, 1, EPOLLIN, 0x1111111111111111);
	watch(0, 3, EPOLLIN | EPOLLET, ~0ull);
	watch(0, 4, EPOLLIN | EPOLLONESHOT, 4);
	must(epoll_wait(0, &event, 1, 0));		/* 4 goes off once, and is silent now */
	watch(0, 5, EPOLLIN | EPOLLRDHUP, 5);
	watch(6, 0, EPOLLIN, 600);			/* nested */
	watch(6, 2, EPOLLOUT, 602);
	/* Watched under 20, which is closed; under 21, which is another's; twice under 22. */
	must(dup2(3, 20));
	watch(0, 20, EPOLLIN, 20);
	must(close(20));
	must(dup2(3, 21));
	watch(0, 21, EPOLLIN, 21);
	must(dup2(1, 21));
	must(dup2(3, 22));
	watch(0, 22, EPOLLIN, 22);
	must(dup2(4, 22));
	watch(0, 22, EPOLLIN, 23);
}

/* The lines of fdinfo that tell of a watch, without addresses: sorted. */
static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

static int watches_of(const struct descriptor *d, char lines[32][64])
{
	int n = 0, fd;
	unsigned int events;
	unsigned long long data;

	for (const char *at = d->fdinfo; (at = strstr(at, "tfd:")); at++)
		if (sscanf(at, "tfd: %d events: %x data: %llx", &fd, &events, &data) == 3)
			snprintf(lines[n++], 64, "%d %x %llx", fd, events & ~(EPOLLERR | EPOLLHUP),
				 data);
	qsort(lines, n, 64, by_text);
	return n;
}

static void epoll_watches_the_same(void)
{
	pid_t pid = start(set_up_epoll);
	char was[32][64], is[32][64], *text = check_text(pid, 0);
	struct epoll_event events[16];
	int fd, n, trigger;
	struct moved m;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	move(&m, pid, 0);
	for (int epoll = 0; epoll <= 6; epoll += 6) {
		n = watches_of(before(&m, epoll), was);
		expect(n == (epoll ? 2 : 8) && watches_of(after(&m, epoll), is) == n);
		for (int i = 0; i < n; i++)
			if (strcmp(was[i], is[i]))
				die("fd %d: was %s, is %s", epoll, was[i], is[i]);
	}
	fd = own(&m, 0);
	trigger = own(&m, 3);
	n = epoll_wait(fd, events, 16, 0);
	expect(n == 1 && events[0].data.u64 == 23);
	expect(write(trigger, &(uint64_t){ 1 }, 8) == 8);
	/* 3 itself, and under 20, 21 and 22; 4 under 22. */
	expect(epoll_wait(fd, events, 16, 0) == 5);
	close(trigger);
	close(fd);
	fd = own(&m, 6);
	expect(epoll_wait(fd, events, 16, 0) == 2);
	close(fd);
	forget(&m);
	end(pid);
}

/* ---- sockets ---- */

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	expect(!getsockopt(fd, level, name, &value, &size));
	return value;
}

static void set_option(int fd, int level, int name, int value)
{
	must(setsockopt(fd, level, name, &value, sizeof(value)));
}

static int listen_on(int family, int port)
{
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	socklen_t size = sizeof(v6);

	must(fd);
	if (family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	must(family == AF_INET6 ? bind(fd, (void *)&v6, sizeof(v6))
				: bind(fd, (void *)&v4, sizeof(v4)));
	must(listen(fd, 77));
	must(getsockname(fd, (void *)&v6, &size));
	shared->port = ntohs(v6.sin6_port);
	return fd;
}

static void set_up_listeners(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	struct timeval timeout = { 3, 0 };
	int fd;

	fd = listen_on(AF_INET, 0);				/* 0 */
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 33);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, SOL_SOCKET, SO_RCVBUF, 40000);
	listen_on(AF_INET6, 0);					/* 1 */
	must(fd = socket(AF_INET, SOCK_STREAM, 0));		/* 2: nothing but new */
	must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)));
	set_option(fd, IPPROTO_IP, IP_TOS, 0x10);
	must(fd = socket(AF_INET, SOCK_STREAM, 0));		/* 3: bound */
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	must(bind(fd, (void *)&any, sizeof(any)));
	must(fd = socket(AF_INET, SOCK_DGRAM, 0));		/* 4 */
	set_option(fd, SOL_SOCKET, SO_BROADCAST, 1);
	must(bind(fd, (void *)&any, sizeof(any)));
	must(fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));	/* 5 */
}

/* In the same network the addresses are free only when the original is gone. */
static void let_go(struct moved *m, pid_t pid, struct phaul_error *err)
{
	end(pid);
	if (build_in_husk(m, 64, err) || descriptors_read(m->pid, false, &m->after, err))
		die("%s: %s", err->where, err->what);
	compare_tables(m);
}

static int port_of(int fd)
{
	struct sockaddr_in6 a = { 0 };
	socklen_t size = sizeof(a);

	expect(!getsockname(fd, (void *)&a, &size));
	return ntohs(a.sin6_port);
}

static int connect_to(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (connect(fd, (void *)&a, sizeof(a)) < 0) {
		close(fd);
		return -errno;
	}
	return fd;
}

static void listeners_listen(void)
{
	pid_t pid = start(set_up_listeners);
	char *text = check_text(pid, 0);
	struct phaul_error err = { 0 };
	struct moved m = { .pid = free_pid() };
	int ports[6], fd, client;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	expect(!dump_to(&m, pid, 0, &err));
	for (int i = 0; i < 6; i++) {
		fd = syscall(SYS_pidfd_getfd, m.before.pidfd, i, 0);
		ports[i] = port_of(fd);
		close(fd);
	}
	let_go(&m, pid, &err);
	for (int i = 0; i < 6; i++) {
		fd = own(&m, i);
		expect(port_of(fd) == ports[i]);
		close(fd);
	}
	fd = own(&m, 0);
	expect(option(fd, IPPROTO_TCP, TCP_NODELAY) == 1 &&
	       option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT) == 3);
	expect(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 33 &&
	       option(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
	expect(option(fd, SOL_SOCKET, SO_RCVBUF) == 80000 && !option(fd, SOL_SOCKET, SO_REUSEADDR));
	client = connect_to(ports[0]);
	expect(client >= 0);
	close(client);
	close(fd);
	fd = own(&m, 1);
	expect(option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
	close(fd);
	fd = own(&m, 2);
	expect(option(fd, IPPROTO_IP, IP_TOS) == 0x10 && !(after(&m, 2)->flags & O_NONBLOCK));
	close(fd);
	fd = own(&m, 3);
	expect(option(fd, SOL_SOCKET, SO_REUSEADDR) == 1);
	close(fd);
	forget(&m);
}

static void taken_port_is_named(void)
{
	pid_t pid = start(set_up_listeners);
	struct moved m = { .pid = free_pid() };
	struct phaul_error err = { 0 };
	char expected[64];

	expect(!dump_to(&m, pid, 0, &err));
	expect(build_in_husk(&m, 0, &err) == -EADDRINUSE);
	snprintf(expected, sizeof(expected), "is taken here by pid %d (subject)", pid);
	if (!strstr(err.what, expected))
		die("%s", err.what);
	forget(&m);
	end(pid);
}

static void set_up_connections(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6,
				   .sin6_addr.s6_addr = { [10] = 255, 255, 127, 0, 0, 1 } };

	listen_on(AF_INET, 0);				/* 0 */
	/* As servers do, or their ended connections would be in the way of the one that is built.
	 */
	set_option(0, SOL_SOCKET, SO_REUSEADDR, 1);
	must(fcntl(0, F_SETFL, 0));
	must(connect_to(shared->port));			/* 1 */
	must(accept(0, NULL, NULL));			/* 2 */
	must(socket(AF_INET, SOCK_DGRAM, 0));		/* 3 */
	a.sin_port = htons(9);
	must(connect(3, (void *)&a, sizeof(a)));
	must(socket(AF_INET6, SOCK_STREAM, 0));		/* 4 */
	v6.sin6_port = htons(shared->port);
	must(connect(4, (void *)&v6, sizeof(v6)));
	must(accept4(0, NULL, NULL, SOCK_NONBLOCK));	/* 5 */
	must(connect_to(shared->port));			/* 6, in the queue of 0 */
}

static void connections_are_named(void)
{
	pid_t pid = start(set_up_connections);
	char *text = check_text(pid, 0), expected[64];

	snprintf(expected, sizeof(expected), " <-> 127.0.0.1:%d, which", shared->port);
	expect_line(text, "TCP_ESTABLISHED\tfd 1\tfd 1 is a TCP connection 127.0.0.1:", expected);
	expect_line(text, "TCP_ESTABLISHED\tfd 2\t", "--tcp close");
	expect_line(text, "TCP_ESTABLISHED\tfd 4\t", expected);
	expect_line(text, "TCP_WAITING\tfd 0\t", "1 connection waits to be accepted");
	free(text);
	text = check_text(pid, PHAUL_TCP_CLOSE);
	expect_line(text, "~TCP_ESTABLISHED\tfd 1\t", "it will be reset");
	expect_line(text, "~TCP_WAITING\tfd 0\t", "they will be reset");
	free(text);
	end(pid);
}

static void set_up_closed(void)
{
	set_up_connections();
	must(close(3));
	must(close(6));
	must(epoll_create1(0));				/* 3 */
	watch(3, 0, EPOLLIN, 0);
	watch(3, 1, EPOLLIN, 1);
	watch(3, 2, EPOLLIN | EPOLLET, 2);
	watch(3, 4, EPOLLIN, 4);
	watch(3, 5, EPOLLIN | EPOLLRDHUP, 5);
}

static void closed_connections_wake_who_waits(void)
{
	pid_t pid = start(set_up_closed);
	struct moved m = { .pid = free_pid() };
	struct phaul_error err = { 0 };
	struct epoll_event events[16];
	int fd, n;

	if (dump_to(&m, pid, PHAUL_TCP_CLOSE, &err))
		die("%s", err.what);
	let_go(&m, pid, &err);
	fd = own(&m, 3);
	n = epoll_wait(fd, events, 16, 0);
	expect(n == 4);
	for (int i = 0; i < n; i++)
		expect(events[i].data.u64 != 0 && events[i].events & EPOLLIN);
	close(fd);
	for (int number = 1; number <= 5; number++) {
		if (number == 3)
			continue;
		fd = own(&m, number);
		expect(read(fd, (char[1]){ 0 }, 1) < 0 && errno == ECONNRESET);
		expect(read(fd, (char[1]){ 0 }, 1) == 0);
		expect(send(fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
		close(fd);
	}
	forget(&m);
}

/* ---- many ---- */

static int how_many;

static void set_up_many(void)
{
	struct rlimit limit;

	must(getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	must(setrlimit(RLIMIT_NOFILE, &limit));
	for (int i = 0; i < how_many; i++)
		must(eventfd(i, i % 2 ? EFD_CLOEXEC : 0));
	for (int i = 0; i < how_many / 10; i++)
		must(dup2(i, how_many + 3 * i));
}

static void many_cost_little(int count)
{
	struct moved m;
	pid_t pid;

	how_many = count;
	pid = start(set_up_many);
	move(&m, pid, 0);
	for (int i = 0; i < count; i += 7)
		expect_fdinfo(&m, i, "eventfd-count:");
	printf("%zu descriptors: read and dumped in %.2f ms, built in %.2f ms\n", m.before.count,
	       m.dump_ns / 1e6, m.build_ns / 1e6);
	forget(&m);
	end(pid);
}

static void set_up_limited(void)
{
	struct rlimit limit = { 16, 16 };

	for (int i = 0; i < 16; i++)
		must(eventfd(i, 0));
	must(setrlimit(RLIMIT_NOFILE, &limit));
}

/* There is no number left for what we need while building. */
static void full_table_is_built(void)
{
	pid_t pid = start(set_up_limited);
	struct rlimit limit;
	struct moved m;

	move(&m, pid, 0);
	expect(!prlimit(m.pid, RLIMIT_NOFILE, NULL, &limit) && limit.rlim_cur > 16);
	forget(&m);
	end(pid);
}

static void damaged_images_are_refused(void)
{
	FdinfoEntry number = FDINFO_ENTRY__INIT;
	struct moved m = { .pid = free_pid(), .images = image_set_new() };
	struct built_files none = { 0 };
	struct build build = { .pid = m.pid, .images = m.images, .files = &none, .table = m.pid };
	struct phaul_error err = { 0 };
	FileEntry file = FILE_ENTRY__INIT;
	uint32_t count;

	build.err = &err;
	number.id = 5;
	number.fd = 3;
	number.type = FD_TYPES__REG;
	expect(!image_put(m.images, "fdinfo", m.pid, &number.base));
	expect(descriptors_build(&build, &count) == -EPROTO);
	/* An entry without what its type promises. */
	file.id = 5;
	file.type = FD_TYPES__EVENTPOLL;
	expect(!image_put(m.images, "files", -1, &file.base));
	expect(build_in_husk(&m, 0, &err) == -EPROTO);
	forget(&m);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	if (geteuid()) {
		printf("needs root\n");
		return 77;
	}
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	expect(shared != MAP_FAILED && mkdtemp(directory));
	files_come_back();
	other_size_is_refused();
	obstacles_are_named();
	pipes_keep_their_content();
	outside_ends_are_told();
	output_goes_to_a_log();
	packets_are_refused();
	counters_go_on();
	epoll_watches_the_same();
	listeners_listen();
	taken_port_is_named();
	connections_are_named();
	closed_connections_wake_who_waits();
	full_table_is_built();
	damaged_images_are_refused();
	many_cost_little(10);
	many_cost_little(1000);
	many_cost_little(10000);
	/* The names of refused_files, whichever of them are left. */
	for (const char *const *name =
		     (const char *[]){ "log", "replaced", "locked", "fifo", NULL };
	     *name; name++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", directory, *name);
		unlink(path);
	}
	rmdir(directory);
	return 0;
}
