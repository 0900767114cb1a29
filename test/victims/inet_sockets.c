/* inet_sockets.c - TCP connections with themselves: with data on its way in both directions, with one side closed, or both;
 * UDP sockets that are connected and shut down; a packet filter.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "victim.h"

#define LARGE 200000

static struct sockaddr_in address;
static socklen_t size = sizeof(address);
static char large[LARGE], got[LARGE + 1];

static void connect_pair(int listener, int ret[2])
{
	ret[0] = socket(AF_INET, SOCK_STREAM, 0);
	victim_check(getsockname(listener, (void *)&address, &size) == 0);
	victim_check(connect(ret[0], (void *)&address, size) == 0);
	ret[1] = accept(listener, NULL, NULL);
	victim_check(ret[1] >= 0);
}

static void holds(int fd, const char *text, size_t length)
{
	size_t have = 0;
	ssize_t n = 1;

	while (have < length && n > 0) {
		n = recv(fd, got + have, length - have, 0);
		have += n > 0 ? n : 0;
	}
	if (have != length || memcmp(got, text, length))
		victim_fail("fd %d: %zu bytes instead of %zu (%s)", fd, have, length, strerror(errno));
}

static void talk(int a, int b)
{
	victim_check(send(a, "there", 5, 0) == 5);
	holds(b, "there", 5);
	victim_check(send(b, "back", 4, 0) == 4);
	holds(a, "back", 4);
}

static int option(int fd, int level, int name)
{
	socklen_t length = sizeof(int);
	int value = -1;

	victim_check(getsockopt(fd, level, name, &value, &length) == 0);
	return value;
}

int main(int argc, char **argv)
{
	struct sock_filter pass[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	struct sock_fprog filter = { 1, pass };
	int listener = socket(AF_INET, SOCK_STREAM, 0), udp[2], one = 1, state;
	int plain[2], full[2], half[2], both[2], again;

	victim_begin(argc, argv);
	for (size_t i = 0; i < LARGE; i++)
		large[i] = i * 7 + i / 251;
	address = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	victim_check(bind(listener, (void *)&address, size) == 0 && listen(listener, 8) == 0);
	connect_pair(listener, plain);
	connect_pair(listener, full);
	connect_pair(listener, half);
	connect_pair(listener, both);
	setsockopt(plain[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(plain[0], SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	victim_check((again = fcntl(plain[0], F_DUPFD_CLOEXEC, 0)) >= 0);
	/* More than the receiver takes: some of it is not sent yet. */
	victim_check(fcntl(full[0], F_SETFL, O_NONBLOCK) == 0);
	victim_check(send(full[0], large, LARGE, 0) == LARGE && send(full[1], "answer", 6, 0) == 6);
	victim_check(send(half[0], "last", 4, 0) == 4 && shutdown(half[0], SHUT_WR) == 0);
	victim_check(shutdown(both[0], SHUT_WR) == 0 && shutdown(both[1], SHUT_WR) == 0);

	for (int i = 0; i < 2; i++) {
		udp[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		address.sin_port = 0;
		victim_check(bind(udp[i], (void *)&address, size) == 0);
	}
	for (int i = 0; i < 2; i++) {
		victim_check(getsockname(udp[!i], (void *)&address, &size) == 0);
		victim_check(connect(udp[i], (void *)&address, size) == 0);
	}
	victim_check(setsockopt(udp[0], SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0);
	victim_check(shutdown(udp[0], SHUT_WR) == 0);

	victim_ready();
	while (victim_tick())
		usleep(1000);

	talk(again, plain[1]);
	victim_check(fcntl(again, F_GETFD) == FD_CLOEXEC && fcntl(plain[0], F_GETFD) == 0 && fcntl(udp[0], F_GETFD) == FD_CLOEXEC);
	victim_check(option(plain[0], IPPROTO_TCP, TCP_NODELAY) == 1 && option(plain[0], SOL_SOCKET, SO_KEEPALIVE) == 1);
	victim_check(option(plain[0], SOL_SOCKET, SO_REUSEADDR) == 0);
	holds(full[1], large, LARGE);
	victim_check(fcntl(full[0], F_SETFL, 0) == 0);
	holds(full[0], "answer", 6);
	talk(full[0], full[1]);
	holds(half[1], "last", 4);
	victim_check(recv(half[1], got, 1, 0) == 0 && send(half[1], "more", 4, 0) == 4);
	holds(half[0], "more", 4);
	victim_check(recv(both[0], got, 1, 0) == 0 && recv(both[1], got, 1, 0) == 0);
	victim_check(send(both[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	state = option(both[0], SOL_SOCKET, SO_ERROR);
	victim_check(state == 0);
	victim_check(send(udp[1], "datagram", 8, 0) == 8);
	holds(udp[0], "datagram", 8);
	victim_check(send(udp[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	size = 0;
	victim_check(getsockopt(udp[0], SOL_SOCKET, SO_ATTACH_FILTER, NULL, &size) == 0 && size == 1);
	return victim_ok();
}
