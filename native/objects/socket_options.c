#include "socket_options.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

enum { PART_SK, PART_IP, PART_TCP };

/* Whom an option means something to: those of datagrams have other meanings inside TCP, and to ask takes its time. */
enum { ALL, DATAGRAMS, NO_STREAM, RAW, UNCONNECTED, NO_CONNECTION };

/* Options that the images have fields for. Fields of 4 bytes, whether they count or are true. */
static const struct field {
	int level, name, part;
	size_t has, at;
	const char *text;
	int whom;
} fields[] = {
#define SK(option, field, whom) \
	{ SOL_SOCKET, option, PART_SK, offsetof(SkOptsEntry, has_##field), \
	  offsetof(SkOptsEntry, field), #option, whom }
	{ SOL_SOCKET, SO_REUSEADDR, PART_SK, offsetof(SkOptsEntry, has_reuseaddr),
	  offsetof(SkOptsEntry, reuseaddr), "SO_REUSEADDR", ALL },
	SK(SO_REUSEPORT, so_reuseport, ALL),
	SK(SO_RCVLOWAT, so_rcvlowat, ALL),
	SK(SO_MARK, so_mark, ALL),
	SK(SO_DONTROUTE, so_dontroute, ALL),
	SK(SO_NO_CHECK, so_no_check, NO_CONNECTION),
	SK(SO_BROADCAST, so_broadcast, NO_CONNECTION),
	SK(SO_KEEPALIVE, so_keepalive, ALL),
	SK(SO_OOBINLINE, so_oobinline, ALL),
	SK(SO_PASSCRED, so_passcred, NO_CONNECTION),
	SK(SO_PASSSEC, so_passsec, NO_CONNECTION),
#define IP(option, field, whom) \
	{ IPPROTO_IP, option, PART_IP, offsetof(IpOptsEntry, has_##field), \
	  offsetof(IpOptsEntry, field), #option, whom }
	IP(IP_FREEBIND, freebind, ALL),
	IP(IP_PKTINFO, pktinfo, NO_CONNECTION),
	IP(IP_TOS, tos, ALL),
	IP(IP_TTL, ttl, ALL),
	/* After the type of service, which sets it too. */
	SK(SO_PRIORITY, so_priority, ALL),
#define TCP(option, field) \
	{ IPPROTO_TCP, option, PART_TCP, offsetof(TcpOptsEntry, has_##field), \
	  offsetof(TcpOptsEntry, field), #option, ALL }
	TCP(TCP_NODELAY, nodelay),
	TCP(TCP_KEEPCNT, keepcnt),
	TCP(TCP_KEEPIDLE, keepidle),
	TCP(TCP_KEEPINTVL, keepintvl),
	TCP(TCP_CORK, cork),
};

/* Options without a field, of int type. */
static const struct {
	int level, name, whom;
} others[] = {
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, UNCONNECTED },
	{ IPPROTO_TCP, TCP_FASTOPEN, UNCONNECTED },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, ALL },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, ALL },
	{ IPPROTO_TCP, TCP_SYNCNT, UNCONNECTED },
	{ IPPROTO_TCP, TCP_LINGER2, ALL },
	{ IPPROTO_UDP, UDP_GRO, DATAGRAMS },
	{ IPPROTO_UDP, UDP_SEGMENT, DATAGRAMS },
	{ IPPROTO_IP, IP_TRANSPARENT, ALL },
	{ IPPROTO_IP, IP_MTU_DISCOVER, ALL },
	{ IPPROTO_IP, IP_RECVERR, ALL },
	{ IPPROTO_IP, IP_RECVTOS, NO_STREAM },
	{ IPPROTO_IP, IP_RECVTTL, NO_STREAM },
	{ IPPROTO_IP, IP_MULTICAST_TTL, DATAGRAMS },
	{ IPPROTO_IP, IP_MULTICAST_LOOP, DATAGRAMS },
	{ IPPROTO_IPV6, IPV6_RECVPKTINFO, ALL },
	{ IPPROTO_IPV6, IPV6_UNICAST_HOPS, ALL },
	{ IPPROTO_IPV6, IPV6_TCLASS, ALL },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER, ALL },
	{ IPPROTO_IPV6, IPV6_RECVERR, ALL },
	{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS, DATAGRAMS },
	{ IPPROTO_IPV6, IPV6_MULTICAST_LOOP, DATAGRAMS },
	{ SOL_SOCKET, SO_TIMESTAMP, ALL },
	{ SOL_SOCKET, SO_TIMESTAMPNS, ALL },
	{ SOL_SOCKET, SO_RXQ_OVFL, NO_STREAM },
	{ SOL_SOCKET, SO_BUSY_POLL, ALL },
	{ SOL_SOCKET, SO_ZEROCOPY, ALL },
	{ SOL_SOCKET, SO_LOCK_FILTER, ALL },
	{ IPPROTO_IP, IP_HDRINCL, RAW },
	{ IPPROTO_IP, IP_NODEFRAG, RAW },
	{ IPPROTO_IPV6, IPV6_CHECKSUM, ALL },
	{ IPPROTO_IPV6, 78 /* IPV6_FREEBIND */, ALL },
	{ IPPROTO_RAW, 1 /* ICMP_FILTER */, ALL },
	{ IPPROTO_IP, 49 /* IP_MULTICAST_ALL */, DATAGRAMS },
	{ IPPROTO_IPV6, 29 /* IPV6_MULTICAST_ALL */, DATAGRAMS },
	{ IPPROTO_IP, IP_RECVORIGDSTADDR, NO_STREAM },
	{ IPPROTO_IPV6, 74 /* IPV6_RECVORIGDSTADDR */, NO_STREAM },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT, NO_STREAM },
	{ IPPROTO_IPV6, IPV6_RECVTCLASS, NO_STREAM },
	{ IPPROTO_IPV6, IPV6_DONTFRAG, NO_STREAM },
	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, UNCONNECTED },
	{ IPPROTO_IP, IP_MINTTL, UNCONNECTED },
	{ SOL_SOCKET, SO_TIMESTAMPING, NO_STREAM },
	{ SOL_SOCKET, SO_SELECT_ERR_QUEUE, NO_STREAM },
	{ SOL_SOCKET, SO_MAX_PACING_RATE, UNCONNECTED },
	{ IPPROTO_TCP, 27 /* TCP_SAVE_SYN */, UNCONNECTED },
	{ IPPROTO_TCP, 34 /* TCP_FASTOPEN_NO_COOKIE */, UNCONNECTED },
	{ IPPROTO_TCP, 36 /* TCP_INQ */, UNCONNECTED },
};
_Static_assert(ARRAY_SIZE(others) + 2 < SOCKET_OPTIONS_OTHERS, "all of them fit");

int socket_option(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof(value);

	(void)getsockopt(fd, level, name, &value, &size);
	return value;
}

static int get(int fd, int level, int name, int *ret)
{
	socklen_t size = sizeof(*ret);

	*ret = 0;
	return getsockopt(fd, level, name, ret, &size) < 0 ? -errno : 0;
}

/* Whether a socket of this family and type has options of the level at all. */
static bool has_level(const InetSkEntry *image, int level)
{
	if (image->family != AF_INET && image->family != AF_INET6)
		return level == SOL_SOCKET;
	return level == IPPROTO_TCP ? image->type == SOCK_STREAM :
	       level == IPPROTO_UDP ? image->type == SOCK_DGRAM :
	       level == IPPROTO_RAW ? image->type == SOCK_RAW :
	       level == IPPROTO_IPV6 ? image->family == AF_INET6 : true;
}

static bool concerns(int whom, const InetSkEntry *image)
{
	return whom == ALL || (whom == DATAGRAMS ? image->type == SOCK_DGRAM : whom == RAW ? image->type == SOCK_RAW :
			       whom == NO_STREAM ? image->type != SOCK_STREAM : whom == UNCONNECTED ? image->state != TCP_ESTABLISHED :
	       image->type != SOCK_STREAM || image->proto != IPPROTO_TCP || image->state != TCP_ESTABLISHED);
}

/* What a new socket has: asked once for all sockets of a family and type. */
struct socket_defaults {
	int family, type, protocol;
	int fields[ARRAY_SIZE(fields)], others[ARRAY_SIZE(others)];
	char congestion[16];
	struct socket_defaults *next;
};

static const struct socket_defaults *defaults_of(struct socket_defaults **known,
						 const InetSkEntry *image)
{
	struct socket_defaults *d = *known;
	int fd;

	while (d && (d->family != (int)image->family || d->type != (int)image->type ||
		     d->protocol != (int)image->proto))
		d = d->next;
	if (d)
		return d;
	fd = socket(image->family, image->type | SOCK_CLOEXEC, image->proto);
	d = fd < 0 ? NULL : calloc(1, sizeof(*d));
	if (d) {
		d->family = image->family;
		d->type = image->type;
		d->protocol = image->proto;
		for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
			(void)get(fd, fields[i].level, fields[i].name, &d->fields[i]);
		for (size_t i = 0; i < ARRAY_SIZE(others); i++)
			(void)get(fd, others[i].level, others[i].name, &d->others[i]);
		if (image->type == SOCK_STREAM)
			(void)getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, d->congestion, &(socklen_t){ sizeof(d->congestion) });
		d->next = *known;
		*known = d;
	}
	if (fd >= 0)
		close(fd);
	return d;
}

void socket_defaults_prepare(struct socket_defaults **known)
{
	InetSkEntry tcp = INET_SK_ENTRY__INIT;

	tcp.type = SOCK_STREAM;
	tcp.proto = IPPROTO_TCP;
	tcp.family = AF_INET;
	(void)defaults_of(known, &tcp);
	tcp.family = AF_INET6;
	(void)defaults_of(known, &tcp);
}

void socket_defaults_free(struct socket_defaults **known, const struct socket_defaults *before)
{
	while (*known != before) {
		struct socket_defaults *d = *known;

		*known = d->next;
		free(d);
	}
}

/* A second's fraction is kept in ticks: what comes back may be a little more than what was set. */
static void get_timeout(int fd, int name, uint64_t *ret_sec, uint64_t *ret_usec)
{
	struct timeval timeout = { 0 };
	socklen_t size = sizeof(timeout);

	(void)getsockopt(fd, SOL_SOCKET, name, &timeout, &size);
	*ret_sec = timeout.tv_sec;
	*ret_usec = timeout.tv_usec;
}

static int dump_required(int fd, struct socket_options *store)
{
	SkOptsEntry *sk = &store->sk;
	socklen_t size = sizeof(store->device);
	struct linger linger = { 0 };
	int value;

	if (!get(fd, SOL_SOCKET, SO_SNDBUF, &value))
		sk->so_sndbuf = value;
	if (!get(fd, SOL_SOCKET, SO_RCVBUF, &value))
		sk->so_rcvbuf = value;
	/* Which of the two the program has set itself; the kernel tunes the others. */
	sk->has_so_buf_lock = !get(fd, SOL_SOCKET, SO_BUF_LOCK, &value);
	sk->so_buf_lock = value;
	get_timeout(fd, SO_SNDTIMEO, &sk->so_snd_tmo_sec, &sk->so_snd_tmo_usec);
	get_timeout(fd, SO_RCVTIMEO, &sk->so_rcv_tmo_sec, &sk->so_rcv_tmo_usec);
	if (!getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, store->device, &size) && size)
		sk->so_bound_dev = store->device;
	/* With no room it tells how many instructions there are; of eBPF it tells nothing. */
	size = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, NULL, &size) < 0)
		return -errno;
	if (size && size <= FILTER_MAX &&
	    !getsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, store->program, &size)) {
		for (size_t i = 0; i < size; i++)
			store->filter[i] = (uint64_t)store->program[i].code << 48 | (uint64_t)store->program[i].jt << 40 |
					   (uint64_t)store->program[i].jf << 32 | store->program[i].k;
		sk->so_filter = store->filter;
		sk->n_so_filter = size;
	}
	size = sizeof(linger);
	if (!getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) && linger.l_onoff) {
		sk->has_so_linger = true;
		sk->so_linger = linger.l_linger;
	}
	return 0;
}

static void *part_of(struct socket_options *store, int part)
{
	return part == PART_SK ? (void *)&store->sk : part == PART_IP ? (void *)&store->ip :
	       (void *)&store->tcp;
}

void socket_options_none(struct socket_options *store, InetSkEntry *image)
{
	sk_opts_entry__init(&store->sk);
	store->sk.has_so_buf_lock = true;
	image->opts = &store->sk;
}

static void put_bytes(struct socket_options *store, size_t *count, int level, int name, void *bytes, size_t size)
{
	SkOptionEntry *e = store->list[*count] = &store->others[*count];

	sk_option_entry__init(e);
	e->level = level;
	e->name = name;
	e->value = (ProtobufCBinaryData){ size, bytes };
	++*count;
}

int socket_options_dump(int fd, struct socket_options *store, struct socket_defaults **known,
			InetSkEntry *image)
{
	const struct socket_defaults *usual = defaults_of(known, image);
	size_t count = 0;
	socklen_t size;
	int value, err;

	if (!usual)
		return -ENOMEM;
	memset(store, 0, offsetof(struct socket_options, filter));
	sk_opts_entry__init(&store->sk);
	ip_opts_entry__init(&store->ip);
	tcp_opts_entry__init(&store->tcp);
	err = dump_required(fd, store);
	if (err)
		return err;
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		uint8_t *part = part_of(store, fields[i].part);

		if (!concerns(fields[i].whom, image) || !has_level(image, fields[i].level) ||
		    get(fd, fields[i].level, fields[i].name, &value) || value == usual->fields[i])
			continue;
		*(protobuf_c_boolean *)(part + fields[i].has) = true;
		*(uint32_t *)(part + fields[i].at) = value;
	}
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		if (!concerns(others[i].whom, image) || !has_level(image, others[i].level) ||
		    get(fd, others[i].level, others[i].name, &value) || value == usual->others[i])
			continue;
		store->values[count] = value;
		put_bytes(store, &count, others[i].level, others[i].name, &store->values[count], sizeof(value));
	}
	size = sizeof(store->congestion);
	if (image->type == SOCK_STREAM && has_level(image, IPPROTO_TCP) &&
	    !getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, store->congestion, &size) && strcmp(store->congestion, usual->congestion))
		put_bytes(store, &count, IPPROTO_TCP, TCP_CONGESTION, store->congestion, strlen(store->congestion));
	size = sizeof(store->icmp6);
	if (image->family == AF_INET6 && image->type == SOCK_RAW && image->proto == IPPROTO_ICMPV6 &&
	    !getsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, store->icmp6, &size))
		put_bytes(store, &count, IPPROTO_ICMPV6, ICMP6_FILTER, store->icmp6, size);
	image->opts = &store->sk;
	image->ip_opts = &store->ip;
	image->tcp_opts = image->type == SOCK_STREAM ? &store->tcp : NULL;
	image->phaul_options = store->list;
	image->n_phaul_options = count;
	return 0;
}

static int set(int fd, const struct field *field, int value, struct phaul_error *err)
{
	int now, code = setsockopt(fd, field->level, field->name, &value, sizeof(value)) < 0 ? -errno : 0;

	/* What it has already it need not be allowed to set. */
	if (!code || (!get(fd, field->level, field->name, &now) && now == value))
		return 0;
	return phaul_fail(err, code, "descriptors", "setting %s to %d on a socket", field->text,
			  value);
}

/* The kernel doubles what is set. Beyond the system's maximum it takes a capability. */
static void set_buffer(int fd, int force, int name, uint32_t doubled)
{
	int value = doubled / 2;

	if (setsockopt(fd, SOL_SOCKET, force, &value, sizeof(value)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value));
}

/* An instruction is a number of the image, as CRIU writes it. */
static int attach_filter(int fd, const SkOptsEntry *sk)
{
	struct sock_filter program[FILTER_MAX];
	struct sock_fprog filter = { sk->n_so_filter, program };

	if (sk->n_so_filter > FILTER_MAX) {
		errno = EINVAL;
		return -1;
	}
	for (size_t i = 0; i < sk->n_so_filter; i++)
		program[i] = (struct sock_filter){
			sk->so_filter[i] >> 48, sk->so_filter[i] >> 40, sk->so_filter[i] >> 32, sk->so_filter[i],
		};
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter));
}

static int build_required(int fd, const SkOptsEntry *sk, struct phaul_error *err)
{
	struct timeval send = { sk->so_snd_tmo_sec, sk->so_snd_tmo_usec };
	struct timeval receive = { sk->so_rcv_tmo_sec, sk->so_rcv_tmo_usec };
	struct linger linger = { 1, sk->so_linger };

	if (!sk->has_so_buf_lock || sk->so_buf_lock & 1)
		set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, sk->so_sndbuf);
	if (!sk->has_so_buf_lock || sk->so_buf_lock & 2)
		set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, sk->so_rcvbuf);
	if (((send.tv_sec || send.tv_usec) &&
	     setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send, sizeof(send)) < 0) ||
	    ((receive.tv_sec || receive.tv_usec) &&
	     setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof(receive)) < 0) ||
	    (sk->has_so_linger &&
	     setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0))
		return phaul_fail(err, -errno, "descriptors", "setting the timeouts of a socket");
	if (sk->n_so_filter && attach_filter(fd, sk) < 0)
		return phaul_fail(err, -errno, "descriptors", "attaching a packet filter to a socket");
	if (sk->so_bound_dev && *sk->so_bound_dev &&
	    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, sk->so_bound_dev,
		       strlen(sk->so_bound_dev)) < 0)
		return phaul_fail(err, -errno, "descriptors",
				  "binding a socket to the network device %s", sk->so_bound_dev);
	return 0;
}

static int build_fields(int fd, const InetSkEntry *image, struct phaul_error *err)
{
	const void *parts[] = { image->opts, image->ip_opts, image->tcp_opts };
	int failed = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fields) && !failed; i++) {
		const uint8_t *part = parts[fields[i].part];

		if (part && *(const protobuf_c_boolean *)(part + fields[i].has))
			failed = set(fd, &fields[i], *(const int32_t *)(part + fields[i].at), err);
	}
	return failed;
}

int socket_options_build(int fd, const InetSkEntry *image, struct phaul_error *err)
{
	int failed = build_required(fd, image->opts, err);

	if (!failed)
		failed = build_fields(fd, image, err);
	for (size_t i = 0; i < image->n_phaul_options && !failed; i++) {
		const SkOptionEntry *o = image->phaul_options[i];

		if (setsockopt(fd, o->level, o->name, o->value.data, o->value.len) < 0)
			failed = phaul_fail(err, -errno, "descriptors",
					    "setting option %u of level %u on a "
					    "socket",
					    o->name, o->level);
	}
	return failed;
}
