/* multicast.c - REPORT: datagram sockets that are members of groups of the network on the loopback device, as mDNS has them, one of them
 * for one sender only; and options of sockets that are seldom set.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "victim.h"

#define PORT 5399

static const char *const names[] = { "239.7.7.1", "239.7.7.2", "ff02::7:7" };

static void set_address(int which, int port, struct sockaddr_storage *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (which == 2) {
		struct sockaddr_in6 *six = (void *)ret;

		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		six->sin6_scope_id = if_nametoindex("lo");
		victim_check(inet_pton(AF_INET6, names[which], &six->sin6_addr) == 1);
	} else {
		struct sockaddr_in *four = (void *)ret;

		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		victim_check(inet_pton(AF_INET, names[which], &four->sin_addr) == 1);
	}
}

static int join(int which)
{
	struct group_source_req one = { .gsr_interface = if_nametoindex("lo") };
	struct group_req group = { .gr_interface = one.gsr_interface };
	struct sockaddr_storage any;
	int level = which == 2 ? IPPROTO_IPV6 : IPPROTO_IP, on = 1, fd;

	set_address(which, PORT, &any);
	fd = socket(any.ss_family, SOCK_DGRAM, 0);
	victim_check(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0);
	victim_check(bind(fd, (void *)&any, which == 2 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)) == 0);
	set_address(which, 0, &group.gr_group);
	one.gsr_group = group.gr_group;
	((struct sockaddr_in *)&one.gsr_source)->sin_family = AF_INET;
	((struct sockaddr_in *)&one.gsr_source)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (which == 1)
		victim_check(setsockopt(fd, level, MCAST_JOIN_SOURCE_GROUP, &one, sizeof(one)) == 0);
	else
		victim_check(setsockopt(fd, level, MCAST_JOIN_GROUP, &group, sizeof(group)) == 0);
	return fd;
}

/* Of IPv6, packets have no way to the loopback device: it is left, and entered again, which only a member can. */
static void be_member(int fd, int which)
{
	struct group_req group = { .gr_interface = if_nametoindex("lo") };

	set_address(which, 0, &group.gr_group);
	if (setsockopt(fd, IPPROTO_IPV6, MCAST_LEAVE_GROUP, &group, sizeof(group)) < 0)
		victim_fail("no member of the group %s", names[which]);
	victim_check(setsockopt(fd, IPPROTO_IPV6, MCAST_JOIN_GROUP, &group, sizeof(group)) == 0);
}

static void hear(int fd, int which)
{
	struct ip_mreqn by = { .imr_ifindex = if_nametoindex("lo"), .imr_address.s_addr = htonl(INADDR_LOOPBACK) };
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	struct sockaddr_storage to;
	char text[8] = "";
	int sender;

	if (which == 2) {
		be_member(fd, which);
		return;
	}
	set_address(which, PORT, &to);
	sender = socket(to.ss_family, SOCK_DGRAM, 0);
	victim_check(setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &by, sizeof(by)) == 0);
	for (int i = 0; i < 50; i++) {
		victim_check(sendto(sender, "hear", 4, 0, (void *)&to, sizeof(struct sockaddr_in)) == 4);
		if (poll(&ready, 1, 100) > 0)
			break;
	}
	close(sender);
	if (recv(fd, text, sizeof(text), MSG_DONTWAIT) != 4 || memcmp(text, "hear", 4))
		victim_fail("nothing was heard in the group %s", names[which]);
}

static int number(int fd, int level, int name)
{
	socklen_t size = sizeof(int);
	int value = -1;

	victim_check(getsockopt(fd, level, name, &value, &size) == 0);
	return value;
}

static void set(int fd, int level, int name, int value)
{
	victim_check(setsockopt(fd, level, name, &value, sizeof(value)) == 0);
}

int main(int argc, char **argv)
{
	int members[3], alone, listener;
	char algorithm[16] = "";
	socklen_t size = sizeof(algorithm);

	victim_begin(argc, argv);
	for (int i = 0; i < 3; i++) {
		members[i] = join(i);
		hear(members[i], i);
	}
	alone = socket(AF_INET, SOCK_DGRAM, 0);
	set(alone, IPPROTO_IP, 49 /* IP_MULTICAST_ALL */, 0);
	set(alone, SOL_SOCKET, SO_TIMESTAMPING, 1 << 3 | 1 << 4);
	set(alone, SOL_SOCKET, 47 /* SO_MAX_PACING_RATE */, 1000000);
	set(alone, IPPROTO_IP, IP_MINTTL, 5);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	victim_check(listen(listener, 1) == 0);
	/* Every kernel has it, and few have it as the usual one. */
	victim_check(setsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
	set(listener, IPPROTO_TCP, 27 /* TCP_SAVE_SYN */, 1);
	victim_ready();
	while (victim_tick())
		usleep(1000);

	for (int i = 0; i < 3; i++)
		hear(members[i], i);
	victim_check(number(alone, IPPROTO_IP, 49) == 0 && number(alone, SOL_SOCKET, SO_TIMESTAMPING) == (1 << 3 | 1 << 4));
	victim_check(number(alone, SOL_SOCKET, 47) == 1000000 && number(alone, IPPROTO_IP, IP_MINTTL) == 5);
	victim_check(getsockopt(listener, IPPROTO_TCP, TCP_CONGESTION, algorithm, &size) == 0 && !strcmp(algorithm, "reno"));
	victim_check(number(listener, IPPROTO_TCP, 27) == 1);
	return victim_ok();
}
