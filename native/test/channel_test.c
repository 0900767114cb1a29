/* Who is spoken to: only a peer that has this migration's key, and who says it now; and what is changed, cut or repeated on its way. */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../pages.h"
#include "../phaul.h"

static const uint8_t key[32] = "this migration's key...........";
static const uint8_t other[32] = "the key of another one.........";

struct listener {
	int fd, heard;
};

/* A stranger with a certificate of its own making, and no key. */
static void *pose(void *arg)
{
	struct listener *l = arg;
	SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
	EVP_PKEY *own = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	char heard[64];
	int fd;

	X509_set_pubkey(cert, own);
	X509_gmtime_adj(X509_getm_notBefore(cert), 0);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_sign(cert, own, EVP_sha256());
	SSL_CTX_use_certificate(tls, cert);
	SSL_CTX_use_PrivateKey(tls, own);
	fd = accept(l->fd, NULL, NULL);
	SSL *ssl = SSL_new(tls);
	SSL_set_fd(ssl, fd);
	if (SSL_accept(ssl) == 1)
		l->heard = SSL_read(ssl, heard, sizeof(heard));
	close(l->fd);
	shutdown(fd, SHUT_RDWR);
	close(fd);
	SSL_free(ssl);
	X509_free(cert);
	EVP_PKEY_free(own);
	SSL_CTX_free(tls);
	return NULL;
}

static int refuses_certificate(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(at);
	struct listener l = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
	struct phaul_channel *ch;
	struct phaul_error err;
	pthread_t thread;
	int ret;

	if (bind(l.fd, (struct sockaddr *)&at, size) || listen(l.fd, 8) ||
	    getsockname(l.fd, (struct sockaddr *)&at, &size))
		return 1;
	pthread_create(&thread, NULL, pose, &l);
	ret = phaul_channel_connect("127.0.0.1", ntohs(at.sin_port), key, 1, 3000, &ch, &err);
	pthread_join(thread, NULL);
	fprintf(stderr, "a stranger with a certificate heard %d bytes: %d %s\n", l.heard, ret,
		ret ? err.what : "accepted");
	return l.heard > 0 || ret != -EBADMSG;
}

static void *take(void *arg)
{
	return (void *)(intptr_t)phaul_channel_accept(arg, 1500, NULL);
}

static int connects(const uint8_t *ours, int want)
{
	struct phaul_channel *target, *source = NULL;
	struct phaul_error err = {0};
	pthread_t thread;
	void *accepted;
	int ret;

	if (phaul_channel_listen("127.0.0.1", 0, key, 2, &target, &err))
		return 1;
	pthread_create(&thread, NULL, take, target);
	ret = phaul_channel_connect("127.0.0.1", phaul_channel_port(target), ours, 2, 1000, &source, &err);
	pthread_join(thread, &accepted);
	if (!ret)
		phaul_channel_close(source);
	phaul_channel_close(target);
	fprintf(stderr, "%s key: source %d, target %ld\n", ours == key ? "the right" : "a wrong", ret,
		(long)(intptr_t)accepted);
	return want ? ret || accepted : !ret || !accepted;
}

/* ---- somebody in between ---- */

#define CONNECTIONS 2		/* the note stream, and one page stream */
#define HEARD_MAX (1 << 18)

enum harm { NONE, CHANGE, CUT, REPEAT };

/* Stands between source and target, and does one harm to what the source says next on one of the connections. */
struct between {
	int listener, port, target_port;
	enum harm harm;
	int connection;			/* 0: notes, 1: pages */
	atomic_bool armed;
	struct { uint8_t bytes[HEARD_MAX]; size_t size; } heard[CONNECTIONS];	/* from the source */
	pthread_t thread;
};

static int connect_to(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	return connect(fd, (struct sockaddr *)&at, sizeof(at)) ? -1 : fd;
}

static bool put(int fd, const void *bytes, size_t size)
{
	return send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size;
}

/* False: the connection is over. */
static bool pass_on(struct between *b, int number, int from, int to)
{
	uint8_t bytes[1 << 16];
	ssize_t got = recv(from, bytes, sizeof(bytes), 0);
	enum harm harm = got > 0 && number == b->connection && atomic_exchange(&b->armed, false) ? b->harm : NONE;

	if (got <= 0)
		return false;
	if (number >= 0 && b->heard[number].size + got <= HEARD_MAX) {
		memcpy(b->heard[number].bytes + b->heard[number].size, bytes, got);
		b->heard[number].size += got;
	}
	if (harm == CHANGE)
		bytes[got - 1] ^= 1;
	if (harm == CUT)
		(void)put(to, bytes, got / 2);
	return harm != CUT && put(to, bytes, got) && (harm != REPEAT || put(to, bytes, got));
}

static void take_pair(struct between *b, struct pollfd fds[2])
{
	fds[0] = (struct pollfd){ accept(b->listener, NULL, NULL), POLLIN, 0 };
	fds[1] = (struct pollfd){ connect_to(b->target_port), POLLIN, 0 };
}

/* The sides of a connection lie side by side, the source's first. */
static void *stand_between(void *arg)
{
	struct between *b = arg;
	struct pollfd fds[2 * CONNECTIONS + 1];
	int sides = 0, ended = 0;

	while (ended < 2 * CONNECTIONS) {
		int last = sides;

		fds[last] = (struct pollfd){ sides < 2 * CONNECTIONS ? b->listener : -1, POLLIN, 0 };
		(void)poll(fds, last + 1, -1);
		for (int i = 0; i < last; i++) {
			if (!fds[i].revents || pass_on(b, i % 2 ? -1 : i / 2, fds[i].fd, fds[i ^ 1].fd))
				continue;
			close(fds[i].fd);
			close(fds[i ^ 1].fd);
			fds[i].fd = fds[i ^ 1].fd = -1;
			fds[i].revents = fds[i ^ 1].revents = 0;
			ended += 2;
		}
		if (fds[last].revents) {
			take_pair(b, fds + last);
			sides += 2;
		}
	}
	close(b->listener);
	return NULL;
}

static void begin_between(struct between *b, int target_port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(at);

	b->target_port = target_port;
	b->listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(b->listener, (struct sockaddr *)&at, size) || listen(b->listener, 8) ||
	    getsockname(b->listener, (struct sockaddr *)&at, &size))
		abort();
	b->port = ntohs(at.sin_port);
	pthread_create(&b->thread, NULL, stand_between, b);
}

/* ---- a conversation through it ---- */

struct talk {
	struct phaul_channel *source, *target;
	struct between *between;
	int memory;			/* whose pages are sent */
	atomic_int frames;		/* that arrived */
};

static int count_frame(void *ctx, uint32_t round, uint64_t owner, const struct page_extent *extents, size_t count, const uint8_t *data,
		       struct phaul_error *err)
{
	(void)round;
	(void)owner;
	(void)extents;
	(void)count;
	(void)data;
	(void)err;
	atomic_fetch_add(&((struct talk *)ctx)->frames, 1);
	return 0;
}

static int talk_begin(struct talk *t, enum harm harm, int connection)
{
	static const char text[4096] = "a page";
	const struct page_sink sink = { .ctx = t, .apply = count_frame };
	struct phaul_error err = {0};
	pthread_t thread;
	void *accepted;
	int ret;

	memset(t, 0, sizeof(*t));
	t->between = calloc(1, sizeof(*t->between));
	t->between->harm = harm;
	t->between->connection = connection;
	t->memory = memfd_create("pages", MFD_CLOEXEC);
	if (write(t->memory, text, sizeof(text)) != sizeof(text) || phaul_channel_listen("127.0.0.1", 0, key, 1, &t->target, &err))
		return 1;
	begin_between(t->between, phaul_channel_port(t->target));
	pthread_create(&thread, NULL, take, t->target);
	ret = phaul_channel_connect("127.0.0.1", t->between->port, key, 1, 5000, &t->source, &err);
	pthread_join(thread, &accepted);
	if (ret || accepted)
		fprintf(stderr, "connecting through another: %s\n", err.what);
	return ret || accepted || pages_receive_start(t->target, &sink);
}

static void talk_end(struct talk *t)
{
	phaul_channel_close(t->source);
	phaul_channel_close(t->target);
	pthread_join(t->between->thread, NULL);
	close(t->memory);
	free(t->between);
}

static int say(struct talk *t, int connection, uint32_t round)
{
	const struct page_range range = { 0, 1 };
	const struct page_source from = { .owner = PAGES_SHARED | 1, .mem = t->memory, .ranges = &range, .count = 1 };
	struct pages_stats stats;

	return connection ? pages_send(t->source, &from, 1, round, false, &stats, NULL) :
			    phaul_note_send(t->source, PHAUL_NOTE_USER, "word", 4, NULL);
}

static int hear(struct talk *t, int connection, uint32_t round)
{
	struct pages_stats stats;
	uint32_t kind;
	char word[4];
	size_t size;

	if (connection)
		return pages_wait_round(t->target, round, 3000, &stats, NULL);
	return phaul_note_receive(t->target, &kind, word, sizeof(word), &size, 3000, NULL) ?: memcmp(word, "word", 4);
}

/* What is harmed is refused, and what was repeated isn't heard twice. */
static int refuses_harm(enum harm harm, int connection, int want)
{
	static const char *const names[] = { "none", "changed", "cut off", "repeated" };
	struct talk t;
	int first, then, frames;

	if (talk_begin(&t, harm, connection))
		return 1;
	first = say(&t, connection, 1) ?: hear(&t, connection, 1);
	atomic_store(&t.between->armed, true);
	(void)say(&t, connection, 2);
	then = hear(&t, connection, 2);
	if (harm == REPEAT && !then)
		then = hear(&t, connection, 3);
	frames = atomic_load(&t.frames);
	talk_end(&t);
	fprintf(stderr, "%s %s: %d, then %d, %d frames\n", connection ? "pages" : "a note", names[harm], first, then, frames);
	return first || then != want || frames > 2;
}

/* All that a source has said, once more, to a target that waits for a source with the same key. */
static int refuses_replay(void)
{
	struct phaul_channel *target;
	struct phaul_error err = {0};
	pthread_t thread;
	void *accepted;
	struct talk t;
	int fds[CONNECTIONS], code;

	if (talk_begin(&t, NONE, 0))
		return 1;
	code = say(&t, 0, 0) ?: hear(&t, 0, 0) ?: say(&t, 1, 1) ?: hear(&t, 1, 1);
	if (code || phaul_channel_listen("127.0.0.1", 0, key, 1, &target, &err))
		return 1;
	for (int i = 0; i < CONNECTIONS; i++) {
		fds[i] = connect_to(phaul_channel_port(target));
		if (!t.between->heard[i].size || !put(fds[i], t.between->heard[i].bytes, t.between->heard[i].size))
			return 1;
	}
	pthread_create(&thread, NULL, take, target);
	pthread_join(thread, &accepted);
	for (int i = 0; i < CONNECTIONS; i++)
		close(fds[i]);
	fprintf(stderr, "a replay of %zu and %zu bytes: %ld\n", t.between->heard[0].size, t.between->heard[1].size, (long)(intptr_t)accepted);
	phaul_channel_close(target);
	talk_end(&t);
	return !accepted;
}

static int refuses_all_harm(void)
{
	for (int connection = 0; connection < CONNECTIONS; connection++)
		if (refuses_harm(CHANGE, connection, -EBADMSG) || refuses_harm(CUT, connection, -ECONNRESET) ||
		    refuses_harm(REPEAT, connection, -EBADMSG))
			return 1;
	return 0;
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	return connects(key, 1) || connects(other, 0) || refuses_certificate() || refuses_all_harm() || refuses_replay();
}
