/* inet_socket.c - TCP and UDP over IPv4 and IPv6: listening, bound and unused sockets. Connections
 * are refused, or become reset ones (--tcp close). */
#include "descriptors.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../error.h"
#include "inet_socket.h"
#include "multicast.h"
#include "../parallel.h"
#include "port_holder.h"
#include "socket_options.h"

#define BUFFER_MAX (1 << 28)	/* while a connection's queues are put back */

struct facts {
	int family, type, protocol;
	int state;		/* TCP_...; UDP has TCP_CLOSE or, connected, TCP_ESTABLISHED */
	int backlog, waiting;	/* of a listener */
	short events;		/* poll() of a TCP socket without connection: POLLRDHUP and POLLERR */
	union tcp_address local, peer;
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
	       (type == SOCK_STREAM ? protocol == IPPROTO_TCP :
		type == SOCK_DGRAM ? protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE || protocol == IPPROTO_ICMP ||
				     protocol == IPPROTO_ICMPV6 :
		type == SOCK_RAW);
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
	ret->protocol = ret->type == SOCK_STREAM ? IPPROTO_TCP : option(d->own, SOL_SOCKET, SO_PROTOCOL);
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

static int port_of(const union tcp_address *a)
{
	return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

static const char *text_of(const union tcp_address *a, char *ret, size_t size)
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
static bool is_of_a_host(const union tcp_address *a)
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

static int add_pair(struct connection_pair **at, size_t *count, const struct connection_pair *pair)
{
	struct connection_pair *larger = reallocarray(*at, *count + 1, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	*at = larger;
	larger[(*count)++] = *pair;
	return 0;
}

struct listing {
	const struct descriptor_table *table;
	bool keep;			/* connections stay open, to be dumped */
	struct connection_pair **at;
	size_t *count, waiting;
	pthread_mutex_t lock;
};

static size_t count_waiting(int fd)
{
	struct tcp_info info;
	socklen_t size = sizeof(info);

	if (option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1 || option(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP ||
	    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return 0;
	return info.tcpi_unacked;
}

static int list_connection(void *ctx, size_t index, struct phaul_error *err)
{
	struct listing *l = ctx;
	struct descriptor *listed = &l->table->at[index], d = *listed;
	struct connection_pair pair;
	socklen_t local = sizeof(pair.local), peer = sizeof(pair.peer);
	bool is_connected;
	int code = 0;

	(void)err;
	if (!S_ISSOCK(d.st.st_mode) || d.flags & O_PATH)
		return 0;
	d.own = syscall(SYS_pidfd_getfd, l->table->pidfd, d.fd, 0);
	if (d.own < 0)
		return -errno;
	/* Of the sockets that have a peer, few are of another family. */
	is_connected = !getpeername(d.own, &pair.peer.any, &peer) &&
		       (pair.peer.any.sa_family == AF_INET || pair.peer.any.sa_family == AF_INET6) &&
		       option(d.own, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP && !getsockname(d.own, &pair.local.any, &local);
	if (is_connected) {
		pthread_mutex_lock(&l->lock);
		code = add_pair(l->at, l->count, &pair);
		pthread_mutex_unlock(&l->lock);
	} else if (count_waiting(d.own)) {
		pthread_mutex_lock(&l->lock);
		l->waiting++;
		pthread_mutex_unlock(&l->lock);
	}
	if (l->keep && is_connected)
		listed->own = d.own;
	else
		close(d.own);
	return code;
}

static int add_connections(const struct descriptor_table *t, bool keep, struct connection_pair **ret, size_t *ret_count,
			   size_t *waiting)
{
	struct listing listing = { t, keep, ret, ret_count, 0, PTHREAD_MUTEX_INITIALIZER };
	int err = parallel(t->count, list_connection, &listing, NULL);

	*waiting += listing.waiting;
	return err;
}

/* ---- check ---- */

static void check_listener(struct check *c, const struct descriptor *d, const struct facts *f)
{
	char local[64];

	text_of(&f->local, local, sizeof(local));
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
	if (is_of_a_host(&f->local))
		remark(c, d, "TCP_ADDRESS",
		       "listens on %s only: nobody reaches it on a target that doesn't "
		       "have this address",
		       local);
}

/* Both ends, IPv4 as IPv6 has it. */
struct connection_key {
	uint8_t local[16], peer[16];
	uint16_t local_port, peer_port;
};

static void put_key(const union tcp_address *a, uint8_t ret[16], uint16_t *ret_port)
{
	static const uint8_t mapped[12] = { [10] = 0xff, 0xff };
	bool six = a->any.sa_family == AF_INET6;

	if (six) {
		memcpy(ret, &a->v6.sin6_addr, 16);
	} else {
		memcpy(ret, mapped, 12);
		memcpy(ret + 12, &a->v4.sin_addr, 4);
	}
	*ret_port = six ? a->v6.sin6_port : a->v4.sin_port;
}

static struct connection_key key_of(const union tcp_address *local, const union tcp_address *peer)
{
	struct connection_key key;

	put_key(local, key.local, &key.local_port);
	put_key(peer, key.peer, &key.peer_port);
	return key;
}

static int by_key(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct connection_key));
}

/* Once for all that ask. */
static void list_connections(struct check *c)
{
	const struct descriptor_table *table;
	struct connection_pair *pairs = NULL;
	size_t count = 0, waiting = 0;

	for (size_t n = 0; (table = descriptors_table(c->descriptors, n)); n++)
		(void)add_connections(table, false, &pairs, &count, &waiting);
	c->connections = calloc(count + 1, sizeof(*c->connections));
	for (size_t i = 0; c->connections && i < count; i++)
		c->connections[c->connection_count++] = key_of(&pairs[i].local, &pairs[i].peer);
	if (c->connection_count)
		qsort(c->connections, c->connection_count, sizeof(*c->connections), by_key);
	free(pairs);
}

/* Of a connection of this host with itself: does its other end move, too? */
static bool peer_comes_along(struct check *c, const struct facts *f)
{
	struct connection_key other = key_of(&f->peer, &f->local);

	if (!c->connections)
		list_connections(c);
	return c->connections && bsearch(&other, c->connections, c->connection_count, sizeof(other), by_key);
}

static void check_connection(struct check *c, const struct descriptor *d, const struct facts *f)
{
	char local[64], peer[64] = "";
	bool known = f->peer.any.sa_family;

	text_of(&f->local, local, sizeof(local));
	if (known)
		text_of(&f->peer, peer, sizeof(peer));
	if (c->flags & PHAUL_TCP_ESTABLISHED && f->state != TCP_SYN_RECV) {
		/* In the freeze the tree isn't asked once more. */
		if (!(c->flags & PHAUL_TO_DIRECTORY) && !c->frozen && known && !is_of_a_host(&f->local) && !peer_comes_along(c, f))
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

	text_of(&f->local, local, sizeof(local));
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
	if (is_of_a_host(&f->local))
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

/* Addresses as 32 bit words in network order. */
static size_t words_of(int family, const union tcp_address *a, uint32_t ret[4])
{
	if (family == AF_INET6)
		memcpy(ret, &a->v6.sin6_addr, 16);
	else
		memcpy(ret, &a->v4.sin_addr, 4);
	return family == AF_INET6 ? 4 : 1;
}

/* ---- connections ---- */

static int add_paused(struct paused_socket **at, size_t *count, int fd, int option, int value)
{
	struct paused_socket *larger = reallocarray(*at, *count + 1, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	*at = larger;
	(*at)[(*count)++] = (struct paused_socket){ fd, option, value, NULL };
	return 0;
}

static int keep_for_later(struct paused_socket **at, size_t *count, int fd, int option, int value)
{
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0), err = own < 0 ? -errno : add_paused(at, count, own, option, value);

	if (err && own >= 0)
		close(own);
	return err;
}

static int resume_socket(const struct paused_socket *s)
{
	int err = s->option == SO_REUSEADDR ? tcp_resume(s->fd) : 0;

	return err ? err : setsockopt(s->fd, SOL_SOCKET, s->option, &s->value, sizeof(s->value)) < 0 ? -errno : 0;
}

static int resume_quietly(const struct paused_socket *s)
{
	return tcp_resume_quietly(s->fd) ?:
	       setsockopt(s->fd, SOL_SOCKET, s->option, &s->value, sizeof(s->value)) < 0 ? -errno : 0;
}

void paused_set_pause(struct paused_set *set)
{
	for (size_t i = 0; i < set->count; i++)
		(void)tcp_pause(set->at[i].fd);
}

void paused_set_free(struct paused_set *set)
{
	for (size_t i = 0; i < set->count; i++)
		close(set->at[i].fd);
	free(set->at);
	*set = (struct paused_set){ 0 };
}

int inet_restore_ends(struct built_files *f, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < f->paused_count && !code; i++)
		if (f->paused[i].closing)
			code = tcp_restore_ends(f->paused[i].fd, f->paused[i].closing);
	return code ? phaul_fail(err, code, "descriptors", "closing a side of a TCP connection") : 0;
}

static int resume_one(void *ctx, size_t index, struct phaul_error *err)
{
	(void)err;
	return resume_socket(&((struct built_files *)ctx)->paused[index]);
}

int inet_resume(struct built_files *f, struct phaul_error *err)
{
	int code = parallel(f->paused_count, resume_one, f, NULL);

	return code ? phaul_fail(err, code, "descriptors", "letting a TCP connection go on") : 0;
}

int inet_connections(const struct descriptor_table *tables, size_t count, struct connection_pair **ret, size_t *ret_count,
		     size_t *ret_waiting)
{
	int err = 0;

	*ret_waiting = 0;
	*ret = NULL;
	*ret_count = 0;
	for (size_t i = 0; i < count && !err; i++)
		err = add_connections(&tables[i], true, ret, ret_count, ret_waiting);
	return err;
}

static bool is_connection(const InetSkEntry *image)
{
	return image->type == SOCK_STREAM && image->state != TCP_LISTEN && image->state != TCP_CLOSE && image->dst_port;
}

/* What a pause does to SO_REUSEADDR is undone with it. The set has the descriptor from now on. */
static int pause_connection(struct dump *dump, struct descriptor *d, struct paused_socket *ret)
{
	int fd = d->own, reuse = option(fd, SOL_SOCKET, SO_REUSEADDR), err;

	dump_lock(dump);
	err = add_paused(&dump->paused->at, &dump->paused->count, fd, SO_REUSEADDR, reuse);
	dump_unlock(dump);
	if (err)
		return err;
	d->own = -1;
	*ret = (struct paused_socket){ fd, SO_REUSEADDR, reuse, NULL };
	return tcp_pause(fd);
}

static int dump_connection(struct dump *dump, struct descriptor *d, const struct facts *f, InetSkEntry *image)
{
	TcpStreamEntry stream = TCP_STREAM_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	struct socket_options options;
	struct paused_socket paused;
	struct tcp_connection c = { .local = f->local, .peer = f->peer };
	int fd = d->own, err = socket_options_dump(fd, &options, &dump->socket_defaults, image) ?: pause_connection(dump, d, &paused);

	if (err)
		return err;
	err = tcp_save_named(fd, &c) ?: resume_quietly(&paused);
	if (err) {
		tcp_connection_free(&c);
		return err;
	}
	image->state = c.state;
	if (image->family == AF_INET6) {
		image->has_v6only = true;
		image->v6only = option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1;
	}
	stream.inq_len = c.in_size;
	stream.inq_seq = c.in_sequence;
	stream.outq_len = c.out_size;
	stream.outq_seq = c.out_sequence;
	stream.has_unsq_len = stream.has_rcv_wscale = true;
	stream.unsq_len = c.unsent_size;
	stream.opt_mask = c.options;
	stream.snd_wscale = c.send_wscale;
	stream.rcv_wscale = c.receive_wscale;
	stream.mss_clamp = c.mss;
	stream.has_timestamp = c.options & TCPI_OPT_TIMESTAMPS;
	stream.timestamp = c.timestamp;
	stream.has_snd_wl1 = stream.has_snd_wnd = stream.has_max_window = stream.has_rcv_wnd = stream.has_rcv_wup = true;
	stream.snd_wl1 = c.window.snd_wl1;
	stream.snd_wnd = c.window.snd_wnd;
	stream.max_window = c.window.max_window;
	stream.rcv_wnd = c.window.rcv_wnd;
	stream.rcv_wup = c.window.rcv_wup;
	file.isk = image;
	err = file_put(dump, d, &file);
	dump_lock(dump);
	err = err ?: image_put(dump->images, "tcp-stream", image->ino, &stream.base) ?:
	      image_put_raw(dump->images, "tcp-stream", image->ino, c.in, c.in_size) ?:
	      image_put_raw(dump->images, "tcp-stream", image->ino, c.out, c.out_size);
	dump_unlock(dump);
	tcp_connection_free(&c);
	return err;
}

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
	image.src_port = port_of(&f.local);
	image.dst_port = port_of(&f.peer);
	image.n_src_addr = words_of(f.family, &f.local, local);
	image.src_addr = local;
	image.n_dst_addr = words_of(f.family, &f.peer, peer);
	image.dst_addr = peer;
	if (comes_along(dump, &f))
		return dump_connection(dump, d, &f, &image);
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
		image.v6only = option(d->own, IPPROTO_IPV6, IPV6_V6ONLY) == 1;
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

static int set_address(const InetSkEntry *image, const uint32_t *words, size_t count, uint32_t port, union tcp_address *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->any.sa_family = image->family;
	if (count < (image->family == AF_INET6 ? 4 : 1))
		return -EPROTO;
	if (image->family == AF_INET6) {
		ret->v6.sin6_port = htons(port);
		memcpy(&ret->v6.sin6_addr, words, 16);
		if (image->ifname)
			ret->v6.sin6_scope_id = if_nametoindex(image->ifname);
	} else {
		ret->v4.sin_port = htons(port);
		memcpy(&ret->v4.sin_addr, words, 4);
	}
	return 0;
}

static int read_address(const InetSkEntry *image, union tcp_address *ret, socklen_t *ret_size)
{
	*ret_size = image->family == AF_INET6 ? sizeof(ret->v6) : sizeof(ret->v4);
	return set_address(image, image->src_addr, image->n_src_addr, image->src_port, ret);
}

static int read_peer(const InetSkEntry *image, union tcp_address *ret)
{
	return set_address(image, image->dst_addr, image->n_dst_addr, image->dst_port, ret);
}

int inet_connections_of_images(const struct built_files *f, struct connection_pair **ret, size_t *ret_count)
{
	struct connection_pair pair;
	socklen_t size;
	int err = 0;

	*ret = NULL;
	*ret_count = 0;
	for (size_t id = 0; id < f->count && !err; id++) {
		const InetSkEntry *image = f->at[id] ? f->at[id]->isk : NULL;

		if (image && is_connection(image))
			err = read_address(image, &pair.local, &size) ?: read_peer(image, &pair.peer) ?:
			      add_pair(ret, ret_count, &pair);
	}
	return err;
}

static int bind_failed(struct build *b, int failed, const InetSkEntry *image,
		       const union tcp_address *a)
{
	const char *protocol = name_of(image->type == SOCK_RAW ? -1 : (int)image->proto);
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
	return keep_for_later(&b->files->paused, &b->files->paused_count, fd, SO_REUSEPORT, 0);
}

static int bind_socket(struct build *b, int fd, const InetSkEntry *image)
{
	bool stream = image->type == SOCK_STREAM;
	int on = 1, reuse = image->opts->has_reuseaddr && image->opts->reuseaddr;
	union tcp_address a;
	socklen_t size;
	int err = read_address(image, &a, &size);

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

static int read_stream(struct build *b, const InetSkEntry *image, struct tcp_connection *ret)
{
	ProtobufCMessage *message = NULL;
	const TcpStreamEntry *s;
	struct image_reader r;
	const void *in = NULL, *out = NULL;
	socklen_t size;
	int err = image_read(b->images, "tcp-stream", image->ino, &r);

	memset(ret, 0, sizeof(*ret));
	if (err || image_next(&r, &tcp_stream_entry__descriptor, &message) != 1)
		return err ? err : -EPROTO;
	s = (TcpStreamEntry *)message;
	ret->state = image->state;
	ret->in_size = s->inq_len;
	ret->out_size = s->outq_len;
	ret->unsent_size = s->unsq_len;
	ret->in_sequence = s->inq_seq;
	ret->out_sequence = s->outq_seq;
	ret->options = s->opt_mask;
	ret->mss = s->mss_clamp;
	ret->send_wscale = s->snd_wscale;
	ret->receive_wscale = s->rcv_wscale;
	ret->timestamp = s->timestamp;
	ret->window = (struct tcp_repair_window){ s->snd_wl1, s->snd_wnd, s->max_window, s->rcv_wnd, s->rcv_wup };
	err = read_address(image, &ret->local, &size) ?: read_peer(image, &ret->peer) ?:
	      image_next_raw(&r, ret->in_size, &in) ?: image_next_raw(&r, ret->out_size, &out);
	if (!err && ret->unsent_size > ret->out_size)
		err = -EPROTO;
	protobuf_c_message_free_unpacked(message, NULL);
	/* Both stay the images'. */
	ret->in = (uint8_t *)in;
	ret->out = (uint8_t *)out;
	return err;
}

static void set_buffers(int fd, const SkOptsEntry *sk)
{
	int lock = sk ? sk->so_buf_lock : 0, sizes[2] = { BUFFER_MAX, BUFFER_MAX };

	if (sk) {
		sizes[0] = sk->so_sndbuf / 2;
		sizes[1] = sk->so_rcvbuf / 2;
	}
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &sizes[0], sizeof(int));
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &sizes[1], sizeof(int));
	/* Otherwise what the kernel chose once would be for ever. */
	if (sk && sk->has_so_buf_lock)
		(void)setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock));
}

static int build_connection(struct build *b, int fd, const InetSkEntry *image)
{
	struct tcp_connection c;
	char peer[64];
	int reuse = image->opts->has_reuseaddr && image->opts->reuseaddr, err = read_stream(b, image, &c);
	bool is_empty = !err && !c.in_size && !c.out_size;

	if (err)
		return phaul_fail(b->err, err, "descriptors", "reading tcp-stream-%x.img", image->ino);
	set_buffers(fd, is_empty ? image->opts : NULL);
	err = tcp_restore(fd, &c);
	if (b->files->lock)
		pthread_mutex_lock(b->files->lock);
	if (!err && image->id < b->files->count && b->files->at[image->id] && b->files->at[image->id]->isk == image) {
		err = add_paused(&b->files->paused, &b->files->paused_count, fd, SO_REUSEADDR, reuse);
		b->files->kept[image->id] = !err;
	} else {
		err = err ?: keep_for_later(&b->files->paused, &b->files->paused_count, fd, SO_REUSEADDR, reuse);
	}
	if (!err && c.state != TCP_ESTABLISHED) {
		struct tcp_connection *closing = malloc(sizeof(*closing));

		err = closing ? 0 : -ENOMEM;
		if (closing)
			*closing = c;	/* whose bytes stay the images' */
		b->files->paused[b->files->paused_count - 1].closing = closing;
	}
	if (b->files->lock)
		pthread_mutex_unlock(b->files->lock);
	if (err)
		return phaul_fail(b->err, err, "descriptors", "restoring the TCP connection of fd %d with %s",
				  file_number(b, image->id), text_of(&c.peer, peer, sizeof(peer)));
	if (!is_empty)
		set_buffers(fd, image->opts);
	return 0;
}

static int build_tcp(struct build *b, int fd, const InetSkEntry *image)
{

	struct image_reader r;
	bool dead = image->state != TCP_CLOSE ||
		    (image->has_shutdown && image->shutdown == SK_SHUTDOWN__BOTH);

	if (is_connection(image) && !(b->files->flags & PHAUL_TCP_CLOSE) &&
	    image_read(b->images, "tcp-stream", image->ino, &r) != -ENOENT)
		return build_connection(b, fd, image);
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
	int on = 1, was = option(fd, IPPROTO_IP, IP_TRANSPARENT), code;

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
		err = read_peer(image, &peer);
		if (!err && connect(fd, &peer.any, size) < 0 && connect_from_elsewhere(fd, &peer, size))
			err = phaul_fail(b->err, -errno, "descriptors", "connecting the %s socket fd %d to %s",
					 name_of(image->type == SOCK_RAW ? -1 : (int)image->proto), file_number(b, image->id),
					 text_of(&peer, text, sizeof(text)));
	}
	err = err ?: multicast_build(b, fd, image);
	/* What isn't connected says so, and is shut down all the same. */
	if (!err && image->has_shutdown && image->shutdown)
		(void)shutdown(fd, image->shutdown == 3 ? SHUT_RDWR : image->shutdown == 2 ? SHUT_WR : SHUT_RD);
	return err;
}

/* It is closed, by whoever failed. */
static void forget_paused(struct built_files *f, uint32_t id, int fd)
{
	if (f->lock)
		pthread_mutex_lock(f->lock);
	for (size_t i = 0; id < f->count && f->kept[id] && i < f->paused_count; i++) {
		if (f->paused[i].fd != fd)
			continue;
		free(f->paused[i].closing);
		f->paused[i] = f->paused[--f->paused_count];
		f->kept[id] = false;
	}
	if (f->lock)
		pthread_mutex_unlock(f->lock);
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
		forget_paused(b->files, image->id, fd);
	return err;
}

/* ---- connections, side by side ---- */

struct connections {
	struct build build;
	uint32_t *ids;
	size_t count;
	pthread_mutex_t lock;
};

static int make_connection(void *ctx, size_t index, struct phaul_error *err)
{
	struct connections *c = ctx;
	struct build b = c->build;
	uint32_t id = c->ids[index];
	int fd;

	b.err = err;
	fd = build(&b, b.files->at[id]);
	if (fd >= 0)
		b.files->made[id] = fd;
	if (fd == -EMFILE || fd == -ENFILE)
		return phaul_fail(err, fd, "descriptors", "making %zu TCP connections takes as many descriptors for a moment: raise the limit "
				  "of open files (ulimit -n, LimitNOFILE=) of what makes them", c->count);
	return fd >= 0 ? 0 : err->code ? fd : phaul_fail(err, fd, "descriptors", "making a TCP connection");
}

int inet_make_connections(struct built_files *f, const struct image_set *images, struct phaul_error *err)
{
	struct connections c = {
		.build = { .images = images, .files = f }, .ids = calloc(f->count + 1, sizeof(*c.ids)),
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	int code = c.ids ? 0 : phaul_fail(err, -ENOMEM, "descriptors", "making TCP connections");

	for (size_t id = 0; id < f->count && !code; id++) {
		const InetSkEntry *image = f->at[id] ? f->at[id]->isk : NULL;

		if (image && image->opts && is_connection(image))
			c.ids[c.count++] = id;
	}
	f->lock = &c.lock;
	code = code ?: parallel(c.count, make_connection, &c, err);
	f->lock = NULL;
	free(c.ids);
	return code;
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
