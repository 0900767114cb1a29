#include "pages.h"

#include <errno.h>
#include <immintrin.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "channel.h"
#include "checksum.h"
#include "clock.h"
#include "error.h"

#define PAGE 4096u
#define FRAME_MAGIC 0x31676170u
#define FRAME_PAGES 64u		/* 256 KiB: two streams and their copies stay in the caches */
#define INLINE_PAGES 1024u		/* to send so many takes about as long as to wake the threads */
#define FRAME_EXTENTS (2 * FRAME_PAGES)	/* zero and other pages may alternate */
#define USER_END 0x7ffffffff000ull
#define LZ4_SAMPLE 32			/* every so many frames see whether compression pays */

enum { FRAME_END = 1, FRAME_LZ4 = 2 };

struct frame_head {
	uint32_t magic, round, extents, flags, data, wire;
	uint64_t owner;
};

/* What one stream needs for its frames. `out`: head and extents, as one write. */
struct frame {
	uint8_t *out, *data, *packed;
	struct page_extent *extents;
	struct iovec *from;
	uint64_t address[FRAME_PAGES];	/* of each page in `data` */
};

/* Does lz4 make this stream faster? By what it takes to send a byte and to compress one. */
struct lz4_choice {
	double send_ns, pack_ns, ratio;	/* per byte; of the last sample */
	unsigned frames;
	bool pays;
};

struct worker {
	struct pump *pump;
	struct stream *stream;
	pthread_t thread;
	pid_t tid;			/* 0 until it runs */
	struct frame frame;
	struct lz4_choice lz4;
	uint32_t ended_round;		/* receiver */
	bool running;
};

struct job {
	const struct page_source *sources;
	size_t count, source, at;	/* the next: whose, and which of its ranges */
	uint64_t done_pages;		/* of that */
	uint32_t round;
	bool frozen;
};

struct pump {
	struct phaul_channel *channel;
	pthread_mutex_t lock;
	pthread_cond_t wake, done;
	struct worker workers[CHANNEL_STREAMS_MAX];
	uint64_t job_number;		/* senders: a new number is a new job */
	int busy;
	bool stop;
	int priority;
	struct job job;
	struct pages_stats stats;
	struct page_sink sink;
	int code;			/* the first failure */
	struct phaul_error error;
};

/* ---- frames ---- */

static int frame_init(struct frame *f)
{
	f->out = malloc(sizeof(struct frame_head) + FRAME_EXTENTS * sizeof(struct page_extent));
	f->data = malloc(FRAME_PAGES * PAGE);
	f->packed = malloc(LZ4_COMPRESSBOUND(FRAME_PAGES * PAGE));
	f->extents = malloc(FRAME_EXTENTS * sizeof(*f->extents));
	f->from = malloc(FRAME_EXTENTS * sizeof(*f->from));
	return f->out && f->data && f->packed && f->extents && f->from ? 0 : -ENOMEM;
}

static void frame_free(struct frame *f)
{
	free(f->out);
	free(f->data);
	free(f->packed);
	free(f->extents);
	free(f->from);
}

__attribute__((target("avx2"))) static bool is_zero_avx2(const uint8_t *page)
{
	for (size_t i = 0; i < PAGE; i += 128) {
		const __m256i *at = (const __m256i *)(page + i);
		__m256i any = _mm256_or_si256(
			_mm256_or_si256(_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)),
			_mm256_or_si256(_mm256_loadu_si256(at + 2), _mm256_loadu_si256(at + 3)));

		if (!_mm256_testz_si256(any, any))
			return false;
	}
	return true;
}

static bool is_zero_words(const uint8_t *page)
{
	for (size_t i = 0; i < PAGE; i += 64) {
		uint64_t word[8];

		memcpy(word, page + i, sizeof(word));
		if (word[0] | word[1] | word[2] | word[3] | word[4] | word[5] | word[6] | word[7])
			return false;
	}
	return true;
}

static bool is_zero(const uint8_t *page)
{
	return __builtin_cpu_supports("avx2") ? is_zero_avx2(page) : is_zero_words(page);
}

/* ---- sending ---- */

/* Takes up to a frame's pages of one source from the job; returns how many extents that are. */
static size_t take(struct pump *p, const struct page_source **ret_from, struct page_extent *to)
{
	struct job *job = &p->job;
	const struct page_source *from;
	size_t n = 0;
	uint64_t pages = 0;

	while (job->source < job->count && !n) {
		from = *ret_from = &job->sources[job->source];
		while (job->at < from->count && pages < FRAME_PAGES && n < FRAME_PAGES) {
			const struct page_range *r = &from->ranges[job->at];
			uint64_t left = r->pages - job->done_pages;
			uint64_t some = left < FRAME_PAGES - pages ? left : FRAME_PAGES - pages;

			if (some)
				to[n++] = (struct page_extent){ r->address + job->done_pages * PAGE, some, 0 };
			pages += some;
			job->done_pages += some;
			if (job->done_pages == r->pages) {
				job->at++;
				job->done_pages = 0;
			}
		}
		if (job->at == from->count) {
			job->source++;
			job->at = 0;
		}
	}
	return n;
}

/* One by one, where reading them together failed: forced, as a debugger reads, so that PROT_NONE is no
 * obstacle. Pages that are gone leave the list. */
static int read_singly(struct worker *w, const struct page_source *from, const struct page_extent *extents, size_t n,
		       size_t *ret_pages)
{
	bool is_shared = from->owner & PAGES_SHARED;
	size_t pages = 0;

	for (size_t i = 0; i < n; i++) {
		for (uint32_t j = 0; j < extents[i].pages; j++) {
			uint64_t at = extents[i].address + j * (uint64_t)PAGE;
			uint8_t *page = w->frame.data + pages * PAGE;
			ssize_t got = pread(from->mem, page, PAGE, at);

			/* Behind the end of shared memory there are zeros. */
			if (is_shared && got > 0 && got < PAGE) {
				memset(page + got, 0, PAGE - got);
				got = PAGE;
			}
			if (got == PAGE) {
				w->frame.address[pages++] = at;
			} else if (w->pump->job.frozen) {
				return phaul_fail(&w->pump->error, errno ? -errno : -EIO, "pages",
						  "reading %llx of %s %llu", (unsigned long long)at,
						  is_shared ? "shared memory" : "pid",
						  (unsigned long long)(from->owner & ~PAGES_SHARED));
			}
		}
	}
	*ret_pages = pages;
	return 0;
}

static bool read_together(struct worker *w, const struct page_source *from, const struct page_extent *extents, size_t n)
{
	struct iovec local = { w->frame.data, 0 };
	size_t done = 0;

	for (size_t i = 0; i < n; i++) {
		w->frame.from[i] = (struct iovec){ (void *)extents[i].address, extents[i].pages * (size_t)PAGE };
		local.iov_len += w->frame.from[i].iov_len;
	}
	if (from->tid)
		return process_vm_readv(from->tid, &local, 1, w->frame.from, n, 0) == (ssize_t)local.iov_len;
	for (size_t i = 0; i < n; i++) {
		size_t size = w->frame.from[i].iov_len;

		if (pread(from->mem, w->frame.data + done, size, extents[i].address) != (ssize_t)size)
			return false;
		done += size;
	}
	return true;
}

/* Reads the pages of the extents one behind the other into frame.data. */
static int read_pages(struct worker *w, const struct page_source *from, const struct page_extent *extents, size_t n,
		      size_t *ret_pages)
{
	size_t pages = 0;
	int err = 0;

	if (read_together(w, from, extents, n)) {
		for (size_t i = 0; i < n; i++)
			for (uint32_t j = 0; j < extents[i].pages; j++)
				w->frame.address[pages++] = extents[i].address + j * (uint64_t)PAGE;
	} else {
		err = read_singly(w, from, extents, n, &pages);
	}
	for (size_t i = 0; i < pages && from->sums; i++)
		from->sums[w->frame.address[i] / PAGE] = page_sum(w->frame.address[i], (uint64_t *)(w->frame.data + i * PAGE));
	*ret_pages = pages;
	return err;
}

/* Leaves zero pages out of the data. Returns the number of extents. */
static size_t elide_zeros(struct worker *w, size_t pages, size_t *ret_data_pages)
{
	struct page_extent *to = w->frame.extents;
	size_t n = 0, kept = 0;

	for (size_t i = 0; i < pages; i++) {
		uint64_t at = w->frame.address[i];
		const uint8_t *page = w->frame.data + i * PAGE;
		uint32_t flags = is_zero(page) ? PAGE_EXTENT_ZERO : 0;
		struct page_extent *last = n ? &to[n - 1] : NULL;

		if (!flags) {
			if (kept != i)
				memcpy(w->frame.data + kept * PAGE, page, PAGE);
			kept++;
		}
		if (last && last->flags == flags && last->address + last->pages * (uint64_t)PAGE == at)
			last->pages++;
		else
			to[n++] = (struct page_extent){ at, 1, flags };
	}
	*ret_data_pages = kept;
	return n;
}

static double elapsed_ns(uint64_t since)
{
	return phaul_now_ns() - since;
}

/* Compresses into frame.packed if that is, or may be, of use. Returns the compressed size or 0. */
static size_t compress(struct worker *w, size_t size)
{
	struct lz4_choice *c = &w->lz4;
	bool sample = c->frames++ % LZ4_SAMPLE == LZ4_SAMPLE - 1;
	uint64_t start;
	int packed;

	if ((!c->pays && !sample) || !size)
		return 0;
	start = phaul_now_ns();
	packed = LZ4_compress_fast((char *)w->frame.data, (char *)w->frame.packed, size, size - size / 16, 1);
	c->pack_ns = elapsed_ns(start) / size;
	c->ratio = packed > 0 ? (double)packed / size : 1;
	c->pays = c->send_ns && packed > 0 && c->pack_ns + c->ratio * c->send_ns < 0.9 * c->send_ns;
	return c->pays ? packed : 0;
}

static int send_frame(struct worker *w, uint64_t owner, size_t extents, size_t size, uint64_t *ret_wire)
{
	size_t table = extents * sizeof(struct page_extent), packed = compress(w, size);
	struct frame_head head = {
		.magic = FRAME_MAGIC, .round = w->pump->job.round, .extents = extents,
		.flags = packed ? FRAME_LZ4 : 0, .data = size, .wire = packed ? packed : size, .owner = owner,
	};
	uint8_t *at = w->frame.out;
	uint64_t start;
	int err;

	at = mempcpy(at, &head, sizeof(head));
	at = mempcpy(at, w->frame.extents, table);
	*ret_wire = sizeof(head) + table + head.wire;
	start = phaul_now_ns();
	err = stream_write(w->stream, w->frame.out, at - w->frame.out, CHANNEL_STALL_MS);
	if (!err && head.wire)
		err = stream_write(w->stream, packed ? w->frame.packed : w->frame.data, head.wire,
				   CHANNEL_STALL_MS);
	if (!err && head.wire) {
		double ns = elapsed_ns(start) / head.wire;

		w->lz4.send_ns = w->lz4.send_ns ? 0.8 * w->lz4.send_ns + 0.2 * ns : ns;
	}
	return err;
}

static int send_end(struct worker *w)
{
	struct frame_head head = { .magic = FRAME_MAGIC, .round = w->pump->job.round, .flags = FRAME_END };

	return stream_write(w->stream, &head, sizeof(head), CHANNEL_STALL_MS);
}

static int fail_pump(struct pump *p, int code, const char *doing)
{
	pthread_mutex_lock(&p->lock);
	if (!p->code) {
		p->code = code;
		if (!p->error.code)
			stream_fail(&p->error, code, doing);
	}
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
	return code;
}

/* Sends frames of the job until there are none, then END. */
static int work(struct worker *w)
{
	struct pump *p = w->pump;
	struct page_extent taken[FRAME_PAGES];
	const struct page_source *from = NULL;
	int err = 0;

	while (!err) {
		size_t n, pages = 0, data_pages, extents;
		uint64_t wire;

		pthread_mutex_lock(&p->lock);
		n = p->code ? 0 : take(p, &from, taken);
		pthread_mutex_unlock(&p->lock);
		if (!n)
			break;
		err = read_pages(w, from, taken, n, &pages);
		if (err || !pages)
			continue;
		extents = elide_zeros(w, pages, &data_pages);
		err = send_frame(w, from->owner, extents, data_pages * PAGE, &wire);
		pthread_mutex_lock(&p->lock);
		p->stats.pages += data_pages;
		p->stats.zero_pages += pages - data_pages;
		p->stats.bytes_raw += data_pages * PAGE;
		p->stats.bytes_wire += wire;
		pthread_mutex_unlock(&p->lock);
	}
	if (!err)
		err = send_end(w);
	return err ? fail_pump(p, err, "sending pages") : 0;
}

/* Its first words. */
static void introduce(struct worker *w)
{
	pthread_mutex_lock(&w->pump->lock);
	w->tid = gettid();
	(void)thread_priority(w->tid, w->pump->priority);
	pthread_mutex_unlock(&w->pump->lock);
}

/* And its last: another thread may be given the tid. */
static void *leave(struct worker *w)
{
	pthread_mutex_lock(&w->pump->lock);
	w->tid = 0;
	pthread_mutex_unlock(&w->pump->lock);
	return NULL;
}

void phaul_channel_priority(struct phaul_channel *ch, int priority)
{
	struct pump *p = ch->pump;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->priority = priority;
	for (int i = 0; i < ch->stream_count; i++)
		if (p->workers[i].tid)
			(void)thread_priority(p->workers[i].tid, priority);
	pthread_mutex_unlock(&p->lock);
}

static void *sender(void *arg)
{
	struct worker *w = arg;
	struct pump *p = w->pump;
	uint64_t seen = 0;

	introduce(w);
	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (p->job_number == seen && !p->stop)
			pthread_cond_wait(&p->wake, &p->lock);
		if (p->stop)
			break;
		seen = p->job_number;
		pthread_mutex_unlock(&p->lock);
		(void)work(w);
		pthread_mutex_lock(&p->lock);
		if (!--p->busy)
			pthread_cond_broadcast(&p->done);
	}
	pthread_mutex_unlock(&p->lock);
	return leave(w);
}

static struct pump *new_pump(struct phaul_channel *ch)
{
	struct pump *p = calloc(1, sizeof(*p));
	pthread_condattr_t attr;

	if (!p)
		return NULL;
	p->channel = ch;
	p->priority = PHAUL_PRIORITY_LOW;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->wake, &attr);
	pthread_cond_init(&p->done, &attr);
	pthread_condattr_destroy(&attr);
	return p;
}

static int start(struct phaul_channel *ch, struct pump *p, void *(*body)(void *))
{
	ch->pump = p;
	for (int i = 0; i < ch->stream_count; i++) {
		struct worker *w = &p->workers[i];
		int err;

		w->pump = p;
		w->stream = &ch->pages[i];
		err = frame_init(&w->frame);
		if (!err)
			err = -pthread_create(&w->thread, NULL, body, w);
		if (err)
			return err;
		w->running = true;
	}
	return 0;
}

int pump_start_senders(struct phaul_channel *ch)
{
	struct pump *p = new_pump(ch);

	return p ? start(ch, p, sender) : -ENOMEM;
}

void pump_stop(struct phaul_channel *ch)
{
	struct pump *p = ch->pump;

	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
	if (p->sink.shut)
		p->sink.shut(p->sink.ctx);
	for (int i = 0; i < CHANNEL_STREAMS_MAX; i++) {
		if (p->workers[i].running)
			pthread_join(p->workers[i].thread, NULL);
		frame_free(&p->workers[i].frame);
	}
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->wake);
	pthread_cond_destroy(&p->done);
	free(p);
	ch->pump = NULL;
}

static int report(struct pump *p, struct phaul_error *err)
{
	if (p->code && err)
		*err = p->error;
	return p->code;
}

/* The other streams have only their END to say. */
static int send_alone(struct pump *p)
{
	int err = work(&p->workers[0]);

	for (int i = 1; i < p->channel->stream_count && !err; i++)
		err = send_end(&p->workers[i]) ? fail_pump(p, -ECONNRESET, "ending a round of pages") : 0;
	return err;
}

int pages_send(struct phaul_channel *ch, const struct page_source *sources, size_t count, uint32_t round, bool frozen,
	       struct pages_stats *ret, struct phaul_error *err)
{
	struct pump *p = ch->pump;
	uint64_t start_ns = phaul_now_ns(), pages = 0;

	for (size_t i = 0; i < count; i++)
		for (size_t n = 0; n < sources[i].count && pages <= INLINE_PAGES; n++)
			pages += sources[i].ranges[n].pages;
	pthread_mutex_lock(&p->lock);
	memset(&p->stats, 0, sizeof(p->stats));
	p->job = (struct job){ .sources = sources, .count = count, .round = round, .frozen = frozen };
	if (pages <= INLINE_PAGES) {
		pthread_mutex_unlock(&p->lock);
		(void)send_alone(p);
		pthread_mutex_lock(&p->lock);
	} else {
		p->job_number++;
		p->busy = ch->stream_count;
		pthread_cond_broadcast(&p->wake);
		while (p->busy)
			pthread_cond_wait(&p->done, &p->lock);
	}
	*ret = p->stats;
	pthread_mutex_unlock(&p->lock);
	ret->ns = phaul_now_ns() - start_ns;
	return report(p, err);
}

/* ---- receiving ---- */

static bool head_ok(const struct frame_head *h)
{
	if (h->magic != FRAME_MAGIC || (h->flags & ~(FRAME_END | FRAME_LZ4)))
		return false;
	if (h->flags & FRAME_END)
		return h->flags == FRAME_END && !h->extents && !h->data && !h->wire && !h->owner;
	return h->extents && h->extents <= FRAME_EXTENTS && h->data <= FRAME_PAGES * PAGE &&
	       !(h->data % PAGE) && (h->flags & FRAME_LZ4 ? h->wire && h->wire < h->data
							   : h->wire == h->data);
}

/* Extents are pages of user space, or of an object, and their data is what the head says. */
static bool extents_ok(const struct frame_head *h, const struct page_extent *extents)
{
	uint64_t data = 0, pages = 0;

	for (uint32_t i = 0; i < h->extents; i++) {
		const struct page_extent *e = &extents[i];

		if (!e->pages || e->pages > FRAME_PAGES || e->address % PAGE ||
		    (e->address < PAGE && !(h->owner & PAGES_SHARED)) ||
		    e->address >= USER_END || (e->flags & ~PAGE_EXTENT_ZERO) ||
		    e->pages * (uint64_t)PAGE > USER_END - e->address)
			return false;
		pages += e->pages;
		data += e->flags & PAGE_EXTENT_ZERO ? 0 : e->pages * (uint64_t)PAGE;
	}
	return pages <= FRAME_PAGES && data == h->data;
}

/* Pages may be long in coming: between rounds the source waits for the right moment. */
static int receive_frame(struct worker *w, struct frame_head *h)
{
	struct frame *f = &w->frame;
	int err = stream_read(w->stream, h, sizeof(*h), -1);

	if (err)
		return err;
	if (!head_ok(h))
		return -EPROTO;
	err = stream_read(w->stream, f->extents, h->extents * sizeof(*f->extents), CHANNEL_STALL_MS);
	if (!err && !extents_ok(h, f->extents))
		err = -EPROTO;
	if (!err)
		err = stream_read(w->stream, h->flags & FRAME_LZ4 ? f->packed : f->data, h->wire,
				  CHANNEL_STALL_MS);
	if (!err && (h->flags & FRAME_LZ4) &&
	    LZ4_decompress_safe((char *)f->packed, (char *)f->data, h->wire, h->data) != (int)h->data)
		err = -EPROTO;
	return err;
}

static void end_round(struct worker *w, uint32_t round)
{
	pthread_mutex_lock(&w->pump->lock);
	w->ended_round = round;
	pthread_cond_broadcast(&w->pump->done);
	pthread_mutex_unlock(&w->pump->lock);
}

static void count(struct pump *p, const struct frame_head *h)
{
	pthread_mutex_lock(&p->lock);
	p->stats.pages += h->data / PAGE;
	p->stats.bytes_raw += h->data;
	p->stats.bytes_wire += sizeof(*h) + h->extents * sizeof(struct page_extent) + h->wire;
	pthread_mutex_unlock(&p->lock);
}

static void *receiver(void *arg)
{
	struct worker *w = arg;
	struct pump *p = w->pump;

	introduce(w);
	for (;;) {
		struct phaul_error error = {0};
		struct frame_head head;
		int err = receive_frame(w, &head);

		if (err == -EPROTO)
			phaul_fail(&error, err, "pages", "the source sent a malformed frame of pages");
		if (!err && (head.flags & FRAME_END)) {
			end_round(w, head.round);
			continue;
		}
		if (!err)
			err = p->sink.apply(p->sink.ctx, head.round, head.owner, w->frame.extents, head.extents,
					    w->frame.data, &error);
		if (err) {
			pthread_mutex_lock(&p->lock);
			if (!p->code && error.code)
				p->error = error;
			pthread_mutex_unlock(&p->lock);
			(void)fail_pump(p, err, "receiving pages");
			return leave(w);
		}
		count(p, &head);
	}
}

int pages_receive_start(struct phaul_channel *ch, const struct page_sink *sink)
{
	struct pump *p = new_pump(ch);

	if (!p)
		return -ENOMEM;
	p->sink = *sink;
	return start(ch, p, receiver);
}

static bool all_ended(const struct pump *p, uint32_t round)
{
	for (int i = 0; i < p->channel->stream_count; i++)
		if (p->workers[i].ended_round < round)
			return false;
	return true;
}

int pages_wait_round(struct phaul_channel *ch, uint32_t round, int timeout_ms, struct pages_stats *ret,
		     struct phaul_error *err)
{
	struct pump *p = ch->pump;
	struct timespec until;
	int waited = 0, code;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += timeout_ms % 1000 * 1000000l;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&p->lock);
	while (!all_ended(p, round) && !p->code && !waited)
		waited = pthread_cond_timedwait(&p->done, &p->lock, &until);
	*ret = p->stats;
	memset(&p->stats, 0, sizeof(p->stats));
	code = all_ended(p, round) ? 0 : p->code ? report(p, err) : -ETIMEDOUT;
	pthread_mutex_unlock(&p->lock);
	return code == -ETIMEDOUT ? stream_fail(err, code, "waiting for the pages of a round") : code;
}
