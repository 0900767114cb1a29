/* inet_socket.c - TCP and UDP over IPv4 and IPv6: listening, bound and unused sockets. Connections
 * are refused, or become reset ones (--tcp close). */
#include "descriptors.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "port_holder.h"
#include "socket_options.h"

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct facts {
	int family, type, protocol;
	int state;		/* TCP_...; UDP has TCP_CLOSE or, connected, TCP_ESTABLISHED */
	int backlog, waiting;	/* of a listener */
	short events;		/* poll(), of which POLLRDHUP and POLLERR are asked for */
	union address local, peer;
};

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	(void)getsockopt(fd, level, name, &value, &size);
	return value;
}

static bool is(const struct descriptor *d)
{
	int family, type, protocol;

	if (!S_ISSOCK(d->st.st_mode))
		return false;
	family = option(d->own, SOL_SOCKET, SO_DOMAIN);
	type = option(d->own, SOL_SOCKET, SO_TYPE);
	protocol = option(d->own, SOL_SOCKET, SO_PROTOCOL);
	return (family == AF_INET || family == AF_INET6) &&
	       ((type == SOCK_STREAM && protocol == IPPROTO_TCP) ||
		(type == SOCK_DGRAM && protocol == IPPROTO_UDP));
}

static int learn(const struct descriptor *d, struct facts *ret)
{
	struct pollfd socket = { .fd = d->own, .events = POLLRDHUP };
	socklen_t size = sizeof(ret->local);
	struct tcp_info info = { 0 };

	memset(ret, 0, sizeof(*ret));
	if (getsockname(d->own, &ret->local.any, &size) < 0)
		return -errno;
	ret->family = ret->local.any.sa_family;
	ret->type = option(d->own, SOL_SOCKET, SO_TYPE);
	ret->protocol = ret->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
	size = sizeof(ret->peer);
	ret->state = TCP_CLOSE;
	if (!getpeername(d->own, &ret->peer.any, &size))
		ret->state = TCP_ESTABLISHED;
	if (poll(&socket, 1, 0) > 0)
		ret->events = socket.revents;
	if (ret->type != SOCK_STREAM)
		return 0;
	size = sizeof(info);
	if (getsockopt(d->own, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return -errno;
	ret->state = info.tcpi_state;
	if (ret->state == TCP_LISTEN) {
		/* The kernel shows the accept queue in these. */
		ret->waiting = info.tcpi_unacked;
		ret->backlog = info.tcpi_sacked;
	}
	return 0;
}

static int port_of(const union address *a)
{
	return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

static const char *text_of(const union address *a, char *ret, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr)) {
		inet_ntop(AF_INET, &a->v6.sin6_addr.s6_addr[12], host, sizeof(host));
		snprintf(ret, size, "%s:%d", host, port_of(a));
	} else if (a->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
		snprintf(ret, size, "[%s]:%d", host, port_of(a));
	} else {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
		snprintf(ret, size, "%s:%d", host, port_of(a));
	}
	return ret;
}

/* An address that the target may not have. */
static bool is_of_a_host(const union address *a)
{
	uint32_t v4 = a->v4.sin_addr.s_addr;

	if (a->any.sa_family == AF_INET6) {
		if (!IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr))
			return !IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr) &&
			       !IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
		memcpy(&v4, &a->v6.sin6_addr.s6_addr[12], 4);
	}
	return v4 && ntohl(v4) >> 24 != 127;
}

/* ---- check ---- */

static void check_listener(struct check *c, const struct descriptor *d, const struct facts *f)
{
	char local[64];

	text_of(&f->local, local, sizeof(local));
	if (f->waiting && c->flags & PHAUL_TCP_CLOSE)
		remark(c, d, "TCP_WAITING",
		       "listens on %s, and %d connection%s wait%s to be accepted: they will "
		       "be reset",
		       local, f->waiting, f->waiting == 1 ? "" : "s", f->waiting == 1 ? "s" : "");
	else if (f->waiting)
		refuse(c, d, "TCP_WAITING",
		       "listens on %s, and %d connection%s wait%s to be accepted: they "
		       "would be lost; try again, or run with --tcp close to reset them",
		       local, f->waiting, f->waiting == 1 ? "" : "s", f->waiting == 1 ? "s" : "");
	if (is_of_a_host(&f->local))
		remark(c, d, "TCP_ADDRESS",
		       "listens on %s only: nobody reaches it on a target that doesn't "
		       "have this address",
		       local);
}

static void check_connection(struct check *c, const struct descriptor *d, const struct facts *f)
{
	char local[64], peer[64] = "";
	bool known = f->peer.any.sa_family;

	text_of(&f->local, local, sizeof(local));
	if (known)
		text_of(&f->peer, peer, sizeof(peer));
	if (c->flags & PHAUL_TCP_CLOSE)
		remark(c, d, "TCP_ESTABLISHED", "is a TCP connection %s%s%s: it will be reset",
		       local, known ? " <-> " : " that is being made", peer);
	else
		refuse(c, d, "TCP_ESTABLISHED",
		       "is a TCP connection %s%s%s: connections are not moved yet; "
		       "run with --tcp close to reset it, or wait for its end",
		       local, known ? " <-> " : " that is being made", peer);
}

static void check_udp(struct check *c, const struct descriptor *d, const struct facts *f)
{
	char local[64], peer[64];
	int bytes = 0;

	text_of(&f->local, local, sizeof(local));
	if (f->state == TCP_ESTABLISHED)
		refuse(c, d, "UDP_CONNECTED",
		       "is a UDP socket connected %s <-> %s: these are not moved yet; let "
		       "the program close it",
		       local, text_of(&f->peer, peer, sizeof(peer)));
	else if (!ioctl(d->own, FIONREAD, &bytes) && bytes)
		remark(c, d, "UDP_WAITING",
		       "is a UDP socket on %s with unread datagrams: these are lost, as "
		       "datagrams may be",
		       local);
	if (is_of_a_host(&f->local))
		remark(c, d, "UDP_ADDRESS",
		       "is a UDP socket on %s only: nobody reaches it on a target that "
		       "doesn't have this address",
		       local);
}

static void check(struct check *c, const struct descriptor *d)
{
	socklen_t size = 0;
	struct facts f;

	if (learn(d, &f))
		return;
	/* Asked for with no room it says how many instructions there are. */
	if (getsockopt(d->own, SOL_SOCKET, SO_ATTACH_FILTER, NULL, &size) < 0 || size)
		refuse(c, d, "FD_SOCKET",
		       "is a socket with a packet filter (BPF): these are not moved; start "
		       "the program without it");
	if (f.type == SOCK_DGRAM)
		check_udp(c, d, &f);
	else if (f.state == TCP_LISTEN)
		check_listener(c, d, &f);
	else if (f.state != TCP_CLOSE)
		check_connection(c, d, &f);
}

/* ---- dump ---- */

/* Addresses as 32 bit words in network order. */
static size_t words_of(int family, const union address *a, uint32_t ret[4])
{
	if (family == AF_INET6)
		memcpy(ret, &a->v6.sin6_addr, 16);
	else
		memcpy(ret, &a->v4.sin_addr, 4);
	return family == AF_INET6 ? 4 : 1;
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	InetSkEntry image = INET_SK_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	struct socket_options options;
	uint32_t local[4] = { 0 }, peer[4] = { 0 };
	char interface[IF_NAMESIZE];
	struct facts f;
	int err = learn(d, &f);
	bool gone;

	if (err)
		return err;
	image.id = d->id;
	image.ino = d->st.st_ino;
	image.family = f.family;
	image.type = f.type;
	image.proto = f.protocol;
	image.state = f.state;
	image.flags = d->flags;
	image.fown = file_owner(d);
	image.backlog = f.backlog;
	image.src_port = port_of(&f.local);
	image.dst_port = port_of(&f.peer);
	image.n_src_addr = words_of(f.family, &f.local, local);
	image.src_addr = local;
	image.n_dst_addr = words_of(f.family, &f.peer, peer);
	image.dst_addr = peer;
	gone = f.type == SOCK_STREAM && f.state != TCP_LISTEN &&
	       (f.state != TCP_CLOSE || f.events & POLLRDHUP);
	if (gone) {
		/* A connection moves as a reset one. One that has ended before, and of whose end
		 * the program knows, has no peer in its image. */
		if (f.state == TCP_CLOSE && !(f.events & POLLERR))
			image.dst_port = 0;
		else if (!image.dst_port)
			image.dst_port = 1;
		image.state = TCP_CLOSE;
		image.has_shutdown = true;
		image.shutdown = SK_SHUTDOWN__BOTH;
	}
	if (f.family == AF_INET6) {
		image.has_v6only = true;
		image.v6only = option(d->own, IPPROTO_IPV6, IPV6_V6ONLY) == 1;
		if (f.local.v6.sin6_scope_id && if_indextoname(f.local.v6.sin6_scope_id, interface))
			image.ifname = interface;
	}
	/* It can only be closed, so what was set on it doesn't matter. */
	if (gone)
		socket_options_none(&options, &image);
	else
		err = socket_options_dump(d->own, &options, &dump->socket_defaults, &image);
	if (err)
		return err;
	file.isk = &image;
	return file_put(dump, d, &file);
}

/* ---- build ---- */

static int read_address(const InetSkEntry *image, union address *ret, socklen_t *ret_size)
{
	memset(ret, 0, sizeof(*ret));
	ret->any.sa_family = image->family;
	if (image->n_src_addr < (image->family == AF_INET6 ? 4 : 1))
		return -EPROTO;
	if (image->family == AF_INET6) {
		ret->v6.sin6_port = htons(image->src_port);
		memcpy(&ret->v6.sin6_addr, image->src_addr, 16);
		if (image->ifname)
			ret->v6.sin6_scope_id = if_nametoindex(image->ifname);
		*ret_size = sizeof(ret->v6);
	} else {
		ret->v4.sin_port = htons(image->src_port);
		memcpy(&ret->v4.sin_addr, image->src_addr, 4);
		*ret_size = sizeof(ret->v4);
	}
	return 0;
}

static int bind_failed(struct build *b, int failed, const InetSkEntry *image,
		       const union address *a)
{
	const char *protocol = image->type == SOCK_STREAM ? "TCP" : "UDP";
	char text[64], holder[64];

	text_of(a, text, sizeof(text));
	if (failed != -EADDRINUSE)
		return phaul_fail(b->err, failed, "descriptors",
				  "binding the %s socket fd %d to %s", protocol,
				  file_number(b, image->id), text);
	port_holder(image->type, image->src_port, holder, sizeof(holder));
	return phaul_fail(b->err, failed, "descriptors",
			  "the %s port %u of fd %d (%s) is taken here by %s", protocol,
			  image->src_port, file_number(b, image->id), text, holder);
}

/* An address that this host doesn't have may come after the process. */
static int bind_anyhow(int fd, const union address *a, socklen_t size)
{
	int on = 1, off = 0, err;

	if (!bind(fd, &a->any, size))
		return 0;
	if (errno != EADDRNOTAVAIL)
		return -errno;
	if (setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &on, sizeof(on)) < 0)
		return -errno;
	err = bind(fd, &a->any, size) < 0 ? -errno : 0;
	(void)setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &off, sizeof(off));
	return err;
}

static int bind_socket(struct build *b, int fd, const InetSkEntry *image)
{
	bool stream = image->type == SOCK_STREAM;
	int on = 1, reuse = image->opts->has_reuseaddr && image->opts->reuseaddr;
	union address a;
	socklen_t size;
	int err = read_address(image, &a, &size);

	if (err)
		return err;
	/* Connections of an earlier program that linger on here must not be in the way; listeners
	 * are still told apart. */
	if (stream)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	err = bind_anyhow(fd, &a, size);
	if (!err && image->state == TCP_LISTEN && listen(fd, image->backlog) < 0)
		err = -errno;
	if (stream)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
	return err ? bind_failed(b, err, image, &a) : 0;
}

/* A socket that a connection was reset on: the next read or write says ECONNRESET, then it is at
 * its end, and whoever polls is woken. It is connected to itself, which the kernel allows, and
 * disconnected. */
static void make_reset(int fd, int family)
{
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	union address self = { .any.sa_family = family };
	socklen_t size = family == AF_INET6 ? sizeof(self.v6) : sizeof(self.v4);
	int off = 0;

	if (family == AF_INET6) {
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
		self.v6.sin6_addr =
			(struct in6_addr){ .s6_addr = { [10] = 255, 255, 127, 0, 0, 1 } };
	} else {
		self.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	}
	if (bind(fd, &self.any, size) < 0 || getsockname(fd, &self.any, &size) < 0 ||
	    (connect(fd, &self.any, size) < 0 && errno != EINPROGRESS))
		return;
	(void)connect(fd, &nobody, sizeof(nobody));
}

static int build_tcp(struct build *b, int fd, const InetSkEntry *image)
{
	bool dead = image->state != TCP_CLOSE ||
		    (image->has_shutdown && image->shutdown == SK_SHUTDOWN__BOTH);

	if (image->state == TCP_LISTEN || !dead)
		return image->src_port || image->state == TCP_LISTEN ? bind_socket(b, fd, image)
								     : 0;
	if (image->dst_port)
		make_reset(fd, image->family);
	/* Fails, as there is no connection, and has its effect all the same. */
	(void)shutdown(fd, SHUT_RDWR);
	return 0;
}

static int build(struct build *b, const FileEntry *file)
{
	const InetSkEntry *image = file->isk;
	int fd = socket(image->family, image->type | SOCK_NONBLOCK | SOCK_CLOEXEC, image->proto);
	int on = image->has_v6only && image->v6only, err = 0;

	if (fd < 0)
		return -errno;
	if (image->family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	err = socket_options_build(fd, image, b->err);
	if (!err && image->type == SOCK_STREAM)
		err = build_tcp(b, fd, image);
	else if (!err && image->src_port)
		err = bind_socket(b, fd, image);
	if (err) {
		close(fd);
		return err;
	}
	return file_set_flags(b, fd, image->flags);
}

const struct descriptor_kind inet_socket = {
	.name = "a socket",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = build,
	.type = FD_TYPES__INETSK,
};
