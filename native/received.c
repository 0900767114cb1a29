#include "received.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096ull
#define CHUNK (1ull << 21)
#define WORDS 8

struct received_chunk {
	uint64_t start;			/* 0: this place is free; no process has pages at 0 */
	uint64_t bits[WORDS];
};

void received_init(struct received *r)
{
	memset(r, 0, sizeof(*r));
	pthread_mutex_init(&r->lock, NULL);
}

void received_free(struct received *r)
{
	free(r->chunks);
	pthread_mutex_destroy(&r->lock);
	memset(r, 0, sizeof(*r));
}

static struct received_chunk *slot(struct received_chunk *chunks, size_t capacity, uint64_t start)
{
	size_t i = (start >> 21) * 0x9e3779b97f4a7c15ull >> 20;

	for (;; i++) {
		struct received_chunk *c = &chunks[i & (capacity - 1)];

		if (!c->start || c->start == start)
			return c;
	}
}

static int grow(struct received *r)
{
	size_t capacity = r->capacity ? 2 * r->capacity : 1024;
	struct received_chunk *chunks = calloc(capacity, sizeof(*chunks));

	if (!chunks)
		return -ENOMEM;
	for (size_t i = 0; i < r->capacity; i++)
		if (r->chunks[i].start)
			*slot(chunks, capacity, r->chunks[i].start) = r->chunks[i];
	free(r->chunks);
	r->chunks = chunks;
	r->capacity = capacity;
	return 0;
}

/* The first 2 MiB of an address space stand under 1, as 0 means free. */
static uint64_t chunk_of(uint64_t address)
{
	return (address & ~(CHUNK - 1)) | 1;
}

static void set_bits(struct received_chunk *c, unsigned first, unsigned n, bool on)
{
	for (unsigned i = first; i < first + n; ) {
		unsigned in_word = 64 - i % 64 < first + n - i ? 64 - i % 64 : first + n - i;
		uint64_t mask = (in_word == 64 ? ~0ull : (1ull << in_word) - 1) << i % 64;

		if (on)
			c->bits[i / 64] |= mask;
		else
			c->bits[i / 64] &= ~mask;
		i += in_word;
	}
}

int received_add(struct received *r, uint64_t address, uint64_t pages)
{
	int err = 0;

	pthread_mutex_lock(&r->lock);
	while (pages && !err) {
		unsigned first = address % CHUNK / PAGE;
		unsigned n = pages < 512 - first ? pages : 512 - first;
		struct received_chunk *c;

		if (2 * r->count >= r->capacity)
			err = grow(r);
		if (err)
			break;
		c = slot(r->chunks, r->capacity, chunk_of(address));
		if (!c->start) {
			c->start = chunk_of(address);
			r->count++;
		}
		set_bits(c, first, n, true);
		address += n * PAGE;
		pages -= n;
	}
	pthread_mutex_unlock(&r->lock);
	return err;
}

/* Calls with the chunks that overlap; few large ranges or many small ones, whichever is less work. */
static int each_chunk(struct received *r, uint64_t start, uint64_t end,
		      int (*visit)(struct received_chunk *c, uint64_t from, uint64_t to, void *ctx),
		      void *ctx)
{
	int ret = 0;

	if (!r->capacity || end <= start)
		return 0;
	if ((end - start) / CHUNK < r->capacity) {
		for (uint64_t at = start & ~(CHUNK - 1); at < end && !ret; at += CHUNK) {
			struct received_chunk *c = slot(r->chunks, r->capacity, chunk_of(at));

			if (c->start)
				ret = visit(c, at > start ? at : start,
					    at + CHUNK < end ? at + CHUNK : end, ctx);
		}
		return ret;
	}
	for (size_t i = 0; i < r->capacity && !ret; i++) {
		uint64_t at = r->chunks[i].start & ~(CHUNK - 1);

		if (r->chunks[i].start && at < end && at + CHUNK > start)
			ret = visit(&r->chunks[i], at > start ? at : start,
				    at + CHUNK < end ? at + CHUNK : end, ctx);
	}
	return ret;
}

static int clear(struct received_chunk *c, uint64_t from, uint64_t to, void *ctx)
{
	(void)ctx;
	set_bits(c, from % CHUNK / PAGE, (to - from) / PAGE, false);
	return 0;
}

void received_remove(struct received *r, uint64_t address, uint64_t pages)
{
	pthread_mutex_lock(&r->lock);
	(void)each_chunk(r, address, address + pages * PAGE, clear, NULL);
	pthread_mutex_unlock(&r->lock);
}

bool received_any(struct received *r, uint64_t address)
{
	bool yes = false;

	pthread_mutex_lock(&r->lock);
	if (r->capacity) {
		unsigned bit = address % CHUNK / PAGE;
		struct received_chunk *c = slot(r->chunks, r->capacity, chunk_of(address));

		yes = c->start && (c->bits[bit / 64] >> bit % 64 & 1);
	}
	pthread_mutex_unlock(&r->lock);
	return yes;
}

struct visitor {
	int (*found)(void *to, uint64_t start, uint64_t end);
	void *to;
};

static int report(struct received_chunk *c, uint64_t from, uint64_t to, void *ctx)
{
	struct visitor *v = ctx;
	unsigned last = (to - 1) % CHUNK / PAGE;
	uint64_t base = from & ~(CHUNK - 1);
	int ret = 0;

	for (unsigned i = from % CHUNK / PAGE; i <= last && !ret; ) {
		unsigned first;

		if (!(c->bits[i / 64] >> i % 64)) {
			i = (i / 64 + 1) * 64;
			continue;
		}
		if (!(c->bits[i / 64] >> i % 64 & 1)) {
			i++;
			continue;
		}
		for (first = i; i <= last && (c->bits[i / 64] >> i % 64 & 1); i++)
			;
		ret = v->found(v->to, base + first * PAGE, base + i * PAGE);
	}
	return ret;
}

int received_each(struct received *r, uint64_t start, uint64_t end,
		  int (*found)(void *to, uint64_t start, uint64_t end), void *to)
{
	struct visitor v = { found, to };
	int ret;

	pthread_mutex_lock(&r->lock);
	ret = each_chunk(r, start, end, report, &v);
	pthread_mutex_unlock(&r->lock);
	return ret;
}
