/* unix_sockets.c - unix sockets of every kind, with what waits in them: pairs, descriptors on their way, connections to a
 * listener that are accepted or wait, names that are absolute, relative, abstract or deleted, packets and their senders.
 */
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "victim.h"

static struct sockaddr_un address;

/* "@name" is abstract. */
static socklen_t name(const char *text)
{
	memset(&address, 0, sizeof(address));
	address.sun_family = AF_UNIX;
	strncpy(address.sun_path, text, sizeof(address.sun_path) - 1);
	if (*text == '@')
		address.sun_path[0] = 0;
	return offsetof(struct sockaddr_un, sun_path) + strlen(text) + (*text != '@');
}

static int bound(int type, const char *text)
{
	int fd = socket(AF_UNIX, type, 0);
	socklen_t size = name(text);

	victim_check(fd >= 0);
	if (bind(fd, (void *)&address, size))
		victim_fail("bind %s: %s", text, strerror(errno));
	return fd;
}

static int connected(int fd, const char *text)
{
	socklen_t size = name(text);

	if (connect(fd, (void *)&address, size))
		victim_fail("connect %s: %s", text, strerror(errno));
	return fd;
}

static void put(int fd, const char *text)
{
	victim_check(send(fd, text, strlen(text), 0) == (ssize_t)strlen(text));
}

static void holds(int fd, const char *text)
{
	char got[64] = "";
	ssize_t n = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);

	if (n != (ssize_t)strlen(text) || memcmp(got, text, n))
		victim_fail("fd %d: \"%s\" (%zd, %s) instead of \"%s\"", fd, got, n, strerror(errno), text);
}

static void holds_from(int fd, const char *text, const char *from)
{
	struct sockaddr_un sender;
	socklen_t size = sizeof(sender), expected = name(from);
	char got[64] = "";
	ssize_t n = recvfrom(fd, got, sizeof(got) - 1, MSG_DONTWAIT, (void *)&sender, &size);

	if (n != (ssize_t)strlen(text) || memcmp(got, text, n) || size != expected || memcmp(&sender, &address, size))
		victim_fail("\"%s\" of another sender (%d bytes) instead of \"%s\" of %s", got, size, text, from);
}

static void has_name(int fd, const char *text)
{
	struct sockaddr_un now;
	socklen_t size = sizeof(now), expected = name(text);

	victim_check(getsockname(fd, (void *)&now, &size) == 0);
	if (size != expected || memcmp(&now, &address, size))
		victim_fail("fd %d has another name than %s", fd, text);
}

static void talk(int a, int b)
{
	put(a, "there");
	holds(b, "there");
	put(b, "and back");
	holds(a, "and back");
}

static void send_descriptor(int through, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, c = 'x';
	struct iovec part = { &c, 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &fd, sizeof(int));
	victim_check(sendmsg(through, &m, 0) == 1);
}

static int receive_descriptor(int through)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, c;
	struct iovec part = { &c, 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int fd;

	if (recvmsg(through, &m, MSG_DONTWAIT) != 1 || !CMSG_FIRSTHDR(&m))
		victim_fail("no descriptor was on its way: %s", strerror(errno));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return fd;
}

/* ---- pairs ---- */

static int pair[2], packets[2], twins[2], half[2], orphan[2];

static void make_pairs(void)
{
	int one = 1;

	victim_check(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair) && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
	victim_check(!socketpair(AF_UNIX, SOCK_DGRAM, 0, twins) && !socketpair(AF_UNIX, SOCK_STREAM, 0, half));
	victim_check(!socketpair(AF_UNIX, SOCK_STREAM, 0, orphan));
	put(pair[0], "in a pair");
	setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
	put(packets[0], "first");
	put(packets[0], "second");
	put(twins[1], "twin");
	put(half[0], "last words");
	victim_check(shutdown(half[0], SHUT_WR) == 0);
	put(orphan[0], "legacy");
	close(orphan[0]);
}

static void check_pairs(void)
{
	holds(pair[1], "in a pair");
	talk(pair[0], pair[1]);
	holds(packets[1], "first");
	holds(packets[1], "second");
	talk(packets[0], packets[1]);
	holds(twins[0], "twin");
	talk(twins[0], twins[1]);
	holds(half[1], "last words");
	holds(half[1], "");
	put(half[1], "still open");
	holds(half[0], "still open");
	holds(orphan[1], "legacy");
	holds(orphan[1], "");
}

/* ---- descriptors on their way ---- */

static int carrier[2], watching[2];

/* A pipe that only exists on its way, and a socket in which another waits. */
static void send_pipe(void)
{
	int pipes[2], inner[2];

	victim_check(!socketpair(AF_UNIX, SOCK_STREAM, 0, carrier));
	victim_check(!pipe(pipes) && write(pipes[1], "piped", 5) == 5 && !socketpair(AF_UNIX, SOCK_DGRAM, 0, inner));
	send_descriptor(carrier[0], pipes[0]);
	send_descriptor(inner[0], pipes[1]);
	send_descriptor(carrier[0], inner[1]);
	close(pipes[0]);
	close(pipes[1]);
	close(inner[0]);
	close(inner[1]);
}

static void receive_pipe(void)
{
	int reading = receive_descriptor(carrier[1]), writing = receive_descriptor(receive_descriptor(carrier[1]));
	char text[16];

	victim_check(write(writing, "!", 1) == 1 && read(reading, text, 16) == 6 && !memcmp(text, "piped!", 6));
}

/* It watches the socket in which it waits itself, under a number that is another's by now, and a pipe that waits there, too. */
static void send_watching(void)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = 0x1122334455667788 };
	int epoll = epoll_create1(EPOLL_CLOEXEC), pipes[2], number;

	victim_check(!socketpair(AF_UNIX, SOCK_DGRAM, 0, watching));
	number = dup(watching[1]);
	victim_check(epoll >= 0 && number >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, number, &event) == 0);
	victim_check(dup2(STDERR_FILENO, number) == number && !pipe(pipes) && write(pipes[1], "x", 1) == 1);
	event.data.u64 = 42;
	victim_check(epoll_ctl(epoll, EPOLL_CTL_ADD, pipes[0], &event) == 0);
	send_descriptor(watching[0], epoll);
	send_descriptor(watching[0], epoll);
	send_descriptor(watching[0], pipes[0]);
	close(epoll);
	close(pipes[0]);
	close(pipes[1]);
}

static void still_watches(void)
{
	struct epoll_event events[3];
	int epoll = receive_descriptor(watching[1]), again = receive_descriptor(watching[1]), pipe;

	victim_check(epoll_wait(epoll, events, 3, 0) == 2);
	victim_check(events[0].data.u64 + events[1].data.u64 == 0x1122334455667788 + 42);
	pipe = receive_descriptor(watching[1]);
	victim_check(epoll_wait(again, events, 3, 0) == 1 && events[0].data.u64 == 42);
	victim_check(read(pipe, events, 1) == 1 && epoll_wait(epoll, events, 3, 0) == 1 && events[0].events == EPOLLHUP);
}

/* ---- a server in a file ---- */

static int listener, accepted, client, waiting;

static void serve(const char *path)
{
	listener = bound(SOCK_STREAM, path);
	victim_check(chmod(path, 0640) == 0 && listen(listener, 5) == 0);
	client = connected(socket(AF_UNIX, SOCK_STREAM, 0), path);
	accepted = accept(listener, NULL, NULL);
	put(client, "to the server");
	put(accepted, "to the client");
	waiting = connected(socket(AF_UNIX, SOCK_STREAM, 0), path);
}

static void still_serves(const char *path)
{
	struct stat st;

	has_name(listener, path);
	has_name(accepted, path);
	victim_check(stat(path, &st) == 0 && (st.st_mode & 07777) == 0640);
	holds(accepted, "to the server");
	holds(client, "to the client");
	talk(client, accepted);
	accepted = accept(listener, NULL, NULL);
	victim_check(accepted >= 0);
	talk(waiting, accepted);
	victim_check(connected(socket(AF_UNIX, SOCK_STREAM, 0), path) >= 0);
}

/* ---- packets to names: relative, deleted, abstract ---- */

static int relative, receiver, gone, gone_client, datagram, sender;

static void bind_names(void)
{
	char abstract[64];

	relative = bound(SOCK_DGRAM, "relative");
	gone = bound(SOCK_DGRAM, "gone");
	gone_client = connected(socket(AF_UNIX, SOCK_DGRAM, 0), "gone");
	victim_check(unlink("gone") == 0 && mkdir("gone", 0700) == 0);
	snprintf(abstract, sizeof(abstract), "@phaul-victim-%d", getpid());
	datagram = bound(SOCK_DGRAM, abstract);
	sender = connected(bound(SOCK_DGRAM, "sender"), abstract);
	put(sender, "signed");
	receiver = connected(socket(AF_UNIX, SOCK_DGRAM, 0), "relative");
}

static void check_names(void)
{
	has_name(relative, "relative");
	put(receiver, "by a relative name");
	holds(relative, "by a relative name");
	has_name(gone, "gone");
	put(gone_client, "to the deleted");
	holds(gone, "to the deleted");
	victim_check(rmdir("gone") == 0);
	holds_from(datagram, "signed", "sender");
	put(sender, "again");
	holds_from(datagram, "again", "sender");
}

int main(int argc, char **argv)
{
	char place[PATH_MAX], path[sizeof(address.sun_path)];

	victim_begin(argc, argv);
	snprintf(place, sizeof(place), "%s.place", victim_path);
	victim_check(mkdir(place, 0700) == 0 && chdir(place) == 0);
	victim_check(strlen(place) < sizeof(path) - 8);
	snprintf(path, sizeof(path), "%.90s/listen", place);
	make_pairs();
	send_pipe();
	send_watching();
	serve(path);
	bind_names();

	victim_ready();
	while (victim_tick())
		usleep(1000);

	check_pairs();
	receive_pipe();
	still_watches();
	still_serves(path);
	check_names();
	return victim_ok();
}
