/* files.c - REPORT: descriptors of every kind that moves, compared before and after. The files lie beside the
 * report.
 */
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "victim.h"

#define HIGH 5000
#define MOST 64

static struct { int fd; int flags, cloexec; off_t offset; dev_t device; ino_t inode; } before[MOST];
static int known;

static int keep(int fd)
{
	victim_check(fd >= 0 && known < MOST);
	before[known++].fd = fd;
	return fd;
}

static void describe(int i)
{
	struct stat st;
	int fd = before[i].fd;

	victim_check(fstat(fd, &st) == 0);
	before[i].flags = fcntl(fd, F_GETFL);
	before[i].cloexec = fcntl(fd, F_GETFD);
	before[i].offset = lseek(fd, 0, SEEK_CUR);
	before[i].device = st.st_dev;
	before[i].inode = S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISCHR(st.st_mode) ? st.st_ino : 0;
}

static void compare(int i)
{
	int fd = before[i].fd, flags = before[i].flags, cloexec = before[i].cloexec;
	off_t offset = before[i].offset;
	ino_t inode = before[i].inode;

	describe(i);
	if (before[i].flags != flags || before[i].cloexec != cloexec || before[i].offset != offset ||
	    before[i].inode != inode)
		victim_fail("fd %d: flags %o instead of %o, FD_CLOEXEC %d (%d), offset %ld (%ld)", fd, before[i].flags,
			    flags, before[i].cloexec, cloexec, (long)before[i].offset, (long)offset);
}

static int file(const char *suffix, int flags)
{
	char path[512];

	snprintf(path, sizeof(path), "%s.%s", victim_path, suffix);
	return keep(open(path, flags | O_CREAT, 0600));
}

/* ---- files, a directory, devices ---- */

static char bytes[70000], pattern[70000];
static int shared, again, own, append, high;
static DIR *directory;
static long place;

/* A number that no other descriptor comes near. */
static int find_high(void)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max < 2 * HIGH ? limit.rlim_max : 2 * HIGH;
	setrlimit(RLIMIT_NOFILE, &limit);
	return limit.rlim_cur > HIGH ? HIGH : 900;
}

static void open_files(void)
{
	high = find_high();
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = i * 7 + i / 251;
	shared = file("data", O_RDWR);
	victim_check(write(shared, pattern, 1000) == 1000);
	again = keep(dup(shared));
	keep(fcntl(shared, F_DUPFD_CLOEXEC, high));
	own = file("data", O_RDONLY | O_CLOEXEC);
	lseek(own, 10, SEEK_SET);
	append = file("log", O_WRONLY | O_APPEND | O_NONBLOCK);
	victim_check(write(append, "before ", 7) == 7);
	keep(open("/dev/null", O_RDWR));
	keep(open("/dev/zero", O_RDONLY));
	keep(open("/dev/urandom", O_RDONLY | O_CLOEXEC));
	keep(open("/", O_RDONLY | O_DIRECTORY));
	directory = opendir("/etc");
	for (int i = 0; i < 5; i++)
		(void)!readdir(directory);
	place = telldir(directory);
	keep(dirfd(directory));
}

static void check_files(void)
{
	lseek(again, 500, SEEK_SET);
	victim_check(lseek(shared, 0, SEEK_CUR) == 500 && lseek(high, 0, SEEK_CUR) == 500);
	victim_check(lseek(own, 0, SEEK_CUR) == 10 && read(own, bytes, 20) == 20 && !memcmp(bytes, pattern + 10, 20));
	victim_check(write(append, "after", 5) == 5 && lseek(append, 0, SEEK_END) == 12);
	victim_check(telldir(directory) == place && readdir(directory));
}

/* ---- pipes ---- */

static int pipe_fds[2], packets[2];

static void open_pipes(void)
{
	victim_check(pipe2(pipe_fds, O_NONBLOCK) == 0 && pipe2(packets, O_DIRECT) == 0);
	keep(pipe_fds[0]);
	keep(pipe_fds[1]);
	keep(packets[0]);
	keep(packets[1]);
	victim_check(fcntl(pipe_fds[1], F_SETPIPE_SZ, 1 << 17) == 1 << 17);
	victim_check(write(pipe_fds[1], pattern, sizeof(pattern)) == sizeof(pattern));
}

static void check_pipes(void)
{
	victim_check(fcntl(pipe_fds[1], F_GETPIPE_SZ) == 1 << 17);
	victim_check(read(pipe_fds[0], bytes, sizeof(bytes)) == sizeof(bytes) && !memcmp(bytes, pattern, sizeof(bytes)));
	victim_check(read(pipe_fds[0], bytes, 1) < 0 && errno == EAGAIN);
	victim_check(write(packets[1], "one", 3) == 3 && write(packets[1], "three", 5) == 5);
	victim_check(read(packets[0], bytes, 100) == 3 && read(packets[0], bytes, 100) == 5);
}

/* ---- sockets ---- */

static int four, six, udp, four_port, six_port, udp_port;

static int listen_on(int family, int *ret_port)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(six);
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, family == AF_INET ? (void *)&four : (void *)&six, family == AF_INET ? sizeof(four) : sizeof(six)) ||
	    listen(fd, 7)) {
		close(fd);
		return -1;
	}
	victim_check(getsockname(fd, (void *)&six, &size) == 0);
	*ret_port = ntohs(six.sin6_port);
	return keep(fd);
}

static void check_listener(int fd, int family, int port)
{
	struct sockaddr_in6 address;
	socklen_t size = sizeof(address), length = sizeof(int);
	int value, client;

	victim_check(getsockname(fd, (void *)&address, &size) == 0);
	victim_check(address.sin6_family == family && ntohs(address.sin6_port) == port);
	victim_check(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &value, &length) == 0 && value);
	victim_check(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length) == 0 && value);
	victim_check(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length) == 0 && value);
	client = socket(family, SOCK_STREAM, 0);
	victim_check(connect(client, (void *)&address, size) == 0);
	value = accept(fd, NULL, NULL);
	victim_check(value >= 0 && write(client, "x", 1) == 1);
	close(client);
	close(value);
}

static void open_sockets(void)
{
	struct sockaddr_in any = { .sin_family = AF_INET };
	socklen_t size = sizeof(any);

	four = listen_on(AF_INET, &four_port);
	six = listen_on(AF_INET6, &six_port);
	udp = keep(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	victim_check(bind(udp, (void *)&any, sizeof(any)) == 0 && getsockname(udp, (void *)&any, &size) == 0);
	udp_port = any.sin_port;
}

static void check_sockets(void)
{
	struct sockaddr_in any;
	socklen_t size = sizeof(any);

	check_listener(four, AF_INET, four_port);
	if (six >= 0)
		check_listener(six, AF_INET6, six_port);
	victim_check(getsockname(udp, (void *)&any, &size) == 0 && any.sin_port == udp_port);
	any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	victim_check(sendto(udp, "hello", 5, 0, (void *)&any, sizeof(any)) == 5 && recv(udp, bytes, 100, 0) == 5);
}

/* ---- events, and what watches them ---- */

static int events, counter, ready, signals, epoll;

static void open_events(void)
{
	struct epoll_event found[8];
	sigset_t set;

	events = keep(eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK));
	counter = keep(eventfd(123456, EFD_CLOEXEC));
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = keep(signalfd(-1, &set, SFD_NONBLOCK));
	raise(SIGHUP);
	epoll = keep(epoll_create1(EPOLL_CLOEXEC));
	ready = keep(eventfd(1, 0));
	epoll_ctl(epoll, EPOLL_CTL_ADD, ready, &(struct epoll_event){ EPOLLIN, { .u64 = 0x1234567890 } });
	epoll_ctl(epoll, EPOLL_CTL_ADD, pipe_fds[0], &(struct epoll_event){ EPOLLIN | EPOLLET, { .u64 = 22 } });
	epoll_ctl(epoll, EPOLL_CTL_ADD, counter, &(struct epoll_event){ EPOLLIN | EPOLLONESHOT, { .u64 = 33 } });
	epoll_ctl(epoll, EPOLL_CTL_ADD, four, &(struct epoll_event){ EPOLLIN, { .u64 = 44 } });
	victim_check(epoll_wait(epoll, found, 8, 0) == 3);	/* ET and ONESHOT are used up */
}

/* The pipe is empty by now. */
static void check_events(void)
{
	struct epoll_event found[8];
	uint64_t value;
	int got;

	for (int i = 0; i < 5; i++)
		victim_check(read(events, &value, 8) == 8 && value == 1);
	victim_check(read(events, &value, 8) < 0 && errno == EAGAIN);
	got = epoll_wait(epoll, found, 8, 0);
	/* Edges may be told once more: what a moved process sees is as if it had added the descriptor again. */
	for (int i = 0; i < got; i++)
		victim_check(found[i].data.u64 == 0x1234567890 || found[i].data.u64 == 22);
	victim_check(got >= 1);
	epoll_ctl(epoll, EPOLL_CTL_MOD, counter, &(struct epoll_event){ EPOLLIN, { .u64 = 34 } });
	victim_check(read(ready, &value, 8) == 8 && epoll_wait(epoll, found, 8, 0) == 1 && found[0].data.u64 == 34);
	victim_check(read(counter, &value, 8) == 8 && value == 123456);
	victim_check(read(signals, bytes, sizeof(struct signalfd_siginfo)) == sizeof(struct signalfd_siginfo));
}

int main(int argc, char **argv)
{
	char path[512];

	victim_begin(argc, argv);
	open_files();
	open_pipes();
	open_sockets();
	open_events();
	victim_check(chdir("/usr") == 0);
	umask(027);
	for (int i = 0; i < known; i++)
		describe(i);
	victim_ready();
	while (victim_tick())
		usleep(1000);
	for (int i = 0; i < known; i++)
		compare(i);
	check_files();
	check_pipes();
	check_events();
	check_sockets();
	victim_check(getcwd(path, sizeof(path)) && !strcmp(path, "/usr") && umask(0) == 027);
	return victim_ok();
}
