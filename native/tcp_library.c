/* tcp_library.c - tcp.h for TypeScript: a connection as a piece of memory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"
#include "network_lock.h"
#include "tcp.h"

#define MAGIC 0x31706374u		/* "tcp1" */
#define QUEUE_MAX (1u << 30)

/* In front of the bytes of both queues. */
struct packed {
	uint32_t magic, state, in_size, out_size, unsent_size, in_sequence, out_sequence;
	uint32_t options, mss, send_wscale, receive_wscale, timestamp;
	struct tcp_repair_window window;
	uint32_t family;
	struct { uint8_t address[16]; uint16_t port; uint16_t none; } local, peer;
};

static void put_end(const union tcp_address *a, uint8_t address[16], uint16_t *port)
{
	bool six = a->any.sa_family == AF_INET6;

	memcpy(address, six ? (void *)&a->v6.sin6_addr : (void *)&a->v4.sin_addr, six ? 16 : 4);
	*port = six ? a->v6.sin6_port : a->v4.sin_port;
}

static void get_end(int family, const uint8_t address[16], uint16_t port, union tcp_address *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->any.sa_family = family;
	if (family == AF_INET6) {
		memcpy(&ret->v6.sin6_addr, address, 16);
		ret->v6.sin6_port = port;
	} else {
		memcpy(&ret->v4.sin_addr, address, 4);
		ret->v4.sin_port = port;
	}
}

int phaul_tcp_pause(int fd, struct phaul_error *err)
{
	int code = tcp_pause(fd);

	return code ? phaul_fail(err, code, "tcp", "pausing the connection of fd %d: that needs CAP_NET_ADMIN, and a TCP connection", fd) : 0;
}

int phaul_tcp_resume(int fd, struct phaul_error *err)
{
	int code = tcp_resume(fd), on = 1;

	/* As one has that was accepted: or nobody could listen on its port. */
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	return code ? phaul_fail(err, code, "tcp", "letting the connection of fd %d go on", fd) : 0;
}

int64_t phaul_tcp_save(int fd, void *ret, size_t size, struct phaul_error *err)
{
	struct tcp_connection c;
	struct packed p = { .magic = MAGIC };
	int code = tcp_save(fd, &c);
	size_t needed;

	if (code)
		return phaul_fail(err, code, "tcp", "saving the connection of fd %d: it must be paused", fd);
	needed = sizeof(p) + c.in_size + c.out_size;
	if (needed <= size) {
		p.state = c.state;
		p.in_size = c.in_size;
		p.out_size = c.out_size;
		p.unsent_size = c.unsent_size;
		p.in_sequence = c.in_sequence;
		p.out_sequence = c.out_sequence;
		p.options = c.options;
		p.mss = c.mss;
		p.send_wscale = c.send_wscale;
		p.receive_wscale = c.receive_wscale;
		p.timestamp = c.timestamp;
		p.window = c.window;
		p.family = c.local.any.sa_family;
		put_end(&c.local, p.local.address, &p.local.port);
		put_end(&c.peer, p.peer.address, &p.peer.port);
		memcpy(ret, &p, sizeof(p));
		if (c.in_size)
			memcpy((uint8_t *)ret + sizeof(p), c.in, c.in_size);
		if (c.out_size)
			memcpy((uint8_t *)ret + sizeof(p) + c.in_size, c.out, c.out_size);
	}
	tcp_connection_free(&c);
	return needed;
}

static int unpack(const uint8_t *bytes, size_t size, struct tcp_connection *ret)
{
	struct packed p;

	if (size < sizeof(p))
		return -EPROTO;
	memcpy(&p, bytes, sizeof(p));
	if (p.magic != MAGIC || p.in_size > QUEUE_MAX || p.out_size > QUEUE_MAX || p.unsent_size > p.out_size ||
	    size != sizeof(p) + p.in_size + p.out_size || (p.family != AF_INET && p.family != AF_INET6) || !p.state ||
	    p.state >= TCP_LISTEN || p.state == TCP_SYN_RECV)
		return -EPROTO;
	*ret = (struct tcp_connection){
		.state = p.state, .in_size = p.in_size, .out_size = p.out_size, .unsent_size = p.unsent_size,
		.in_sequence = p.in_sequence, .out_sequence = p.out_sequence,
		.in = (uint8_t *)bytes + sizeof(p), .out = (uint8_t *)bytes + sizeof(p) + p.in_size,
		.options = p.options, .mss = p.mss, .send_wscale = p.send_wscale, .receive_wscale = p.receive_wscale,
		.timestamp = p.timestamp, .window = p.window,
	};
	get_end(p.family, p.local.address, p.local.port, &ret->local);
	get_end(p.family, p.peer.address, p.peer.port, &ret->peer);
	return 0;
}

int phaul_tcp_restore(const void *bytes, size_t size, struct phaul_error *err)
{
	struct tcp_connection c;
	int code = unpack(bytes, size, &c), fd = -1;

	if (code)
		return phaul_fail(err, code, "tcp", "this is no saved connection");
	fd = socket(c.local.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	code = fd < 0 ? -errno : tcp_restore(fd, &c) ?: tcp_restore_ends(fd, &c);
	if (!code)
		return fd;
	if (fd >= 0)
		close(fd);
	return phaul_fail(err, code, "tcp", "restoring a connection%s", code == -EADDRNOTAVAIL ? ": another socket has it still" : "");
}

/* ---- the lock ---- */

struct phaul_tcp_lock {
	struct network_hold hold;
	struct connection_pair *pairs;
	size_t count;
};

int phaul_tcp_lock_open(struct phaul_tcp_lock **ret, struct phaul_error *err)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : phaul_fail(err, -ENOMEM, "tcp", "preparing a lock");
}

int phaul_tcp_lock_add(struct phaul_tcp_lock *lock, int fd, struct phaul_error *err)
{
	struct connection_pair *larger = reallocarray(lock->pairs, lock->count + 1, sizeof(*larger));
	socklen_t local = sizeof(larger->local), peer = sizeof(larger->peer);

	if (!larger)
		return phaul_fail(err, -ENOMEM, "tcp", "locking the connection of fd %d", fd);
	lock->pairs = larger;
	if (getsockname(fd, &larger[lock->count].local.any, &local) < 0 || getpeername(fd, &larger[lock->count].peer.any, &peer) < 0)
		return phaul_fail(err, -errno, "tcp", "locking the connection of fd %d", fd);
	lock->count++;
	return network_hold(&lock->hold, getpid(), lock->pairs, lock->count, &(struct moved_addresses){0}, err);
}

void phaul_tcp_lock_close(struct phaul_tcp_lock *lock)
{
	network_let_go(&lock->hold);
	free(lock->pairs);
	free(lock);
}
