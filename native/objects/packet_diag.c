/* packet_diag.c - all packet sockets of the network namespace, as the kernel tells of none alone. */
#include "packet_socket.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM (1 << 16)

static int take(struct packet_facts *ret, const struct rtattr *a)
{
	const void *data = RTA_DATA(a);
	size_t size = RTA_PAYLOAD(a);

	switch (a->rta_type) {
	case PACKET_DIAG_INFO:
		memcpy(&ret->info, data, size < sizeof(ret->info) ? size : sizeof(ret->info));
		break;
	case PACKET_DIAG_MCLIST:
		free(ret->members);
		ret->member_count = size / sizeof(*ret->members);
		ret->members = malloc(size + 1);
		if (!ret->members)
			return -ENOMEM;
		memcpy(ret->members, data, size);
		break;
	case PACKET_DIAG_FANOUT:
		memcpy(&ret->fanout, data, sizeof(ret->fanout));
		break;
	case PACKET_DIAG_RX_RING:
		ret->has_rx = size >= sizeof(ret->rx);
		memcpy(&ret->rx, data, ret->has_rx ? sizeof(ret->rx) : 0);
		break;
	case PACKET_DIAG_TX_RING:
		ret->has_tx = size >= sizeof(ret->tx);
		memcpy(&ret->tx, data, ret->has_tx ? sizeof(ret->tx) : 0);
		break;
	}
	return 0;
}

static int take_socket(struct packet_facts *ret, const struct nlmsghdr *h)
{
	const struct packet_diag_msg *m = NLMSG_DATA(h);
	const struct rtattr *a = (const struct rtattr *)(m + 1);
	int left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m)), err = 0;

	ret->type = m->pdiag_type;
	ret->protocol = m->pdiag_num;
	ret->fanout = PACKET_NO_FANOUT;
	for (; RTA_OK(a, left) && !err; a = RTA_NEXT(a, left))
		err = take(ret, a);
	return err;
}

/* 1: found; 0: there is more to come; -ENOENT: it wasn't among all. */
static int look(const char *answer, size_t size, ino_t ino, struct packet_facts *ret)
{
	for (const struct nlmsghdr *h = (const void *)answer; NLMSG_OK(h, size); h = NLMSG_NEXT(h, size)) {
		const struct packet_diag_msg *m = NLMSG_DATA(h);

		if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
			return -ENOENT;
		if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY && m->pdiag_ino == ino)
			return take_socket(ret, h) ?: 1;
	}
	return 0;
}

int packet_diag(ino_t ino, struct packet_facts *ret)
{
	struct { struct nlmsghdr h; struct packet_diag_req r; } ask = {
		.h = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.r = {
			.sdiag_family = AF_PACKET,
			.pdiag_show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT,
		},
	};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), err = 0;
	char *answer = malloc(ROOM);

	memset(ret, 0, sizeof(*ret));
	if (fd < 0 || !answer || send(fd, &ask, sizeof(ask), 0) < 0)
		err = -errno;
	while (!err) {
		ssize_t got = recv(fd, answer, ROOM, 0);

		err = got < 0 ? -errno : got ? look(answer, got, ino, ret) : -ENOENT;
	}
	if (fd >= 0)
		close(fd);
	free(answer);
	if (err > 0)
		return 0;
	packet_facts_free(ret);
	return err;
}

void packet_facts_free(struct packet_facts *facts)
{
	free(facts->members);
	facts->members = NULL;
	facts->member_count = 0;
}
