/* inet_connection.c - TCP connections: which there are, and how each is paused, read, made again and let go on. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../error.h"
#include "../parallel.h"
#include "descriptors.h"
#include "inet_address.h"
#include "inet_socket.h"
#include "socket_options.h"

#define BUFFER_MAX (1 << 28)	/* while a connection's queues are put back */

/* ---- which there are ---- */

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
	struct connection_pair **at;
	size_t *count, waiting;
	pthread_mutex_t lock;
};

static size_t count_waiting(int fd)
{
	struct tcp_info info;
	socklen_t size = sizeof(info);

	if (socket_option(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return 0;
	return info.tcpi_unacked;
}

static int list_connection(void *ctx, size_t index, struct phaul_error *err)
{
	struct listing *l = ctx;
	struct descriptor *d = &l->table->at[index];
	struct connection_pair pair;
	socklen_t local = sizeof(pair.local), peer = sizeof(pair.peer);
	bool was_open = d->own >= 0;
	int code = S_ISSOCK(d->st.st_mode) ? descriptor_own(l->table, d, 0) : 0;
	bool is_tcp = !code && d->kind == &inet_socket && d->type == SOCK_STREAM;

	(void)err;
	if (is_tcp && !getpeername(d->own, &pair.peer.any, &peer) && !getsockname(d->own, &pair.local.any, &local)) {
		pthread_mutex_lock(&l->lock);
		code = add_pair(l->at, l->count, &pair);
		pthread_mutex_unlock(&l->lock);
	} else if (is_tcp && count_waiting(d->own)) {
		pthread_mutex_lock(&l->lock);
		l->waiting++;
		pthread_mutex_unlock(&l->lock);
	}
	if (!was_open)
		descriptor_disown(d);
	return code;
}

static int add_connections(const struct descriptor_table *t, struct connection_pair **ret, size_t *ret_count, size_t *waiting)
{
	struct listing listing = { t, ret, ret_count, 0, PTHREAD_MUTEX_INITIALIZER };
	int err = parallel(t->count, list_connection, &listing, NULL);

	*waiting += listing.waiting;
	return err;
}

int inet_connections(const struct descriptor_table *tables, size_t count, struct connection_pair **ret, size_t *ret_count,
		     size_t *ret_waiting)
{
	int err = 0;

	*ret_waiting = 0;
	*ret = NULL;
	*ret_count = 0;
	for (size_t i = 0; i < count && !err; i++)
		err = add_connections(&tables[i], ret, ret_count, ret_waiting);
	return err;
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
		(void)add_connections(table, &pairs, &count, &waiting);
	c->connections = calloc(count + 1, sizeof(*c->connections));
	for (size_t i = 0; c->connections && i < count; i++)
		c->connections[c->connection_count++] = key_of(&pairs[i].local, &pairs[i].peer);
	if (c->connection_count)
		qsort(c->connections, c->connection_count, sizeof(*c->connections), by_key);
	free(pairs);
}

bool inet_peer_comes_along(struct check *c, const union tcp_address *local, const union tcp_address *peer)
{
	struct connection_key other = key_of(peer, local);

	if (!c->connections)
		list_connections(c);
	return c->connections && bsearch(&other, c->connections, c->connection_count, sizeof(other), by_key);
}

bool inet_is_connection(const InetSkEntry *image)
{
	return image->type == SOCK_STREAM && image->state != TCP_LISTEN && image->state != TCP_CLOSE && image->dst_port;
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

		if (image && inet_is_connection(image))
			err = inet_read_local(image, &pair.local, &size) ?: inet_read_peer(image, &pair.peer) ?:
			      add_pair(ret, ret_count, &pair);
	}
	return err;
}

/* ---- paused ---- */

static int add_paused(struct paused_socket **at, size_t *count, int fd, int option, int value)
{
	struct paused_socket *larger = reallocarray(*at, *count + 1, sizeof(*larger));

	if (!larger)
		return -ENOMEM;
	*at = larger;
	(*at)[(*count)++] = (struct paused_socket){ fd, option, value, NULL };
	return 0;
}

int paused_keep(struct paused_socket **at, size_t *count, int fd, int option, int value)
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

/* ---- dump ---- */

/* What a pause does to SO_REUSEADDR is undone with it. The set has the descriptor from now on. */
static int pause_connection(struct dump *dump, struct descriptor *d, struct paused_socket *ret)
{
	int fd = d->own, reuse = socket_option(fd, SOL_SOCKET, SO_REUSEADDR), err;

	dump_lock(dump);
	err = add_paused(&dump->paused->at, &dump->paused->count, fd, SO_REUSEADDR, reuse);
	dump_unlock(dump);
	if (err)
		return err;
	d->own = -1;
	*ret = (struct paused_socket){ fd, SO_REUSEADDR, reuse, NULL };
	return tcp_pause(fd);
}

int connection_dump(struct dump *dump, struct descriptor *d, const union tcp_address *local, const union tcp_address *peer,
		    InetSkEntry *image)
{
	TcpStreamEntry stream = TCP_STREAM_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	struct socket_options options;
	struct paused_socket paused;
	struct tcp_connection c = { .local = *local, .peer = *peer };
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
		image->v6only = socket_option(fd, IPPROTO_IPV6, IPV6_V6ONLY) == 1;
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

/* ---- build ---- */

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
	err = inet_read_local(image, &ret->local, &size) ?: inet_read_peer(image, &ret->peer) ?:
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

int connection_build(struct build *b, int fd, const InetSkEntry *image)
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
		err = err ?: paused_keep(&b->files->paused, &b->files->paused_count, fd, SO_REUSEADDR, reuse);
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
				  file_number(b, image->id), inet_text(&c.peer, peer, sizeof(peer)));
	if (!is_empty)
		set_buffers(fd, image->opts);
	return 0;
}

void connection_forget(struct built_files *f, uint32_t id, int fd)
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
	fd = inet_socket.build(&b, b.files->at[id]);
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

		if (image && image->opts && inet_is_connection(image))
			c.ids[c.count++] = id;
	}
	f->lock = &c.lock;
	code = code ?: parallel(c.count, make_connection, &c, err);
	f->lock = NULL;
	free(c.ids);
	return code;
}
