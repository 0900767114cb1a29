/* inet_diag.c - what only the kernel's socket diagnosis tells of a UDP socket. */
#include "inet_socket.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void set_end(const union tcp_address *a, uint16_t *port, uint32_t address[4])
{
	*port = a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port;
	if (a->any.sa_family == AF_INET6)
		memcpy(address, &a->v6.sin6_addr, 16);
	else
		memcpy(address, &a->v4.sin_addr, 4);
}

static int shutdown_of(const struct nlmsghdr *h, size_t size)
{
	const struct inet_diag_msg *m = NLMSG_DATA(h);
	const struct rtattr *a = (const struct rtattr *)(m + 1);
	int left;

	if (!NLMSG_OK(h, size) || h->nlmsg_type != SOCK_DIAG_BY_FAMILY)
		return 0;
	left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m));
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == INET_DIAG_SHUTDOWN)
			return *(const uint8_t *)RTA_DATA(a);
	return 0;
}

int inet_udp_shutdown(int socket_fd, int protocol, const union tcp_address *local, const union tcp_address *peer)
{
	struct { struct nlmsghdr h; struct inet_diag_req_v2 r; } ask = {
		.h = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.r = {
			.sdiag_family = local->any.sa_family, .sdiag_protocol = protocol, .idiag_states = ~0u,
			.idiag_ext = 1 << (INET_DIAG_SHUTDOWN - 1),
		},
	};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), found = 0;
	socklen_t size = sizeof(ask.r.id.idiag_cookie);
	char answer[8192];
	ssize_t got = -1;

	/* As a packet to the socket has them: the kernel looks UDP up by its receiving side. */
	set_end(peer, &ask.r.id.idiag_sport, ask.r.id.idiag_src);
	set_end(local, &ask.r.id.idiag_dport, ask.r.id.idiag_dst);
	if (getsockopt(socket_fd, SOL_SOCKET, SO_COOKIE, ask.r.id.idiag_cookie, &size) < 0)
		ask.r.id.idiag_cookie[0] = ask.r.id.idiag_cookie[1] = ~0u;
	if (fd >= 0 && send(fd, &ask, sizeof(ask), 0) >= 0)
		got = recv(fd, answer, sizeof(answer), 0);
	if (got > 0)
		found = shutdown_of((struct nlmsghdr *)answer, got);
	if (fd >= 0)
		close(fd);
	return found;
}
