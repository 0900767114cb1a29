/* baseline.c - a plain TLS 1.3 stream over loopback with the channel's own cipher and buffers: the limit that
 * page streams are compared with.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "channel.h"
#include "error.h"

#define CHUNK (1u << 20)
#define STALL_MS 10000

struct reader {
	struct phaul_channel *ch;
	size_t bytes;
	int code;
};

static void *take_all(void *arg)
{
	struct reader *r = arg;
	uint8_t *buffer = malloc(CHUNK);

	r->code = buffer ? phaul_channel_accept(r->ch, STALL_MS, NULL) : -ENOMEM;
	for (size_t left = r->bytes; left && !r->code; left -= left < CHUNK ? left : CHUNK)
		r->code = stream_read(&r->ch->pages[0], buffer, left < CHUNK ? left : CHUNK, STALL_MS);
	free(buffer);
	return NULL;
}

static int give_all(struct phaul_channel *ch, size_t bytes)
{
	uint8_t *buffer = malloc(CHUNK);
	int code = buffer ? 0 : -ENOMEM;

	if (buffer)
		memset(buffer, 0x5a, CHUNK);
	for (size_t left = bytes; left && !code; left -= left < CHUNK ? left : CHUNK)
		code = stream_write(&ch->pages[0], buffer, left < CHUNK ? left : CHUNK, STALL_MS);
	free(buffer);
	return code;
}

int phaul_tls_baseline(size_t bytes, double *ret_gbps, struct phaul_error *err)
{
	uint8_t key[32] = "the same on both ends of this...";
	struct reader reader = { .bytes = bytes };
	struct phaul_channel *sender = NULL;
	uint64_t start_ns = 0;
	pthread_t thread;
	int code = phaul_channel_listen("127.0.0.1", 0, key, 1, &reader.ch, err);

	if (code)
		return code;
	code = -pthread_create(&thread, NULL, take_all, &reader);
	if (code) {
		phaul_channel_close(reader.ch);
		return phaul_fail(err, code, "baseline", "starting a thread");
	}
	code = phaul_channel_connect("127.0.0.1", phaul_channel_port(reader.ch), key, 1, STALL_MS, &sender, err);
	start_ns = phaul_now_ns();
	if (!code)
		code = give_all(sender, bytes);
	if (code)
		phaul_channel_abort(reader.ch);
	pthread_join(thread, NULL);
	if (!code)
		code = reader.code;
	if (!code)
		*ret_gbps = bytes / (double)(phaul_now_ns() - start_ns);
	phaul_channel_close(sender);
	phaul_channel_close(reader.ch);
	return code ? phaul_fail(err, code, "baseline", "measuring a TLS stream over loopback") : 0;
}
