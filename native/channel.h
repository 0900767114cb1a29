/* channel.h - the connection of one migration between two hosts: a note stream for the conversation and N
 * page streams, each TLS 1.3 over TCP with a key of its own migration that came another way (ssh).
 *
 *	source                                target
 *	                                      listen, port
 *	connect  ==== note stream =====       accept
 *	         ==== page streams 0..N-1 ==
 *
 * Page streams go one way, from source to target. All sockets are non-blocking, and every wait also waits
 * for the abort of the channel.
 */
#ifndef PHAUL_CHANNEL_H
#define PHAUL_CHANNEL_H

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdbool.h>

#include "phaul.h"

#define CHANNEL_STREAMS_MAX 16

/* A peer that takes or gives nothing for so long while something is due is as good as dead. TCP itself gives
 * up after the same time (TCP_USER_TIMEOUT). */
#define CHANNEL_STALL_MS 15000

/* The state of a large process is some MiB; nothing honest is longer. */
#define NOTE_SIZE_MAX (64u << 20)

struct stream {
	struct phaul_channel *channel;
	SSL *ssl;
	int fd;
	int low_water;		/* SO_RCVLOWAT; 0 is its default */
};

struct phaul_channel {
	int listener, abort_fd;
	int port, stream_count;
	uint8_t key[32];
	SSL_CTX *tls;
	struct stream note, pages[CHANNEL_STREAMS_MAX];
	struct { uint32_t kind, size; bool pending; } note_head;	/* read, its bytes not yet */
	struct pump *pump;	/* pages.c: the threads on the page streams */
};

/* All of it, or an error: -ECANCELED aborted, -ECONNRESET the peer is gone, -ETIMEDOUT it stalls, -EBADMSG the
 * bytes were tampered with. */
int stream_write(struct stream *s, const void *bytes, size_t size, int stall_ms);
int stream_read(struct stream *s, void *bytes, size_t size, int stall_ms);
/* As a sentence: what was being done when the peer of the channel failed. */
int stream_fail(struct phaul_error *err, int code, const char *doing);

#endif
