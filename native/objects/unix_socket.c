/* unix_socket.c - unix sockets of a tree: what they are, who they are connected to, by what names they are known. What
 * waits in them is unix_queue.c's, making them again unix_build.c's.
 */
#include "unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../ghost.h"
#include "socket_options.h"

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif

static bool is(const struct descriptor *d)
{
	return S_ISSOCK(d->st.st_mode) && d->family == AF_UNIX;
}

static const struct descriptor *find(const struct descriptor_table *t, ino_t ino)
{
	const struct descriptor_table *table;

	for (size_t n = 0; (table = descriptors_table(t, n)); n++)
		for (size_t i = 0; i < table->count; i++)
			if (table->at[i].st.st_ino == ino && !strncmp(table->at[i].link, "socket:[", 8))
				return &table->at[i];
	return NULL;
}

/* A path, or for what has none "a nameless socket" or "abstract NAME". */
static const char *text_of(const struct sockaddr_un *a, socklen_t size, char ret[160])
{
	int length = (int)size - (int)sizeof(sa_family_t);

	if (length <= 0)
		return "without a name";
	snprintf(ret, 160, "%s%.*s", a->sun_path[0] ? "" : "@", a->sun_path[0] ? length : length - 1,
		 a->sun_path[0] ? a->sun_path : a->sun_path + 1);
	return ret;
}

static void check_peer(struct check *c, const struct descriptor *d, const struct unix_facts *f, const char *name)
{
	struct sockaddr_un address;
	socklen_t size = sizeof(address);
	char peer[160];

	if (!f->peer || find(c->descriptors, f->peer))
		return;
	if (getpeername(d->own, (struct sockaddr *)&address, &size) < 0)
		size = 0;
	text_of(&address, size, peer);
	if (f->type != SOCK_DGRAM)
		refuse(c, d, "FD_UNIX_SOCKET",
		       "is a unix socket %s connected to one %s of a process that stays on this host: let the program close the "
		       "connection, or take both processes",
		       name, peer);
	else if (size <= sizeof(sa_family_t))
		refuse(c, d, "FD_UNIX_SOCKET",
		       "is a unix socket %s connected to one without a name, of a process that stays on this host: it could not "
		       "be connected again; let the program close it",
		       name);
	else
		remark(c, d, "FD_UNIX_PEER",
		       "is a unix socket %s that sends to %s: it will send to what has this name then", name, peer);
}

/* Who has it by fork, or was sent it, would go on with a socket that is another from then on. */
static void check_shared(struct check *c, const struct descriptor *d, const struct unix_facts *f, const char *name)
{
	const struct pipe_holder *h = pipe_holder_find(c, d, true, true);

	if (h && f->state == TCP_LISTEN)
		remark(c, d, "FD_UNIX_SHARED",
		       "is the unix socket %s, on which pid %d (%s) can listen too, which stays here: the two will not share it any more",
		       name, h->pid, h->name);
	else if (h)
		refuse(c, d, "FD_UNIX_SHARED",
		       "is a unix socket %s that pid %d (%s) holds too, which stays here: what is sent there would come to one of "
		       "the two; stop that process first", name, h->pid, h->name);
}

/* A connection that nobody has accepted yet can't be asked what waits in it. */
static void check_unaccepted(struct check *c, const struct descriptor *d, const struct unix_facts *f, const char *name)
{
	int sent = 0;

	if (f->type != SOCK_DGRAM && f->state == TCP_ESTABLISHED && !f->peer && !ioctl(d->own, SIOCOUTQ, &sent) && sent)
		refuse(c, d, "FD_UNIX_WAITING",
		       "is a unix socket %s on which data was sent before the connection is accepted: it can't be read from "
		       "there; try again",
		       name);
}

static void check_waiting(struct check *c, const struct descriptor *d, const struct unix_facts *f, const char *name)
{
	for (size_t i = 0; i < f->waiting_count; i++)
		if (!find(c->descriptors, f->waiting[i])) {
			refuse(c, d, "FD_UNIX_WAITING",
			       "is the unix socket %s, and a connection of a process that stays here waits to be accepted: try "
			       "again",
			       name);
			return;
		}
}

static void check(struct check *c, const struct descriptor *d)
{
	struct sockaddr_un address;
	socklen_t size = sizeof(address);
	struct unix_facts f;
	char name[160];
	const char *text;

	if (unix_diag(d->st.st_ino, &f))
		return;
	if (getsockname(d->own, (struct sockaddr *)&address, &size) < 0)
		size = 0;
	text = text_of(&address, size, name);
	check_peer(c, d, &f, text);
	check_shared(c, d, &f, text);
	check_waiting(c, d, &f, text);
	check_unaccepted(c, d, &f, text);
	unix_queue_check(c, d);
	unix_facts_free(&f);
}

/* ---- dump ---- */

struct words {
	struct sockaddr_un own, peer;
	char directory[PATH_MAX];
	FilePermsEntry permissions;
};

/* The file that it was bound to. */
static void dump_file(const struct descriptor *d, UnixSkEntry *e, struct words *w)
{
	int fd = ioctl(d->own, SIOCUNIXFILE);
	size_t length, tail = strnlen(w->own.sun_path, sizeof(w->own.sun_path));
	char link[32];
	struct stat st;
	ssize_t n;

	if (fd < 0)
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, w->directory, sizeof(w->directory) - 1);
	if (n > 0 && !fstat(fd, &st)) {
		w->directory[n] = 0;
		e->has_deleted = true;
		e->deleted = !ghost_has_name(w->directory, &st);
		e->has_phaul_inode = true;
		e->phaul_inode = st.st_ino;
		file_perms_entry__init(&w->permissions);
		w->permissions.mode = st.st_mode;
		w->permissions.uid = st.st_uid;
		w->permissions.gid = st.st_gid;
		e->file_perms = &w->permissions;
		length = strlen(w->directory);
		if (w->own.sun_path[0] != '/' && length > tail && !memcmp(w->directory + length - tail, w->own.sun_path, tail)) {
			w->directory[length - tail] = 0;
			e->name_dir = w->directory;
		}
	}
	close(fd);
}

static int put(struct dump *dump, const struct descriptor *d, const struct unix_facts *f)
{
	struct words w = { .own.sun_family = AF_UNIX };
	UnixSkEntry e = UNIX_SK_ENTRY__INIT;
	InetSkEntry options_of = INET_SK_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	socklen_t size = sizeof(w.own);
	struct socket_options options;
	int err;

	e.id = d->id;
	e.ino = d->st.st_ino;
	e.type = f->type;
	e.state = f->state;
	e.flags = d->flags;
	e.backlog = f->state == TCP_LISTEN ? f->backlog : 0;
	e.peer = f->peer;
	e.fown = file_owner(d);
	if (getsockname(d->own, (struct sockaddr *)&w.own, &size) < 0)
		return -errno;
	e.name.data = (uint8_t *)w.own.sun_path;
	e.name.len = size > sizeof(sa_family_t) ? size - sizeof(sa_family_t) : 0;
	if (e.name.len && w.own.sun_path[0])
		dump_file(d, &e, &w);
	size = sizeof(w.peer);
	if (f->type == SOCK_DGRAM && f->peer && !find(dump->descriptors, f->peer) &&
	    !getpeername(d->own, (struct sockaddr *)&w.peer, &size) && size > sizeof(sa_family_t)) {
		e.has_phaul_peer_name = true;
		e.phaul_peer_name = (ProtobufCBinaryData){ size - sizeof(sa_family_t), (uint8_t *)w.peer.sun_path };
	}
	e.has_shutdown = f->shutdown != 0;
	e.shutdown = f->shutdown;
	e.n_phaul_waiting = f->waiting_count;
	e.phaul_waiting = f->waiting;
	options_of.family = AF_UNIX;
	options_of.type = f->type;
	err = socket_options_dump(d->own, &options, &dump->socket_defaults, &options_of);
	e.opts = options_of.opts;
	e.phaul_options = options_of.phaul_options;
	e.n_phaul_options = options_of.n_phaul_options;
	file.usk = &e;
	return err ?: file_put(dump, d, &file) ?: unix_queue_dump(dump, d);
}

static int dump(struct dump *dump, const struct descriptor *d)
{
	struct unix_facts f;
	int err = unix_diag(d->st.st_ino, &f);

	if (err)
		return err;
	err = put(dump, d, &f);
	unix_facts_free(&f);
	return err;
}

const struct descriptor_kind unix_socket = {
	.name = "a unix socket",
	.asks = true,
	.is = is,
	.check = check,
	.dump = dump,
	.build = unix_build,
	.type = FD_TYPES__UNIXSK,
};
