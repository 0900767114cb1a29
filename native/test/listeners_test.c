/* listeners_test.c - sockets that listen, or are connected. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "subject.h"

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
	subject->port = ntohs(v6.sin6_port);
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
	subject_end(pid);
	if (moved_build(m, 64, err) || descriptors_read(m->pid, false, &m->after, err))
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
	pid_t pid = subject_start(set_up_listeners);
	char *text = check_text(pid, 0);
	struct phaul_error err = { 0 };
	struct moved m = { .pid = free_pid() };
	int ports[6], fd, client;

	if (*text)
		die("unexpected: %s", text);
	free(text);
	expect(!moved_dump(&m, pid, 0, &err));
	for (int i = 0; i < 6; i++) {
		fd = syscall(SYS_pidfd_getfd, m.before.pidfd, i, 0);
		ports[i] = port_of(fd);
		close(fd);
	}
	let_go(&m, pid, &err);
	for (int i = 0; i < 6; i++) {
		fd = moved_own(&m, i);
		expect(port_of(fd) == ports[i]);
		close(fd);
	}
	fd = moved_own(&m, 0);
	expect(option(fd, IPPROTO_TCP, TCP_NODELAY) == 1 &&
	       option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT) == 3);
	expect(option(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 33 &&
	       option(fd, SOL_SOCKET, SO_KEEPALIVE) == 1);
	expect(option(fd, SOL_SOCKET, SO_RCVBUF) == 80000 && !option(fd, SOL_SOCKET, SO_REUSEADDR));
	client = connect_to(ports[0]);
	expect(client >= 0);
	close(client);
	close(fd);
	fd = moved_own(&m, 1);
	expect(option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
	close(fd);
	fd = moved_own(&m, 2);
	expect(option(fd, IPPROTO_IP, IP_TOS) == 0x10 && !(moved_after(&m, 2)->flags & O_NONBLOCK));
	close(fd);
	fd = moved_own(&m, 3);
	expect(option(fd, SOL_SOCKET, SO_REUSEADDR) == 1);
	close(fd);
	moved_forget(&m);
}

static void taken_port_is_named(void)
{
	pid_t pid = subject_start(set_up_listeners);
	struct moved m = { .pid = free_pid() };
	struct phaul_error err = { 0 };
	char expected[64];

	expect(!moved_dump(&m, pid, 0, &err));
	expect(moved_build(&m, 0, &err) == -EADDRINUSE);
	snprintf(expected, sizeof(expected), "is taken here by pid %d (subject)", pid);
	if (!strstr(err.what, expected))
		die("%s", err.what);
	moved_forget(&m);
	subject_end(pid);
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
	must(connect_to(subject->port));			/* 1 */
	must(accept(0, NULL, NULL));			/* 2 */
	must(socket(AF_INET, SOCK_DGRAM, 0));		/* 3 */
	a.sin_port = htons(9);
	must(connect(3, (void *)&a, sizeof(a)));
	must(socket(AF_INET6, SOCK_STREAM, 0));		/* 4 */
	v6.sin6_port = htons(subject->port);
	must(connect(4, (void *)&v6, sizeof(v6)));
	must(accept4(0, NULL, NULL, SOCK_NONBLOCK));	/* 5 */
	must(connect_to(subject->port));			/* 6, in the queue of 0 */
}

static void connections_are_named(void)
{
	pid_t pid = subject_start(set_up_connections);
	char *text = check_text(pid, 0), expected[64];

	snprintf(expected, sizeof(expected), " <-> 127.0.0.1:%d, which", subject->port);
	expect_line(text, "TCP_ESTABLISHED\tfd 1\tfd 1 is a TCP connection 127.0.0.1:", expected);
	expect_line(text, "TCP_ESTABLISHED\tfd 2\t", "--tcp close");
	expect_line(text, "TCP_ESTABLISHED\tfd 4\t", expected);
	expect_line(text, "TCP_WAITING\tfd 0\t", "1 connection waits to be accepted");
	free(text);
	text = check_text(pid, PHAUL_TCP_CLOSE);
	expect_line(text, "~TCP_ESTABLISHED\tfd 1\t", "it will be reset");
	expect_line(text, "~TCP_WAITING\tfd 0\t", "they will be reset");
	free(text);
	subject_end(pid);
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
	pid_t pid = subject_start(set_up_closed);
	struct moved m = { .pid = free_pid() };
	struct phaul_error err = { 0 };
	struct epoll_event events[16];
	int fd, n;

	if (moved_dump(&m, pid, PHAUL_TCP_CLOSE, &err))
		die("%s", err.what);
	let_go(&m, pid, &err);
	fd = moved_own(&m, 3);
	n = epoll_wait(fd, events, 16, 0);
	expect(n == 4);
	for (int i = 0; i < n; i++)
		expect(events[i].data.u64 != 0 && events[i].events & EPOLLIN);
	close(fd);
	for (int number = 1; number <= 5; number++) {
		if (number == 3)
			continue;
		fd = moved_own(&m, number);
		expect(read(fd, (char[1]){ 0 }, 1) < 0 && errno == ECONNRESET);
		expect(read(fd, (char[1]){ 0 }, 1) == 0);
		expect(send(fd, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
		close(fd);
	}
	moved_forget(&m);
}

int main(void)
{
	if (!subject_prepare())
		return 77;
	listeners_listen();
	taken_port_is_named();
	connections_are_named();
	closed_connections_wake_who_waits();
	rmdir(subject_directory);
	return 0;
}
