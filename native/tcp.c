#include "tcp.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define IN(...) in_states(c->state, (const int[]){ __VA_ARGS__, 0 })
#define CHUNK_MAX (1u << 20)	/* into a receive queue in one piece, if the kernel has a piece of that size */
#define CHUNK_MIN 1024u
#define MSS_MAX 32767u		/* that may be wished for */

static bool in_states(int state, const int *list)
{
	while (*list && *list != state)
		list++;
	return *list;
}

/* Our side has ended; the peer's has. */
static bool is_fin_sent(const struct tcp_connection *c)
{
	return IN(TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSING, TCP_LAST_ACK, TCP_CLOSE);
}

static bool is_fin_received(const struct tcp_connection *c)
{
	return IN(TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING, TCP_CLOSE);
}

static int set(int fd, int name, int value)
{
	return setsockopt(fd, IPPROTO_TCP, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int get(int fd, int name, void *ret, socklen_t size)
{
	return getsockopt(fd, IPPROTO_TCP, name, ret, &size) < 0 ? -errno : 0;
}

int tcp_pause(int fd)
{
	return set(fd, TCP_REPAIR, TCP_REPAIR_ON);
}

int tcp_resume(int fd)
{
	return set(fd, TCP_REPAIR, TCP_REPAIR_OFF);
}

int tcp_resume_quietly(int fd)
{
	return set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
}

/* ---- save ---- */

static int save_queue(int fd, int queue, uint32_t size, uint32_t *ret_sequence, uint8_t **ret)
{
	ssize_t got;
	int err = set(fd, TCP_REPAIR_QUEUE, queue) ?: get(fd, TCP_QUEUE_SEQ, ret_sequence, sizeof(*ret_sequence));

	if (err || !size)
		return err;
	*ret = malloc(size + 1);
	if (!*ret)
		return -ENOMEM;
	/* One more would be there if the size were not what it is. */
	got = recv(fd, *ret, size + 1, MSG_PEEK | MSG_DONTWAIT);
	return got < 0 ? -errno : (size_t)got == size ? 0 : -EBUSY;
}

static int save_sizes(int fd, struct tcp_connection *c)
{
	int out, unsent, in;

	if (ioctl(fd, SIOCOUTQ, &out) < 0 || ioctl(fd, SIOCOUTQNSD, &unsent) < 0 || ioctl(fd, SIOCINQ, &in) < 0)
		return -errno;
	/* The kernel counts the end of our side. What a dead connection didn't send is never sent. */
	if (is_fin_sent(c)) {
		out -= out > 0;
		unsent -= unsent > 0;
	}
	c->in_size = in;
	c->out_size = c->state == TCP_CLOSE ? 0 : out;
	c->unsent_size = c->state == TCP_CLOSE ? 0 : unsent;
	return 0;
}

int tcp_save(int fd, struct tcp_connection *ret)
{
	socklen_t local = sizeof(ret->local), peer = sizeof(ret->peer);

	memset(ret, 0, sizeof(*ret));
	if (getsockname(fd, &ret->local.any, &local) < 0)
		return -errno;
	/* One that has ended tells its peer no more. */
	if (getpeername(fd, &ret->peer.any, &peer) < 0 && errno != ENOTCONN)
		return -errno;
	return tcp_save_named(fd, ret);
}

int tcp_save_named(int fd, struct tcp_connection *ret)
{
	struct tcp_info info = { 0 };
	int err = get(fd, TCP_INFO, &info, sizeof(info)) ?: get(fd, TCP_MAXSEG, &ret->mss, sizeof(ret->mss)) ?:
		  get(fd, TCP_REPAIR_WINDOW, &ret->window, sizeof(ret->window));

	if (err)
		return err;
	ret->state = info.tcpi_state;
	ret->options = info.tcpi_options;
	ret->send_wscale = info.tcpi_snd_wscale;
	ret->receive_wscale = info.tcpi_rcv_wscale;
	if (ret->options & TCPI_OPT_TIMESTAMPS)
		err = get(fd, TCP_TIMESTAMP, &ret->timestamp, sizeof(ret->timestamp));
	err = err ?: save_sizes(fd, ret) ?:
	      save_queue(fd, TCP_RECV_QUEUE, ret->in_size, &ret->in_sequence, &ret->in) ?:
	      save_queue(fd, TCP_SEND_QUEUE, ret->out_size, &ret->out_sequence, &ret->out);
	if (err)
		tcp_connection_free(ret);
	return err;
}

void tcp_connection_free(struct tcp_connection *c)
{
	free(c->in);
	free(c->out);
	c->in = c->out = NULL;
}

/* ---- restore ---- */

static int set_sequence(int fd, int queue, uint32_t value)
{
	return set(fd, TCP_REPAIR_QUEUE, queue) ?: set(fd, TCP_QUEUE_SEQ, value);
}

static int restore_options(int fd, const struct tcp_connection *c)
{
	struct tcp_repair_opt options[4] = { { TCPOPT_MAXSEG, c->mss } };
	size_t count = 1;

	if (c->options & TCPI_OPT_SACK)
		options[count++] = (struct tcp_repair_opt){ TCPOPT_SACK_PERMITTED, 0 };
	if (c->options & TCPI_OPT_WSCALE)
		options[count++] = (struct tcp_repair_opt){ TCPOPT_WINDOW, c->send_wscale | c->receive_wscale << 16 };
	if (c->options & TCPI_OPT_TIMESTAMPS)
		options[count++] = (struct tcp_repair_opt){ TCPOPT_TIMESTAMP, 0 };
	/* A handshake that goes on finds out for itself. */
	if (c->state != TCP_SYN_SENT &&
	    setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, count * sizeof(*options)) < 0)
		return -errno;
	return c->options & TCPI_OPT_TIMESTAMPS ? set(fd, TCP_TIMESTAMP, c->timestamp) : 0;
}

static int put(int fd, const uint8_t *bytes, uint32_t size)
{
	uint32_t chunk = CHUNK_MAX;

	while (size) {
		ssize_t done = send(fd, bytes, size < chunk ? size : chunk, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (done <= 0 && chunk > CHUNK_MIN) {
			chunk /= 2;
			continue;
		}
		if (done <= 0)
			return done ? -errno : -EIO;
		bytes += done;
		size -= done;
	}
	return 0;
}

/* What was sent once may be acknowledged any time; what wasn't is given to the socket as the program did. */
static int restore_queues(int fd, const struct tcp_connection *c)
{
	uint32_t sent = c->out_size - c->unsent_size;
	int err = c->in_size ? set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE) ?: put(fd, c->in, c->in_size) : 0;

	if (!err && sent)
		err = set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE) ?: put(fd, c->out, sent);
	err = err ?: set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
	if (err || !c->unsent_size)
		return err;
	return set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP) ?: put(fd, c->out + sent, c->unsent_size) ?: tcp_pause(fd);
}

static int restore_window(int fd, const struct tcp_connection *c)
{
	struct tcp_repair_window window = c->window;

	/* As it was before the peer's end took a place in it. */
	if (is_fin_received(c)) {
		window.rcv_wup--;
		window.rcv_wnd++;
	}
	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)) < 0 ? -errno : 0;
}

static uint16_t sum(uint32_t start, const void *bytes, size_t size)
{
	const uint8_t *at = bytes;

	for (; size > 1; at += 2, size -= 2)
		start += at[0] << 8 | at[1];
	while (start >> 16)
		start = (start & 0xffff) + (start >> 16);
	return start;
}

/* A packet as the peer would send it, to ourselves. */
static int send_as_peer(const struct tcp_connection *c, uint32_t sequence, uint32_t acknowledged, uint8_t flags)
{
	bool six = c->peer.any.sa_family == AF_INET6;
	bool mapped = six && IN6_IS_ADDR_V4MAPPED(&c->peer.v6.sin6_addr);
	size_t address_size = six && !mapped ? 16 : 4, skip = mapped ? 12 : 0;
	const uint8_t *from = (six ? c->peer.v6.sin6_addr.s6_addr : (uint8_t *)&c->peer.v4.sin_addr) + skip;
	const uint8_t *to = (six ? c->local.v6.sin6_addr.s6_addr : (uint8_t *)&c->local.v4.sin_addr) + skip;
	uint16_t from_port = six ? c->peer.v6.sin6_port : c->peer.v4.sin_port;
	uint16_t to_port = six ? c->local.v6.sin6_port : c->local.v4.sin_port;
	uint8_t head[60], *tcp = head + (address_size == 16 ? sizeof(struct ip6_hdr) : sizeof(struct iphdr));
	uint32_t words[2] = { htonl(sequence), htonl(acknowledged) };
	uint16_t window = htons(c->window.rcv_wnd > 0xffff ? 0xffff : c->window.rcv_wnd), check;
	size_t size = tcp - head + 20;
	union tcp_address address = { .any.sa_family = address_size == 16 ? AF_INET6 : AF_INET };
	unsigned int mark = TCP_RESTORE_MARK;
	int fd, one = 1, err = 0;

	memset(head, 0, sizeof(head));
	memcpy(tcp, &from_port, 2);
	memcpy(tcp + 2, &to_port, 2);
	memcpy(tcp + 4, words, 8);
	tcp[12] = 5 << 4;
	tcp[13] = flags;
	memcpy(tcp + 14, &window, 2);
	check = htons(~sum(sum(sum(IPPROTO_TCP + 20, from, address_size), to, address_size), tcp, 20));
	memcpy(tcp + 16, &check, 2);
	if (address_size == 16) {
		struct ip6_hdr *ip = (struct ip6_hdr *)head;

		ip->ip6_vfc = 6 << 4;
		ip->ip6_plen = htons(20);
		ip->ip6_nxt = IPPROTO_TCP;
		ip->ip6_hlim = 64;
		memcpy(&ip->ip6_src, from, 16);
		memcpy(&ip->ip6_dst, to, 16);
		memcpy(&address.v6.sin6_addr, to, 16);
	} else {
		struct iphdr *ip = (struct iphdr *)head;

		ip->version = 4;
		ip->ihl = 5;
		ip->tot_len = htons(size);
		ip->ttl = 64;
		ip->protocol = IPPROTO_TCP;
		memcpy(&ip->saddr, from, 4);
		memcpy(&ip->daddr, to, 4);
		memcpy(&address.v4.sin_addr, to, 4);
	}
	fd = socket(address.any.sa_family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0 ||
	    (address_size == 16 && setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &one, sizeof(one)) < 0) ||
	    sendto(fd, head, size, 0, &address.any, address_size == 16 ? sizeof(address.v6) : sizeof(address.v4)) < 0)
		err = -errno;
	close(fd);
	return err;
}

/* Our end, sent before or (`acknowledged`) seen by the peer too. */
static int restore_own_end(int fd, bool acknowledged)
{
	int err = acknowledged ? set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE) : 0;

	if (!err && shutdown(fd, SHUT_WR) < 0)
		err = -errno;
	return err ? err : acknowledged ? set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE) : 0;
}

static socklen_t size_of(const union tcp_address *a)
{
	return a->any.sa_family == AF_INET6 ? sizeof(a->v6) : sizeof(a->v4);
}

static int connect_again(int fd, const struct tcp_connection *c)
{
	/* The first packet of a handshake is sent again. */
	int err = c->state == TCP_SYN_SENT ? set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP) : 0;

	/* Without a wish of ours the segments would be of 536 bytes, until the path's MTU changes: what is restored
	 * later as the peer's wish is only looked at then. */
	(void)set(fd, TCP_MAXSEG, c->mss < MSS_MAX ? c->mss : MSS_MAX);
	if (!err && connect(fd, &c->peer.any, size_of(&c->peer)) < 0 && errno != EINPROGRESS)
		err = -errno;
	(void)set(fd, TCP_MAXSEG, 0);
	return err ? err : c->state == TCP_SYN_SENT ? tcp_pause(fd) : 0;
}

/* What a connect() from an address takes that is not on this host. */
static int set_transparent(int fd, int family, int value)
{
	return setsockopt(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP,
			  family == AF_INET6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int bind_local(int fd, const union tcp_address *a, bool *ret_absent)
{
	*ret_absent = false;
	if (bind(fd, &a->any, size_of(a)) == 0)
		return 0;
	if (errno != EADDRNOTAVAIL)
		return -errno;
	if (set_transparent(fd, a->any.sa_family, 1))
		return -EADDRNOTAVAIL;
	*ret_absent = true;
	return bind(fd, &a->any, size_of(a)) < 0 ? -errno : 0;
}

int tcp_restore(int fd, const struct tcp_connection *c)
{
	/* Behind the last byte, without ends. */
	uint32_t in = c->in_sequence - is_fin_received(c), out = c->out_sequence - is_fin_sent(c);
	int err = tcp_pause(fd);
	bool absent = false;

	err = err ?: bind_local(fd, &c->local, &absent) ?: set_sequence(fd, TCP_RECV_QUEUE, in - c->in_size) ?:
	      set_sequence(fd, TCP_SEND_QUEUE, out - c->out_size - (c->state == TCP_SYN_SENT)) ?:
	      connect_again(fd, c) ?: restore_options(fd, c) ?: restore_queues(fd, c) ?: (c->state == TCP_SYN_SENT ? 0 : restore_window(fd, c));
	if (absent)
		(void)set_transparent(fd, c->local.any.sa_family, 0);
	return err;
}

int tcp_restore_ends(int fd, const struct tcp_connection *c)
{
	uint32_t in = c->in_sequence - is_fin_received(c), out = c->out_sequence - is_fin_sent(c);
	bool own_first = IN(TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSING), acknowledged = IN(TCP_FIN_WAIT2, TCP_CLOSE);
	int err = own_first ? restore_own_end(fd, acknowledged) : 0;

	if (!err && is_fin_received(c))
		err = send_as_peer(c, in, out - c->out_size, TH_ACK | TH_FIN);
	if (!err && IN(TCP_LAST_ACK, TCP_CLOSE))
		err = restore_own_end(fd, acknowledged);
	if (!err && acknowledged)
		err = send_as_peer(c, in + IN(TCP_CLOSE), out + 1 - c->out_size, TH_ACK);
	return err;
}
