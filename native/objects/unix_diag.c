/* unix_diag.c - one unix socket, asked for by its inode number. */
#include "unix_socket.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int take(struct unix_facts *ret, const struct rtattr *a)
{
	const void *data = RTA_DATA(a);
	size_t size = RTA_PAYLOAD(a);
	const struct unix_diag_rqlen *lengths = data;

	switch (a->rta_type) {
	case UNIX_DIAG_PEER:
		memcpy(&ret->peer, data, sizeof(ret->peer));
		break;
	case UNIX_DIAG_SHUTDOWN:
		ret->shutdown = *(const uint8_t *)data;
		break;
	case UNIX_DIAG_RQLEN:
		ret->backlog = lengths->udiag_wqueue;
		break;
	case UNIX_DIAG_ICONS:
		free(ret->waiting);
		ret->waiting = malloc(size);
		if (!ret->waiting)
			return -ENOMEM;
		memcpy(ret->waiting, data, size);
		ret->waiting_count = size / sizeof(*ret->waiting);
		break;
	}
	return 0;
}

static int take_answer(struct unix_facts *ret, const struct nlmsghdr *h, size_t size)
{
	const struct unix_diag_msg *m = NLMSG_DATA(h);
	const struct rtattr *a;
	int err = 0, left;

	if (!NLMSG_OK(h, size))
		return -EPROTO;
	if (h->nlmsg_type == NLMSG_ERROR)
		return ((const struct nlmsgerr *)NLMSG_DATA(h))->error ?: -EPROTO;
	ret->type = m->udiag_type;
	ret->state = m->udiag_state;
	a = (const struct rtattr *)(m + 1);
	left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m));
	for (; RTA_OK(a, left) && !err; a = RTA_NEXT(a, left))
		err = take(ret, a);
	return err;
}

int unix_diag(ino_t ino, struct unix_facts *ret)
{
	struct { struct nlmsghdr h; struct unix_diag_req r; } ask = {
		.h = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST },
		.r = {
			.sdiag_family = AF_UNIX, .udiag_ino = ino, .udiag_cookie = { ~0u, ~0u },
			.udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN,
		},
	};
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), err;
	size_t room = 1 << 18;		/* a listener's backlog by its numbers */
	char *answer = malloc(room);
	ssize_t got = -1;

	memset(ret, 0, sizeof(*ret));
	if (fd >= 0 && answer && send(fd, &ask, sizeof(ask), 0) >= 0)
		got = recv(fd, answer, room, 0);
	err = !answer ? -ENOMEM : got < 0 ? -errno : take_answer(ret, (struct nlmsghdr *)answer, got);
	if (fd >= 0)
		close(fd);
	free(answer);
	if (err)
		unix_facts_free(ret);
	return err;
}

void unix_facts_free(struct unix_facts *facts)
{
	free(facts->waiting);
	facts->waiting = NULL;
	facts->waiting_count = 0;
}
