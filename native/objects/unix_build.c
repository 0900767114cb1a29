/* unix_build.c - all unix sockets of the images at once: connections have two ends, names are needed by others.
 *
 * A connection is made as it was before: through a listener of that name, the tree's own or one for the moment, or as a
 * pair. Names of files that are gone are bound in a root of their own, where nothing is in the way.
 */
#include "unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "socket_options.h"

struct made {
	const UnixSkEntry *e;
	int *fd;		/* in built_files */
	int dead_end;		/* of a connection whose other end is closed */
	struct unix_place place;
	bool holds;		/* something that waits to be read */
};

struct sockets {
	struct build *b;
	struct made *at;
	size_t count;
};

static int fail(struct sockets *s, int code, const struct made *m, const char *what)
{
	const UnixSkEntry *e = m->e;
	bool abstract = e->name.len && !e->name.data[0];

	return phaul_fail(s->b->err, code, "unix sockets", "%s the unix socket %s%.*s of fd %d", what, abstract ? "@" : "",
			  (int)e->name.len - abstract, (char *)e->name.data + abstract, file_number(s->b, e->id));
}

static struct made *by_ino(struct sockets *s, uint32_t ino)
{
	for (size_t i = 0; i < s->count && ino; i++)
		if (s->at[i].e->ino == ino)
			return &s->at[i];
	return NULL;
}

static bool same_name(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	return a->len && a->len == b->len && !memcmp(a->data, b->data, a->len);
}

static bool is_path(const UnixSkEntry *e)
{
	return e->name.len && e->name.data[0];
}

/* ---- names ---- */

/* Where it belongs. */
static void final_path(const struct made *m, char ret[PATH_MAX])
{
	const char *directory = m->e->name_dir && m->e->name.data[0] != '/' ? m->e->name_dir : "";

	snprintf(ret, PATH_MAX, "%s%s%.*s", directory, *directory && directory[strlen(directory) - 1] != '/' ? "/" : "",
		 (int)m->e->name.len, (char *)m->e->name.data);
}

/* Whether another program answers there, or there is something else. */
static int check_free(struct sockets *s, const struct made *m, const char *path)
{
	struct unix_place place = { path, strlen(path) + 1, NULL, NULL };
	struct stat st;
	int probe, err;

	/* The source's own, where hosts share their files. */
	if (lstat(path, &st) < 0 || (m->e->has_phaul_inode && st.st_ino == m->e->phaul_inode))
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return fail(s, -EEXIST, m, "something else has the name of");
	probe = socket(AF_UNIX, m->e->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	err = probe < 0 ? -errno : unix_connect(probe, &place);
	if (probe >= 0)
		close(probe);
	return err == -ECONNREFUSED || err == -ENAMETOOLONG ? 0 : fail(s, -EADDRINUSE, m, "another program listens on");
}

/* A root that has the directories of the name; on the file system where the name belongs, if it does. */
static int make_root(struct sockets *s, struct made *m, bool apart, char path[PATH_MAX])
{
	char root[PATH_MAX], final[PATH_MAX] = "/tmp/";
	int length = (int)m->e->name.len, err;

	if (!apart)
		final_path(m, final);
	/* A relative name of a socket whose directory isn't told. */
	if (!strrchr(final, '/'))
		return -EPROTO;
	snprintf(root, sizeof(root), "%.*s/.phaul.XXXXXX", (int)(strrchr(final, '/') - final), final);
	if (!mkdtemp(root))
		return -errno;
	m->place.directory = NULL;
	m->place.root = strdup(root);
	for (int i = 1; i < length && m->e->name.data[i]; i++)
		if (m->e->name.data[i] == '/') {
			snprintf(path, PATH_MAX, "%s/%.*s", root, i, (char *)m->e->name.data);
			(void)mkdir(path, 0700);
		}
	snprintf(path, PATH_MAX, "%s/%.*s", root, length, (char *)m->e->name.data);
	err = m->place.root ? unix_name_add(s->b->files, (char *)m->place.root, path, apart ? NULL : final) : -ENOMEM;
	return err ? err : apart ? 0 : check_free(s, m, final);
}

/* `apart`: where nobody shall find it. */
static int bind_name(struct sockets *s, struct made *m, int fd, bool apart)
{
	const FilePermsEntry *p = m->e->file_perms;
	char path[PATH_MAX];
	int err = 0;

	if (!m->e->name.len)
		return 0;
	if (is_path(m->e))
		err = make_root(s, m, apart || (m->e->has_deleted && m->e->deleted), path);
	err = err ?: unix_bind(fd, &m->place);
	if (!err && is_path(m->e) && p && (chown(path, p->uid, p->gid) < 0 || chmod(path, p->mode & 07777) < 0))
		err = -errno;
	return err && s->b->err->code != err ? fail(s, err, m, "binding") : err;
}

/* ---- sockets ---- */

static int set_options(struct sockets *s, const struct made *m)
{
	InetSkEntry options_of = INET_SK_ENTRY__INIT;

	options_of.family = AF_UNIX;
	options_of.type = m->e->type;
	options_of.opts = m->e->opts;
	options_of.phaul_options = m->e->phaul_options;
	options_of.n_phaul_options = m->e->n_phaul_options;
	return socket_options_build(*m->fd, &options_of, s->b->err);
}

static int make_socket(const UnixSkEntry *e)
{
	int fd = socket(AF_UNIX, e->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

static bool is_connected(const UnixSkEntry *e)
{
	return e->type != SOCK_DGRAM && e->state == TCP_ESTABLISHED;
}

/* A pair of datagram sockets that was made as one: no names lead from one to the other. */
static struct made *twin_of(struct sockets *s, const struct made *m)
{
	struct made *peer = m->e->type == SOCK_DGRAM ? by_ino(s, m->e->peer) : NULL;

	return peer && peer != m && peer->e->peer == m->e->ino && !(peer->e->name.len && m->e->name.len) ? peer : NULL;
}

static int make_pair(struct sockets *s, struct made *a, struct made *b)
{
	int ends[2];

	if (socketpair(AF_UNIX, a->e->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return fail(s, -errno, a, "making a pair with");
	*a->fd = ends[0];
	*(b ? b->fd : &a->dead_end) = ends[1];
	return bind_name(s, a, ends[0], false) ?: b ? bind_name(s, b, ends[1], false) : 0;
}

static int make_alone(struct sockets *s, struct made *m)
{
	int err;

	*m->fd = make_socket(m->e);
	if (*m->fd < 0)
		return fail(s, *m->fd, m, "making");
	err = bind_name(s, m, *m->fd, false);
	if (!err && m->e->state == TCP_LISTEN && listen(*m->fd, m->e->backlog) < 0)
		err = fail(s, -errno, m, "listening on");
	return err;
}

static struct made *listener_of(struct sockets *s, const struct made *accepted)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->at[i].e->state == TCP_LISTEN && s->at[i].e->type == accepted->e->type &&
		    same_name(&s->at[i].e->name, &accepted->e->name))
			return &s->at[i];
	return NULL;
}

/* `server` was accepted by what has its name; `client` (or nobody any more) connected to it. */
static int make_connection(struct sockets *s, struct made *server, struct made *client)
{
	struct made *listener = listener_of(s, server);
	struct unix_place place = server->place;
	int own = -1, from = make_socket(server->e), err = from < 0 ? fail(s, from, server, "making") : 0;

	*(client ? client->fd : &server->dead_end) = from;
	if (!err && client)
		err = bind_name(s, client, from, false);
	if (!err && listener) {
		place = listener->place;
	} else if (!err) {
		own = make_socket(server->e);
		err = own < 0 ? fail(s, own, server, "making") : bind_name(s, server, own, false);
		if (!err && listen(own, 1) < 0)
			err = fail(s, -errno, server, "listening on");
		place = server->place;
	}
	if (!err) {
		err = unix_connect(from, &place);
		*server->fd = err ? -1 : accept4(own >= 0 ? own : *listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (err || *server->fd < 0)
			err = fail(s, err ? err : -errno, server, "connecting again to");
	}
	if (own >= 0)
		close(own);
	return err;
}

static int make_connected(struct sockets *s, struct made *m)
{
	struct made *peer = by_ino(s, m->e->peer);
	/* CRIU has the listener as the peer of one that waits to be accepted. */
	bool waits = peer && peer->e->state == TCP_LISTEN;

	if (m->e->peer && (!peer || peer == m))
		return fail(s, -EPROTO, m, "finding the peer of");
	if (peer && *peer->fd >= 0 && !waits)
		return 0;
	for (size_t i = 0; i < s->count; i++)
		for (size_t n = 0; n < s->at[i].e->n_phaul_waiting; n++)
			waits |= s->at[i].e->phaul_waiting[n] == m->e->ino;
	if (waits) {
		*m->fd = make_socket(m->e);
		return *m->fd < 0 ? fail(s, *m->fd, m, "making") : bind_name(s, m, *m->fd, false);
	}
	if (listener_of(s, m) || (m->e->name.len && !(peer && peer->e->name.len)))
		return make_connection(s, m, peer);
	if (peer && peer->e->name.len)
		return make_connection(s, peer, m);
	return make_pair(s, m, peer);
}

/* Listeners first. */
static int make_all(struct sockets *s)
{
	int err = 0;

	for (size_t i = 0; i < s->count && !err; i++)
		if (s->at[i].e->state == TCP_LISTEN)
			err = make_alone(s, &s->at[i]);
	for (size_t i = 0; i < s->count && !err; i++) {
		struct made *m = &s->at[i], *twin;

		if (*m->fd >= 0)
			continue;
		twin = twin_of(s, m);
		/* Only who was paired with it could send to a nameless one. */
		err = is_connected(m->e) ? make_connected(s, m) :
		      twin || (m->holds && !m->e->name.len) ? make_pair(s, m, twin) : make_alone(s, m);
	}
	return err;
}

/* ---- what is in them ---- */

static struct made *by_id(struct sockets *s, uint32_t id)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->at[i].e->id == id)
			return &s->at[i];
	return NULL;
}

static struct made *sender_of(struct sockets *s, const SkPacketEntry *packet)
{
	for (size_t i = 0; i < s->count && packet->has_phaul_sender; i++)
		if (s->at[i].e->type == SOCK_DGRAM && same_name(&s->at[i].e->name, &packet->phaul_sender))
			return &s->at[i];
	return NULL;
}

/* One that is closed by now; who receives the packet sees its name all the same. */
static int make_sender(struct sockets *s, const struct made *to, const SkPacketEntry *packet)
{
	UnixSkEntry e = *to->e;
	struct made gone = { .e = &e, .place = { packet->phaul_sender.data, packet->phaul_sender.len, NULL, NULL } };
	int fd = make_socket(&e), err;

	e.name = packet->phaul_sender;
	e.file_perms = NULL;
	err = fd >= 0 && packet->has_phaul_sender ? bind_name(s, &gone, fd, true) : 0;
	if (err && fd >= 0)
		close(fd);
	return err ? err : fd;
}

static int send_one(void *ctx, const SkPacketEntry *packet, const void *bytes)
{
	struct sockets *s = ctx;
	struct made *to = by_id(s, packet->id_for), *peer = to ? by_ino(s, to->e->peer) : NULL, *sender;
	bool connected = to && (to->dead_end >= 0 || (peer && (is_connected(to->e) || twin_of(s, to))));
	int fd, err;

	if (!to)
		return 0;	/* of another kind of socket */
	if (connected) {
		err = unix_packet_send(s->b, to->dead_end >= 0 ? to->dead_end : *peer->fd, packet, bytes, NULL);
	} else {
		sender = sender_of(s, packet);
		fd = sender ? *sender->fd : make_sender(s, to, packet);
		err = fd < 0 ? fd : unix_packet_send(s->b, fd, packet, bytes, &to->place);
		if (!sender && fd >= 0)
			close(fd);
	}
	return err && s->b->err->code != err ? fail(s, err, to, "putting back what waits in") : err;
}

static int connect_datagrams(struct sockets *s, struct made *m)
{
	struct unix_place outside = { m->e->phaul_peer_name.data, m->e->phaul_peer_name.len, NULL, NULL };
	struct made *peer = by_ino(s, m->e->peer);
	int err;

	if (m->e->type != SOCK_DGRAM || twin_of(s, m) || (!peer && !m->e->has_phaul_peer_name))
		return 0;
	err = unix_connect(*m->fd, peer ? &peer->place : &outside);
	/* Whoever has the name outside may come later. */
	return err && peer ? fail(s, err, m, "connecting") : 0;
}

static int connect_waiting(struct sockets *s, struct made *listener)
{
	int err = 0;

	for (size_t i = 0; i < listener->e->n_phaul_waiting && !err; i++) {
		struct made *client = by_ino(s, listener->e->phaul_waiting[i]);

		err = client ? unix_connect(*client->fd, &listener->place) : -EPROTO;
		if (err)
			fail(s, err, listener, "connecting a client that waits at");
	}
	for (size_t i = 0; i < s->count && !err && listener->e->state == TCP_LISTEN; i++)
		if (is_connected(s->at[i].e) && s->at[i].e->peer == listener->e->ino)
			err = unix_connect(*s->at[i].fd, &listener->place);
	return err;
}

static int finish(struct sockets *s)
{
	/* Before datagram sockets are connected: then only their peer could send to them. */
	int err = unix_packets_each(s->b->images, send_one, s);

	/* With SO_PASSCRED set before, what was sent without credentials would have ours. */
	for (size_t i = 0; i < s->count && !err; i++)
		err = set_options(s, &s->at[i]);
	for (size_t i = 0; i < s->count && !err; i++)
		err = connect_datagrams(s, &s->at[i]) ?: connect_waiting(s, &s->at[i]);
	for (size_t i = 0; i < s->count && !err; i++) {
		struct made *m = &s->at[i];

		if (m->dead_end >= 0)
			close(m->dead_end);
		m->dead_end = -1;
		/* What has no peer any more is shut down by itself, or can't be. */
		if (m->e->has_shutdown && m->e->shutdown)
			(void)shutdown(*m->fd, m->e->shutdown == 3 ? SHUT_RDWR : m->e->shutdown == 2 ? SHUT_WR : SHUT_RD);
		*m->fd = file_set_flags(s->b, *m->fd, m->e->flags);
		err = *m->fd < 0 ? *m->fd : 0;
	}
	return err;
}

static int collect(struct sockets *s)
{
	struct built_files *f = s->b->files;

	s->at = calloc(f->count, sizeof(*s->at));
	if (!s->at)
		return -ENOMEM;
	for (size_t id = 0; id < f->count; id++) {
		const UnixSkEntry *e = f->at[id] ? f->at[id]->usk : NULL;
		struct made *m = &s->at[s->count];

		if (!e || !f->uses[id])
			continue;
		if (e->type < SOCK_STREAM || e->type > SOCK_SEQPACKET || !e->opts)
			return -EPROTO;
		*m = (struct made){ .e = e, .fd = &f->made[id], .dead_end = -1 };
		m->place = (struct unix_place){ e->name.data, e->name.len, is_path(e) ? e->name_dir : NULL, NULL };
		s->count++;
	}
	return 0;
}

static int mark(void *ctx, const SkPacketEntry *packet, const void *bytes)
{
	struct made *m = by_id(ctx, packet->id_for);

	(void)bytes;
	if (m)
		m->holds = true;
	return 0;
}

int unix_build(struct build *b, const FileEntry *file)
{
	struct sockets s = { .b = b };
	int err = collect(&s) ?: unix_packets_each(b->images, mark, &s) ?: make_all(&s) ?: finish(&s) ?: unix_queues_finish(b);

	for (size_t i = 0; i < s.count; i++)
		if (s.at[i].dead_end >= 0)
			close(s.at[i].dead_end);
	free(s.at);
	return err ? err : b->files->made[file->id];
}
