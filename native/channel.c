#include "channel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"
#include "pages.h"

#define HELLO_MAGIC 0x6c756168u
#define HELLO_VERSION 1
#define NOTE_STREAM 0xffffu
#define PENDING_MAX 32		/* connections that have not said who they are */
#define HANDSHAKE_MS 5000	/* for one of them */
#define RECORD_MAX (17 << 10)	/* of TLS, with its overhead */
#define LOW_WATER_MAX (128 << 10)
#define READ_BUFFER (1 << 18)	/* fewer reads: records of TLS are 16 KiB */

struct hello {
	uint32_t magic, version, index, count;
};

static const unsigned char cipher_id[] = { 0x13, 0x01 };	/* TLS_AES_128_GCM_SHA256 */
static const char identity[] = "phaul";

/* ---- the key ---- */

static SSL_SESSION *session_of(SSL *ssl)
{
	struct phaul_channel *ch = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	SSL_SESSION *session = SSL_SESSION_new();

	if (session && SSL_SESSION_set1_master_key(session, ch->key, sizeof(ch->key)) == 1 &&
	    SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, cipher_id)) == 1 &&
	    SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1)
		return session;
	SSL_SESSION_free(session);
	return NULL;
}

static int offer_key(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_size,
		     SSL_SESSION **session)
{
	*session = session_of(ssl);
	*id = (const unsigned char *)identity;
	*id_size = strlen(identity);
	if (*session && md && SSL_CIPHER_get_handshake_digest(SSL_SESSION_get0_cipher(*session)) != md) {
		SSL_SESSION_free(*session);
		*session = NULL;
	}
	return 1;
}

static int find_key(SSL *ssl, const unsigned char *id, size_t id_size, SSL_SESSION **session)
{
	*session = id_size == strlen(identity) && !memcmp(id, identity, id_size) ? session_of(ssl) : NULL;
	return 1;
}

static SSL_CTX *tls_context(struct phaul_channel *ch)
{
	SSL_CTX *tls = SSL_CTX_new(TLS_method());

	if (!tls)
		return NULL;
	SSL_CTX_set_app_data(tls, ch);
	SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION);
	SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256");
	SSL_CTX_set_num_tickets(tls, 0);
	SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(tls, 1);
	SSL_CTX_set_default_read_buffer_len(tls, READ_BUFFER);
	SSL_CTX_set_psk_use_session_callback(tls, offer_key);
	SSL_CTX_set_psk_find_session_callback(tls, find_key);
	return tls;
}

/* ---- streams ---- */

static int tune(int fd)
{
	int on = 1, stall_ms = CHANNEL_STALL_MS, idle_s = 5, interval_s = 3, probes = 3;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stall_ms, sizeof(stall_ms)) < 0 ||
	    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

static void stream_close(struct stream *s)
{
	if (s->ssl) {
		(void)SSL_shutdown(s->ssl);
		SSL_free(s->ssl);
	}
	if (s->fd >= 0)
		close(s->fd);
	s->ssl = NULL;
	s->fd = -1;
}

/* Waits until the socket is ready or the channel aborted. */
static int wait_ready(struct phaul_channel *ch, int fd, short events, int timeout_ms)
{
	struct pollfd fds[] = { { .fd = fd, .events = events }, { .fd = ch->abort_fd, .events = POLLIN } };
	int n = poll(fds, 2, timeout_ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (fds[1].revents)
		return -ECANCELED;
	return n ? 0 : -ETIMEDOUT;
}

/* What to do about a return of SSL_read, SSL_write, SSL_connect or SSL_accept that isn't a success. */
static int after_ssl(struct stream *s, int ret, int timeout_ms)
{
	int saved = errno;

	switch (SSL_get_error(s->ssl, ret)) {
	case SSL_ERROR_WANT_READ:
		return wait_ready(s->channel, s->fd, POLLIN, timeout_ms);
	case SSL_ERROR_WANT_WRITE:
		return wait_ready(s->channel, s->fd, POLLOUT, timeout_ms);
	case SSL_ERROR_ZERO_RETURN:
		return -ECONNRESET;
	case SSL_ERROR_SYSCALL:
		ERR_clear_error();
		return saved == ETIMEDOUT ? -ETIMEDOUT : -ECONNRESET;
	}
	/* An end without close_notify, too, which an attacker could fake. */
	if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
		ERR_clear_error();
		return -ECONNRESET;
	}
	ERR_clear_error();
	return -EBADMSG;
}

int stream_write(struct stream *s, const void *bytes, size_t size, int stall_ms)
{
	const uint8_t *at = bytes;

	while (size) {
		size_t put = 0;
		int ret = SSL_write_ex(s->ssl, at, size, &put);
		int err = ret == 1 ? 0 : after_ssl(s, ret, stall_ms);

		if (err)
			return err;
		at += put;
		size -= put;
	}
	return 0;
}

/* Being woken for each record of 16 KiB costs more than the record, above all on another CPU: when `left` bytes
 * are due, sleep until a good part of them is there. What OpenSSL has taken already is less than a record. */
static void set_low_water(struct stream *s, size_t left)
{
	int low = left < 2 * RECORD_MAX ? 1 : left - RECORD_MAX < LOW_WATER_MAX ? left - RECORD_MAX
										 : LOW_WATER_MAX;

	if (low != s->low_water && setsockopt(s->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof(low)) == 0)
		s->low_water = low;
}

int stream_read(struct stream *s, void *bytes, size_t size, int stall_ms)
{
	uint8_t *at = bytes;

	while (size) {
		size_t got = 0;
		int ret = SSL_read_ex(s->ssl, at, size, &got);
		int err = 0;

		if (ret != 1) {
			set_low_water(s, size);
			err = after_ssl(s, ret, stall_ms);
		}

		if (err)
			return err;
		at += got;
		size -= got;
	}
	return 0;
}

int stream_fail(struct phaul_error *err, int code, const char *doing)
{
	switch (code) {
	case -ECANCELED:
		return phaul_fail(err, code, "channel", "%s was cancelled", doing);
	case -ECONNRESET:
		return phaul_fail(err, code, "channel", "the other host closed the page channel, or the "
				  "link to it broke, while %s", doing);
	case -ETIMEDOUT:
		return phaul_fail(err, code, "channel", "the other host did not answer while %s; is the link "
				  "cut, or a phaul there stopped?", doing);
	case -EBADMSG:
		return phaul_fail(err, code, "channel", "the page channel broke while %s: what arrived was not "
				  "encrypted with this migration's key, or was changed on its way", doing);
	default:
		return phaul_fail(err, code, "channel", "%s", doing);
	}
}

/* ---- connecting ---- */

static int new_channel(const uint8_t key[32], int streams, struct phaul_channel **ret,
		       struct phaul_error *err)
{
	struct phaul_channel *ch;

	if (streams < 1 || streams > CHANNEL_STREAMS_MAX)
		return phaul_fail(err, -EINVAL, "channel", "%d page streams were asked for; 1 to %d are possible",
				  streams, CHANNEL_STREAMS_MAX);
	ch = calloc(1, sizeof(*ch));
	if (!ch)
		return phaul_fail(err, -ENOMEM, "channel", "making a page channel");
	ch->stream_count = streams;
	ch->listener = ch->note.fd = -1;
	for (int i = 0; i < CHANNEL_STREAMS_MAX; i++)
		ch->pages[i].fd = -1;
	memcpy(ch->key, key, sizeof(ch->key));
	ch->abort_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ch->tls = tls_context(ch);
	if (ch->abort_fd < 0 || !ch->tls) {
		phaul_channel_close(ch);
		return phaul_fail(err, -ENOMEM, "channel", "making a page channel");
	}
	*ret = ch;
	return 0;
}

static int resolve(const char *address, int port, struct addrinfo **ret)
{
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
				  .ai_socktype = SOCK_STREAM };
	char service[16];

	snprintf(service, sizeof(service), "%d", port);
	return getaddrinfo(address, service, &hints, ret) ? -EINVAL : 0;
}

int phaul_channel_listen(const char *address, int port, const uint8_t key[32], int streams,
			 struct phaul_channel **ret, struct phaul_error *err)
{
	struct sockaddr_storage own;
	socklen_t size = sizeof(own);
	struct addrinfo *where = NULL;
	struct phaul_channel *ch;
	int on = 1, code = new_channel(key, streams, &ch, err);

	if (code)
		return code;
	code = resolve(address, port, &where);
	if (!code) {
		ch->listener = socket(where->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (ch->listener < 0 ||
		    setsockopt(ch->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
		    bind(ch->listener, where->ai_addr, where->ai_addrlen) < 0 ||
		    listen(ch->listener, 64) < 0 ||
		    getsockname(ch->listener, (struct sockaddr *)&own, &size) < 0)
			code = -errno;
		freeaddrinfo(where);
	}
	if (code) {
		phaul_channel_close(ch);
		return phaul_fail(err, code, "channel", "listening for pages on %s port %d", address, port);
	}
	/* The port lies at the same place in both families. */
	ch->port = ntohs(((struct sockaddr_in *)&own)->sin_port);
	*ret = ch;
	return 0;
}

int phaul_channel_port(struct phaul_channel *ch)
{
	return ch->port;
}

struct pending {
	struct stream stream;
	struct hello hello;
	size_t got;
	uint64_t deadline_ns;
	bool shaken;
};

/* 1: it has said who it is; 0: not yet; or an error. Never waits. */
static int advance(struct pending *p)
{
	SSL *ssl = p->stream.ssl;
	size_t got;
	int ret;

	if (!p->shaken) {
		ret = SSL_accept(ssl);
		if (ret != 1)
			goto incomplete;
		p->shaken = true;
	}
	while (p->got < sizeof(p->hello)) {
		ret = SSL_read_ex(ssl, (uint8_t *)&p->hello + p->got, sizeof(p->hello) - p->got, &got);
		if (ret != 1)
			goto incomplete;
		p->got += got;
	}
	return 1;
incomplete:
	ret = SSL_get_error(ssl, ret);
	ERR_clear_error();
	return ret == SSL_ERROR_WANT_READ || ret == SSL_ERROR_WANT_WRITE ? 0 : -EBADMSG;
}

/* Puts a connection that has the key in its place. */
static int place(struct phaul_channel *ch, struct pending *p, struct phaul_error *err)
{
	const struct hello *h = &p->hello;
	struct stream *to = h->index == NOTE_STREAM ? &ch->note :
			    h->index < (uint32_t)ch->stream_count ? &ch->pages[h->index] : NULL;

	if (h->magic != HELLO_MAGIC || h->version != HELLO_VERSION)
		return phaul_fail(err, -EPROTO, "channel", "the source speaks version %u of the page channel, "
				  "this host version %d: install the same phaul on both", h->version,
				  HELLO_VERSION);
	if (!to || to->ssl || h->count != (uint32_t)ch->stream_count)
		return phaul_fail(err, -EPROTO, "channel", "the source opened page stream %u of %u, %d were "
				  "agreed on", h->index, h->count, ch->stream_count);
	*to = p->stream;
	p->stream = (struct stream){ .fd = -1 };
	return 0;
}

static void take_connection(struct phaul_channel *ch, struct pending *pending)
{
	int fd = accept4(ch->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (int i = 0; fd >= 0 && i < PENDING_MAX; i++) {
		struct pending *p = &pending[i];

		if (p->stream.fd >= 0)
			continue;
		memset(p, 0, sizeof(*p));
		p->stream = (struct stream){ .channel = ch, .fd = fd, .ssl = SSL_new(ch->tls) };
		p->deadline_ns = phaul_now_ns() + HANDSHAKE_MS * 1000000ull;
		if (!p->stream.ssl || SSL_set_fd(p->stream.ssl, fd) != 1 || tune(fd))
			stream_close(&p->stream);
		return;
	}
	if (fd >= 0)
		close(fd);
}

/* Strangers come and go without harm; one that stalls only takes a place for a while. */
static int step_pending(struct phaul_channel *ch, struct pending *pending, int *missing,
			struct phaul_error *err)
{
	for (int i = 0; i < PENDING_MAX; i++) {
		struct pending *p = &pending[i];
		int done = p->stream.fd < 0 ? 0 : advance(p), code;

		if (done == 1) {
			code = place(ch, p, err);
			if (code)
				return code;
			(*missing)--;
		} else if (done < 0 || (p->stream.fd >= 0 && phaul_now_ns() > p->deadline_ns)) {
			stream_close(&p->stream);
		}
	}
	return 0;
}

int phaul_channel_accept(struct phaul_channel *ch, int timeout_ms, struct phaul_error *err)
{
	uint64_t deadline_ns = phaul_now_ns() + timeout_ms * 1000000ull;
	struct pending pending[PENDING_MAX];
	int missing = ch->stream_count + 1, code = 0;

	for (int i = 0; i < PENDING_MAX; i++)
		pending[i].stream = (struct stream){ .fd = -1 };
	while (missing && !code) {
		struct pollfd fds[PENDING_MAX + 2];
		int n = 0;

		fds[n++] = (struct pollfd){ .fd = ch->abort_fd, .events = POLLIN };
		fds[n++] = (struct pollfd){ .fd = ch->listener, .events = POLLIN };
		for (int i = 0; i < PENDING_MAX; i++)
			fds[n++] = (struct pollfd){ .fd = pending[i].stream.fd, .events = POLLIN };
		(void)poll(fds, n, 100);
		if (fds[0].revents)
			code = stream_fail(err, -ECANCELED, "waiting for the source's page streams");
		else if (phaul_now_ns() > deadline_ns)
			code = phaul_fail(err, -ETIMEDOUT, "channel", "the source did not open its page streams to "
					  "port %d within %d ms (%d are missing): does a firewall between the "
					  "hosts block it?", ch->port, timeout_ms, missing);
		if (!code && fds[1].revents)
			take_connection(ch, pending);
		if (!code)
			code = step_pending(ch, pending, &missing, err);
	}
	for (int i = 0; i < PENDING_MAX; i++)
		stream_close(&pending[i].stream);
	close(ch->listener);
	ch->listener = -1;
	return code;
}

static int open_stream(struct phaul_channel *ch, const struct addrinfo *where, uint32_t index,
		       uint64_t deadline_ns)
{
	struct stream *s = index == NOTE_STREAM ? &ch->note : &ch->pages[index];
	struct hello hello = { HELLO_MAGIC, HELLO_VERSION, index, ch->stream_count };
	int left_ms = (int64_t)(deadline_ns - phaul_now_ns()) / 1000000, code, ret, failed = 0;
	socklen_t size = sizeof(failed);

	if (left_ms <= 0)
		return -ETIMEDOUT;
	s->channel = ch;
	s->fd = socket(where->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return -errno;
	code = tune(s->fd);
	if (!code && connect(s->fd, where->ai_addr, where->ai_addrlen) < 0)
		code = errno == EINPROGRESS ? wait_ready(ch, s->fd, POLLOUT, left_ms) : -errno;
	if (!code && getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &failed, &size) == 0)
		code = -failed;
	if (code)
		return code;
	s->ssl = SSL_new(ch->tls);
	if (!s->ssl || SSL_set_fd(s->ssl, s->fd) != 1)
		return -ENOMEM;
	while (!code && (ret = SSL_connect(s->ssl)) != 1)
		code = after_ssl(s, ret, left_ms);
	/* Without the key, a listener may still complete the handshake, by a certificate that nobody asked for. */
	if (!code && !SSL_session_reused(s->ssl))
		code = -EBADMSG;
	return code ? code : stream_write(s, &hello, sizeof(hello), left_ms);
}

int phaul_channel_connect(const char *address, int port, const uint8_t key[32], int streams,
			  int timeout_ms, struct phaul_channel **ret, struct phaul_error *err)
{
	uint64_t deadline_ns = phaul_now_ns() + timeout_ms * 1000000ull;
	struct addrinfo *where = NULL;
	struct phaul_channel *ch;
	int code = new_channel(key, streams, &ch, err);

	if (code)
		return code;
	code = resolve(address, port, &where);
	if (!code)
		code = open_stream(ch, where, NOTE_STREAM, deadline_ns);
	for (int i = 0; i < streams && !code; i++)
		code = open_stream(ch, where, i, deadline_ns);
	if (where)
		freeaddrinfo(where);
	if (!code)
		code = pump_start_senders(ch);
	if (code) {
		phaul_channel_close(ch);
		if (code == -EBADMSG)
			return phaul_fail(err, code, "channel", "%s port %d did not accept this migration's key: "
					  "something else than its phaul answers there", address, port);
		return phaul_fail(err, code, "channel", "opening page streams to %s port %d; does a firewall "
				  "between the hosts block it?", address, port);
	}
	*ret = ch;
	return 0;
}

int phaul_channel_limit(struct phaul_channel *ch, uint64_t bytes_per_second, struct phaul_error *err)
{
	uint64_t share = bytes_per_second ? bytes_per_second / ch->stream_count + 1 : ~0ull;

	for (int i = 0; i < ch->stream_count; i++)
		if (setsockopt(ch->pages[i].fd, SOL_SOCKET, SO_MAX_PACING_RATE, &share, sizeof(share)) < 0)
			return phaul_fail(err, -errno, "channel", "limiting page streams to %llu bytes a second",
					  (unsigned long long)bytes_per_second);
	return 0;
}

int64_t phaul_channel_unsent(struct phaul_channel *ch)
{
	int64_t sum = 0;

	for (int i = 0; i < ch->stream_count; i++) {
		int bytes = 0;

		if (ioctl(ch->pages[i].fd, SIOCOUTQ, &bytes) == 0)
			sum += bytes;
	}
	return sum;
}

void phaul_channel_abort(struct phaul_channel *ch)
{
	uint64_t one = 1;

	(void)!write(ch->abort_fd, &one, sizeof(one));
}

void phaul_channel_close(struct phaul_channel *ch)
{
	if (!ch)
		return;
	if (ch->pump) {
		phaul_channel_abort(ch);
		pump_stop(ch);
	}
	for (int i = 0; i < CHANNEL_STREAMS_MAX; i++)
		stream_close(&ch->pages[i]);
	stream_close(&ch->note);
	if (ch->listener >= 0)
		close(ch->listener);
	if (ch->abort_fd >= 0)
		close(ch->abort_fd);
	SSL_CTX_free(ch->tls);
	OPENSSL_cleanse(ch->key, sizeof(ch->key));
	free(ch);
}

/* ---- notes ---- */

int phaul_note_send(struct phaul_channel *ch, uint32_t kind, const void *bytes, size_t size,
		    struct phaul_error *err)
{
	uint32_t head[2] = { kind, size };
	uint8_t small[1024];
	int code;

	if (size > NOTE_SIZE_MAX)
		return phaul_fail(err, -EMSGSIZE, "channel", "a note of %zu bytes is too long", size);
	if (size <= sizeof(small) - sizeof(head)) {
		/* One record, one packet. */
		memcpy(small, head, sizeof(head));
		if (size)
			memcpy(small + sizeof(head), bytes, size);
		code = stream_write(&ch->note, small, sizeof(head) + size, CHANNEL_STALL_MS);
	} else {
		code = stream_write(&ch->note, head, sizeof(head), CHANNEL_STALL_MS);
		if (!code)
			code = stream_write(&ch->note, bytes, size, CHANNEL_STALL_MS);
	}
	return code ? stream_fail(err, code, "telling it what comes next") : 0;
}

int phaul_note_receive(struct phaul_channel *ch, uint32_t *ret_kind, void *buffer, size_t capacity,
		       size_t *ret_size, int timeout_ms, struct phaul_error *err)
{
	int code = 0;

	if (!ch->note_head.pending) {
		uint32_t head[2];

		code = stream_read(&ch->note, head, sizeof(head), timeout_ms);
		if (code)
			return stream_fail(err, code, "waiting for its next word");
		if (head[1] > NOTE_SIZE_MAX)
			return phaul_fail(err, -EPROTO, "channel", "the other host announced a note of %u bytes; at "
					  "most %u are possible", head[1], NOTE_SIZE_MAX);
		ch->note_head.kind = head[0];
		ch->note_head.size = head[1];
		ch->note_head.pending = true;
	}
	*ret_kind = ch->note_head.kind;
	*ret_size = ch->note_head.size;
	if (ch->note_head.size > capacity)
		return -ENOBUFS;
	ch->note_head.pending = false;
	code = stream_read(&ch->note, buffer, *ret_size, CHANNEL_STALL_MS);
	return code ? stream_fail(err, code, "receiving a note of it") : 0;
}
