#include "handshakes.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_BYTES 32768

/* IPv4 that looks like IPv6 is at an IPv4 address. */
static bool is_at(const struct inet_diag_msg *m, const struct moved_address *a)
{
	static const uint8_t mapped[12] = { [10] = 0xff, 0xff };
	bool six = m->idiag_family == AF_INET6;

	if (a->family == AF_INET6)
		return six && !memcmp(m->id.idiag_src, &a->at, 16);
	return six ? !memcmp(m->id.idiag_src, mapped, 12) && !memcmp(&m->id.idiag_src[3], &a->at, 4) :
		     !memcmp(m->id.idiag_src, &a->at, 4);
}

static bool is_any(const struct inet_diag_msg *m)
{
	static const uint32_t none[4];

	return !memcmp(m->id.idiag_src, none, m->idiag_family == AF_INET6 ? 16 : 4);
}

/* A listener's receive queue is that of connections to accept. */
static int count_one(const struct inet_diag_msg *m, const struct moved_addresses *a)
{
	bool concerns = m->idiag_state == TCP_LISTEN && is_any(m);

	for (size_t i = 0; i < a->count && !concerns; i++)
		concerns = is_at(m, &a->at[i]);
	return !concerns ? 0 : m->idiag_state == TCP_LISTEN ? (int)m->idiag_rqueue : 1;
}

/* Returns 1 when the answer is complete, or -errno. */
static int count_some(const char *answer, size_t size, const struct moved_addresses *a, int *count)
{
	for (const struct nlmsghdr *h = (const void *)answer; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
		if (h->nlmsg_type == NLMSG_DONE)
			return 1;
		if (h->nlmsg_type == NLMSG_ERROR)
			return ((const struct nlmsgerr *)NLMSG_DATA(h))->error ?: 1;
		if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY)
			*count += count_one(NLMSG_DATA(h), a);
	}
	return 0;
}

static int count_family(int fd, int family, const struct moved_addresses *a, int *count)
{
	struct { struct nlmsghdr h; struct inet_diag_req_v2 r; } ask = {
		.h = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.r = { .sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1u << TCP_SYN_RECV | 1u << TCP_LISTEN },
	};
	char answer[ANSWER_BYTES] __attribute__((aligned(8)));
	int code = send(fd, &ask, sizeof(ask), 0) < 0 ? -errno : 0;

	while (!code) {
		ssize_t got = recv(fd, answer, sizeof(answer), 0);

		code = got < 0 ? -errno : count_some(answer, got, a, count);
	}
	return code < 0 ? code : 0;
}

int handshakes_count(const struct moved_addresses *a)
{
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), count = 0;
	int code = fd < 0 ? -errno : count_family(fd, AF_INET, a, &count) ?: count_family(fd, AF_INET6, a, &count);

	if (fd >= 0)
		close(fd);
	return code ? code : count;
}
