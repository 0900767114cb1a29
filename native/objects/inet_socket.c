/* inet_socket.c - TCP and UDP over IPv4 and IPv6: listening, bound and unused sockets. Connections are inet_connection.c's, are
 * refused, or become reset ones (--tcp close). */
#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../error.h"
#include "inet_address.h"
#include "inet_socket.h"
#include "multicast.h"
#include "port_holder.h"
#include "socket_options.h"

struct facts {
	int family, type, protocol;
	int state;		/* TCP_...; UDP has TCP_CLOSE or, connected, TCP_ESTABLISHED */
	int backlog, waiting;	/* of a listener */
	short events;		/* poll() of a TCP socket without connection: POLLRDHUP and POLLERR */
	union tcp_address local, peer;
};

static bool is(const struct descriptor *d)
{
	return S_ISSOCK(d->st.st_mode) && (d->family == AF_INET || d->family == AF_INET6) &&
	       (d->type == SOCK_STREAM ? d->protocol == IPPROTO_TCP :
		d->type == SOCK_DGRAM ? d->protocol == IPPROTO_UDP || d->protocol == IPPROTO_UDPLITE || d->protocol == IPPROTO_ICMP ||
					d->protocol == IPPROTO_ICMPV6 :
		d->type == SOCK_RAW);
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
	ret->type = d->type;
	ret->protocol = d->protocol;
	size = sizeof(ret->peer);
	ret->state = TCP_CLOSE;
	if (!getpeername(d->own, &ret->peer.any, &size))
		ret->state = TCP_ESTABLISHED;
	if (ret->type != SOCK_STREAM)
		return 0;
	size = sizeof(info);
	if (getsockopt(d->own, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return -errno;
	ret->state = info.tcpi_state;
	if (ret->state == TCP_CLOSE && poll(&socket, 1, 0) > 0)
		ret->events = socket.revents;
	if (ret->state == TCP_LISTEN) {
		/* The kernel shows the accept queue in these. */
		ret->waiting = info.tcpi_unacked;
		ret->backlog = info.tcpi_sacked;
	}
	return 0;
}

/* ---- check ---- */

static void check_listener(struct check *c, const struct descriptor *d, const struct facts *f)
{
	char local[64];

	inet_text(&f->local, local, sizeof(local));
	if (f->waiting && c->flags & (PHAUL_TCP_CLOSE | PHAUL_SKIP_IN_FLIGHT))
		remark(c, d, "TCP_WAITING",
		       "listens on %s, and %d connection%s wait%s to be accepted: they will "
		       "be reset",
		       local, f->waiting, f->waiting == 1 ? "" : "s", f->waiting == 1 ? "s" : "");
	/* One that runs accepts them; if some are left in the freeze, it runs on for a moment. */
	else if (f->waiting && (c->frozen || c->flags & PHAUL_TO_DIRECTORY || !(c->flags & PHAUL_TCP_ESTABLISHED)))
		refuse(c, d, "TCP_WAITING",
		       "listens on %s, and %d connection%s wait%s to be accepted: they "
		       "would be lost; try again, or run with --tcp close to reset them",
		       local, f->waiting, f->waiting == 1 ? "" : "s", f->waiting == 1 ? "s" : "");
	if (inet_is_of_a_host(&f->local))
		remark(c, d, "TCP_ADDRESS",
		       "listens on %s only: nobody reaches it on a target that doesn't "
		       "have this address",
		       local);
}

static void check_connection(struct check *c, const struct descriptor *d, const struct facts *f)
{
	char local[64], peer[64] = "";
	bool known = f->peer.any.sa_family;

	inet_text(&f->local, local, sizeof(local));
	if (known)
		inet_text(&f->peer, peer, sizeof(peer));
	if (c->flags & PHAUL_TCP_ESTABLISHED && f->state != TCP_SYN_RECV) {
		/* In the freeze the tree isn't asked once more. */
		if (!(c->flags & PHAUL_TO_DIRECTORY) && !c->frozen && known && !inet_is_of_a_host(&f->local) && !inet_peer_comes_along(c, &f->local, &f->peer))
			refuse(c, d, "TCP_LOOPBACK", "is a TCP connection %s <-> %s with a process that stays on this host: it "
			       "would lose it; end one of both, or run with --tcp close to reset it", local, peer);
		return;
	}
	if (c->flags & PHAUL_TCP_CLOSE)
		remark(c, d, "TCP_ESTABLISHED", "is a TCP connection %s%s%s: it will be reset",
		       local, known ? " <-> " : " that is being made", peer);
	else
		refuse(c, d, "TCP_ESTABLISHED",
		       "is a TCP connection %s%s%s, which is not to be moved: "
		       "run with --tcp established to move it, with --tcp close to reset it, or wait for its end",
		       local, known ? " <-> " : " that is being made", peer);
}

static const char *name_of(int protocol)
{
	return protocol == IPPROTO_TCP ? "TCP" : protocol == IPPROTO_UDP ? "UDP" : protocol == IPPROTO_UDPLITE ? "UDP-Lite" :
	       protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6 ? "ICMP" : "raw IP";
}

static void check_datagrams(struct check *c, const struct descriptor *d, const struct facts *f)
{
	const char *name = name_of(f->type == SOCK_RAW ? -1 : f->protocol);
	char local[64];
	int bytes = 0;

	inet_text(&f->local, local, sizeof(local));
	if (f->type == SOCK_DGRAM && !ioctl(d->own, SIOCOUTQ, &bytes) && bytes)
		refuse(c, d, "UDP_CORKED",
		       "is a %s socket on %s with %d bytes that are not sent yet (corked, or on their way): they can't be read "
		       "from the kernel; try again",
		       name, local, bytes);
	if (!ioctl(d->own, FIONREAD, &bytes) && bytes)
		remark(c, d, "UDP_WAITING",
		       "is a %s socket on %s with unread datagrams: these are lost, as "
		       "datagrams may be",
		       name, local);
	if (inet_is_of_a_host(&f->local))
		remark(c, d, "UDP_ADDRESS",
		       "is a %s socket on %s only: nobody reaches it on a target that "
		       "doesn't have this address",
		       name, local);
}

static void check(struct check *c, const struct descriptor *d)
{
	char protocol[16] = "";
	socklen_t size = 0, protocol_size = sizeof(protocol);
	struct facts f;

	if (learn(d, &f))
		return;
	/* A program of the old kind can be read back. */
	if (getsockopt(d->own, SOL_SOCKET, SO_ATTACH_FILTER, NULL, &size) < 0)
		refuse(c, d, "FD_SOCKET",
		       "is a socket with a packet filter of eBPF, which can't be read from the kernel: start the program "
		       "without it");
	/* Kernel TLS: keys and what is half encrypted are in the kernel. */
	if (f.type == SOCK_STREAM && !(c->flags & PHAUL_TCP_CLOSE) && !getsockopt(d->own, IPPROTO_TCP, TCP_ULP, protocol, &protocol_size) && *protocol)
		refuse(c, d, "TCP_ULP", "is a TCP socket whose bytes the kernel itself encrypts or frames (%s), which can't be moved: run the program "
		       "without that, or with --tcp close", protocol);
	if (f.type != SOCK_STREAM)
		check_datagrams(c, d, &f);
	else if (f.state == TCP_LISTEN)
		check_listener(c, d, &f);
	else if (f.state != TCP_CLOSE)
		check_connection(c, d, &f);
}

/* ---- dump ---- */

static bool comes_along(const struct dump *dump, const struct facts *f)
{
	return f->type == SOCK_STREAM && f->state != TCP_LISTEN && f->state != TCP_CLOSE && dump->flags & PHAUL_TCP_ESTABLISHED;
}

/* Of a connection that comes along d->own is kept, and is -1 afterwards. */
static int dump_known(struct dump *dump, struct descriptor *d, struct facts f)
{
	InetSkEntry image = INET_SK_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	struct socket_options options;
	uint32_t local[4] = { 0 }, peer[4] = { 0 };
	char interface[IF_NAMESIZE];
	int err = 0;
	bool gone;

	image.id = d->id;
	image.ino = d->st.st_ino;
	image.family = f.family;
	image.type = f.type;
	image.proto = f.protocol;
	image.state = f.state;
	image.flags = d->flags;
	image.fown = file_owner(d);
	image.backlog = f.backlog;
	image.src_port = inet_port(&f.local);
	image.dst_port = inet_port(&f.peer);
	image.n_src_addr = inet_words(f.family, &f.local, local);
	image.src_addr = local;
	image.n_dst_addr = inet_words(f.family, &f.peer, peer);
	image.dst_addr = peer;
	if (comes_along(dump, &f))
		return connection_dump(dump, d, &f.local, &f.peer, &image);
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
	if (f.type != SOCK_STREAM) {
		image.shutdown = inet_udp_shutdown(d->own, f.protocol, &f.local, &f.peer);
		image.has_shutdown = image.shutdown;
		err = multicast_dump(dump, d->own, &image);
	}
	if (f.family == AF_INET6) {
		image.has_v6only = true;
		image.v6only = socket_option(d->own, IPPROTO_IPV6, IPV6_V6ONLY) == 1;
		if (f.local.v6.sin6_scope_id && if_indextoname(f.local.v6.sin6_scope_id, interface))
			image.ifname = interface;
	}
	/* It can only be closed, so what was set on it doesn't matter. */
	if (gone)
		socket_options_none(&options, &image);
	else
		err = err ?: socket_options_dump(d->own, &options, &dump->socket_defaults, &image);
	if (err)
		return err;
	file.isk = &image;
	return file_put(dump, d, &file);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	struct descriptor ours = *d;
	struct facts f;
	int err = learn(d, &f);

	if (err)
		return err;
	if (!comes_along(dump, &f))
		return dump_known(dump, &ours, f);
	ours.own = fcntl(d->own, F_DUPFD_CLOEXEC, 0);
	err = ours.own < 0 ? -errno : dump_known(dump, &ours, f);
	if (ours.own >= 0)
		close(ours.own);
	return err;
}

int inet_dump_connection(struct dump *dump, struct descriptor *d)
{
	struct facts f;
	int err;

	if (learn(d, &f) || !comes_along(dump, &f) || f.state == TCP_SYN_RECV)
		return 0;
	err = dump_known(dump, d, f);
	/* A filter of eBPF is refused by name. */
	return !err ? 1 : d->own >= 0 && (err == -EPERM || err == -EACCES) ? 0 : err;
}

/* ---- build ---- */

static int bind_failed(struct build *b, int failed, const InetSkEntry *image,
		       const union tcp_address *a)
{
	const char *protocol = name_of(image->type == SOCK_RAW ? -1 : (int)image->proto);
	char text[64], holder[64];

	inet_text(a, text, sizeof(text));
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
static int bind_anyhow(int fd, const union tcp_address *a, socklen_t size)
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

/* Another socket has the port too, which takes SO_REUSEPORT on both when they are bound. */
static bool shares_port(const struct build *b, const InetSkEntry *image)
{
	for (size_t id = 0; id < b->files->count; id++) {
		const InetSkEntry *other = b->files->at[id] ? b->files->at[id]->isk : NULL;

		if (other && other != image && other->type == image->type && other->src_port == image->src_port &&
		    other->opts && other->opts->has_so_reuseport && other->opts->so_reuseport)
			return true;
	}
	return false;
}

static int share_port(struct build *b, int fd)
{
	int on = 1;

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0)
		return -errno;
	return paused_keep(&b->files->paused, &b->files->paused_count, fd, SO_REUSEPORT, 0);
}

static int bind_socket(struct build *b, int fd, const InetSkEntry *image)
{
	bool stream = image->type == SOCK_STREAM;
	int on = 1, reuse = image->opts->has_reuseaddr && image->opts->reuseaddr;
	union tcp_address a;
	socklen_t size;
	int err = inet_read_local(image, &a, &size);

	if (err)
		return err;
	/* Connections of an earlier program that linger on here must not be in the way; listeners
	 * are still told apart. */
	if (stream)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	err = shares_port(b, image) && !image->opts->so_reuseport ? share_port(b, fd) : 0;
	err = err ?: bind_anyhow(fd, &a, size);
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
	union tcp_address self = { .any.sa_family = family };
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

	struct image_reader r;
	bool dead = image->state != TCP_CLOSE ||
		    (image->has_shutdown && image->shutdown == SK_SHUTDOWN__BOTH);

	if (inet_is_connection(image) && !(b->files->flags & PHAUL_TCP_CLOSE) &&
	    image_read(b->images, "tcp-stream", image->ino, &r) != -ENOENT)
		return connection_build(b, fd, image);
	if (image->state == TCP_LISTEN || !dead)
		return image->src_port || image->state == TCP_LISTEN ? bind_socket(b, fd, image)
								     : 0;
	if (image->dst_port && !(b->files->flags & PHAUL_TCP_AT_END))
		make_reset(fd, image->family);
	/* Fails, as there is no connection, and has its effect all the same. */
	(void)shutdown(fd, SHUT_RDWR);
	return 0;
}

static bool is_bound(const InetSkEntry *image)
{
	uint32_t any = 0;

	for (size_t i = 0; i < image->n_src_addr; i++)
		any |= image->src_addr[i];
	return image->type == SOCK_RAW ? any : image->src_port;
}

/* Its own address is still to come. */
static int connect_from_elsewhere(int fd, const union tcp_address *peer, socklen_t size)
{
	int on = 1, was = socket_option(fd, IPPROTO_IP, IP_TRANSPARENT), code;

	if (errno != EINVAL || setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)) < 0)
		return -1;
	code = connect(fd, &peer->any, size);
	(void)setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &was, sizeof(was));
	return code;
}

static int build_datagrams(struct build *b, int fd, const InetSkEntry *image)
{
	union tcp_address peer;
	socklen_t size = image->family == AF_INET6 ? sizeof(peer.v6) : sizeof(peer.v4);
	char text[64];
	int err = is_bound(image) ? bind_socket(b, fd, image) : 0;

	if (!err && image->state == TCP_ESTABLISHED) {
		err = inet_read_peer(image, &peer);
		if (!err && connect(fd, &peer.any, size) < 0 && connect_from_elsewhere(fd, &peer, size))
			err = phaul_fail(b->err, -errno, "descriptors", "connecting the %s socket fd %d to %s",
					 name_of(image->type == SOCK_RAW ? -1 : (int)image->proto), file_number(b, image->id),
					 inet_text(&peer, text, sizeof(text)));
	}
	err = err ?: multicast_build(b, fd, image);
	/* What isn't connected says so, and is shut down all the same. */
	if (!err && image->has_shutdown && image->shutdown)
		(void)shutdown(fd, image->shutdown == 3 ? SHUT_RDWR : image->shutdown == 2 ? SHUT_WR : SHUT_RD);
	return err;
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
	else if (!err)
		err = build_datagrams(b, fd, image);
	if (err)
		close(fd);
	err = err ?: file_set_flags(b, fd, image->flags);
	if (err < 0)
		connection_forget(b->files, image->id, fd);
	return err;
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
