/* netlink_socket.c - sockets to the kernel: protocol, port, multicast groups. What the kernel has sent and nobody has read
 * is lost: nobody else can send it in the kernel's name.
 */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "socket_options.h"

#define GROUP_WORDS 64		/* of 32 groups each */

static int number(int fd, int name)
{
	socklen_t size = sizeof(int);
	int value = -1;

	return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

static bool is(const struct descriptor *d)
{
	return S_ISSOCK(d->st.st_mode) && d->family == AF_NETLINK;
}

static bool is_unread(const struct descriptor *d)
{
	char byte;

	return recv(d->own, &byte, 1, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC) > 0;
}

bool netlink_has_answer(const struct descriptor *d)
{
	struct sockaddr_nl name = { 0 };
	socklen_t size = sizeof(name);
	struct nlmsghdr head;

	return d->family == AF_NETLINK && recv(d->own, &head, sizeof(head), MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC) >= (ssize_t)sizeof(head) && head.nlmsg_seq &&
	       !getsockname(d->own, (struct sockaddr *)&name, &size) && name.nl_pid && head.nlmsg_pid == name.nl_pid;
}

static void check(struct check *c, const struct descriptor *d)
{
	if (is_unread(d))
		remark(c, d, "NETLINK_WAITING",
		       "is a netlink socket with messages of the kernel that were not read: these are lost");
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	NetlinkSkEntry e = NETLINK_SK_ENTRY__INIT;
	InetSkEntry options_of = INET_SK_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	struct socket_options options;
	struct sockaddr_nl own = { 0 }, peer = { 0 };
	socklen_t own_size = sizeof(own), peer_size = sizeof(peer), size = GROUP_WORDS * sizeof(uint32_t);
	uint32_t groups[GROUP_WORDS];
	int err;

	if (getsockname(d->own, (struct sockaddr *)&own, &own_size) < 0)
		return -errno;
	(void)getpeername(d->own, (struct sockaddr *)&peer, &peer_size);
	if (getsockopt(d->own, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size) < 0)
		size = 0;
	e.id = d->id;
	e.ino = d->st.st_ino;
	e.protocol = number(d->own, SO_PROTOCOL);
	e.flags = d->flags;
	e.fown = file_owner(d);
	e.portid = own.nl_pid;
	e.dst_portid = peer.nl_pid;
	e.dst_group = peer.nl_groups;
	e.groups = groups;
	e.n_groups = size / sizeof(uint32_t);
	e.has_phaul_type = true;
	e.phaul_type = number(d->own, SO_TYPE);
	options_of.family = AF_NETLINK;
	options_of.type = e.phaul_type;
	options_of.proto = e.protocol;
	err = socket_options_dump(d->own, &options, &dump->socket_defaults, &options_of);
	e.opts = options_of.opts;
	e.phaul_options = options_of.phaul_options;
	e.n_phaul_options = options_of.n_phaul_options;
	file.nlsk = &e;
	return err ? err : file_put(dump, d, &file);
}

static int join_groups(int fd, const NetlinkSkEntry *e)
{
	for (size_t i = 0; i < e->n_groups; i++)
		for (int bit = 0; bit < 32; bit++) {
			int group = i * 32 + bit + 1;

			if (e->groups[i] & 1u << bit &&
			    setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
				return -errno;
		}
	return 0;
}

static int build(struct build *b, const FileEntry *file)
{
	const NetlinkSkEntry *e = file->nlsk;
	InetSkEntry options_of = INET_SK_ENTRY__INIT;
	struct sockaddr_nl own = { .nl_family = AF_NETLINK, .nl_pid = e->portid };
	struct sockaddr_nl peer = { .nl_family = AF_NETLINK, .nl_pid = e->dst_portid, .nl_groups = e->dst_group };
	int type = e->has_phaul_type ? (int)e->phaul_type : SOCK_RAW, err = 0;
	int fd = socket(AF_NETLINK, type | SOCK_CLOEXEC | SOCK_NONBLOCK, e->protocol);

	if (fd < 0)
		return -errno;
	options_of.family = AF_NETLINK;
	options_of.type = type;
	options_of.opts = e->opts;
	options_of.phaul_options = e->phaul_options;
	options_of.n_phaul_options = e->n_phaul_options;
	if (e->portid && bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		err = phaul_fail(b->err, -errno, "descriptors", "binding the netlink socket fd %d to port %u", file_number(b, e->id),
				 e->portid);
	if (!err && (e->dst_portid || e->dst_group) && connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
		err = -errno;
	err = err ?: join_groups(fd, e) ?: socket_options_build(fd, &options_of, b->err);
	if (!err)
		return file_set_flags(b, fd, e->flags);
	close(fd);
	return err;
}

const struct descriptor_kind netlink_socket = {
	.name = "a netlink socket",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__NETLINKSK,
};
