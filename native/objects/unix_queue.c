/* unix_queue.c - what waits in unix sockets to be read: bytes or packets, with the descriptors that travel in them. */
#include "unix_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define RIGHTS_MAX 253		/* the kernel's SCM_MAX_FD */
#define PACKET_MAX (1u << 22)	/* no sender may have a larger buffer by itself */

/* ---- reading ---- */

static int number(int fd, int name, int fallback)
{
	socklen_t size = sizeof(int);
	int value = fallback;

	return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? fallback : value;
}

static void packet_free(struct unix_packet *p)
{
	free(p->bytes);
	free(p->rights);
}

static int take_control(struct unix_queues *queues, struct unix_packet *p, struct msghdr *m)
{
	int err = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t size = c->cmsg_len - CMSG_LEN(0), count = size / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS && size >= sizeof(p->credentials)) {
			memcpy(&p->credentials, CMSG_DATA(c), sizeof(p->credentials));
			p->has_credentials = p->credentials.pid > 0;
		} else if (c->cmsg_type == SCM_RIGHTS) {
			int *all = reallocarray(queues->fds, queues->fd_count + count, sizeof(int));
			int *rights = malloc(size);

			queues->fds = all ? all : queues->fds;
			for (size_t i = 0; i < count && (!all || !rights); i++)
				close(((int *)CMSG_DATA(c))[i]);
			if (!all || !rights) {
				free(rights);
				return -ENOMEM;
			}
			memcpy(rights, CMSG_DATA(c), size);
			memcpy(queues->fds + queues->fd_count, rights, size);
			queues->fd_count += count;
			free(p->rights);
			p->rights = rights;
			p->rights_count = count;
		}
	}
	if (m->msg_flags & MSG_CTRUNC)
		err = -EOVERFLOW;
	return err;
}

/* Looks at the next packet behind those that were looked at. 0: there is none. */
static int peek(struct unix_queues *queues, int fd, void *buffer, struct unix_packet *ret)
{
	char control[CMSG_SPACE(RIGHTS_MAX * sizeof(int)) + CMSG_SPACE(3 * sizeof(int)) + 256];
	struct sockaddr_un sender;
	struct iovec part = { buffer, PACKET_MAX };
	struct msghdr m = {
		.msg_name = &sender, .msg_namelen = sizeof(sender), .msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	ssize_t got = recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int err;

	if (got < 0)
		return errno == EAGAIN || errno == ECONNRESET || errno == ENOTCONN ? 0 : -errno;
	if (!got && number(fd, SO_TYPE, 0) != SOCK_DGRAM && !m.msg_controllen && !(m.msg_flags & MSG_EOR))
		return 0;
	memset(ret, 0, sizeof(*ret));
	err = m.msg_flags & MSG_TRUNC ? -EMSGSIZE : take_control(queues, ret, &m);
	ret->size = got;
	ret->bytes = err ? NULL : malloc(got + 1);
	if (ret->bytes)
		memcpy(ret->bytes, buffer, got);
	if (m.msg_namelen > sizeof(sa_family_t)) {
		ret->sender_size = m.msg_namelen - sizeof(sa_family_t);
		memcpy(ret->sender, sender.sun_path, ret->sender_size);
	}
	if (!err && ret->bytes)
		return 1;
	packet_free(ret);
	return err ? err : -ENOMEM;
}

static int read_packets(struct unix_queues *queues, struct unix_queue *q, int fd)
{
	void *buffer = malloc(PACKET_MAX);
	struct unix_packet packet;
	int more = buffer ? 1 : -ENOMEM;

	while (more > 0 && (more = peek(queues, fd, buffer, &packet)) > 0) {
		struct unix_packet *larger = reallocarray(q->packets, q->count + 1, sizeof(*larger));

		if (!larger) {
			packet_free(&packet);
			more = -ENOMEM;
			break;
		}
		q->packets = larger;
		q->packets[q->count++] = packet;
	}
	free(buffer);
	return more;
}

static struct unix_queue *find(const struct unix_queues *queues, ino_t ino)
{
	for (size_t i = 0; i < queues->count; i++)
		if (queues->at[i].ino == ino)
			return &queues->at[i];
	return NULL;
}

static int read_queue(struct unix_queues *queues, ino_t ino, int fd)
{
	struct unix_queue *larger = reallocarray(queues->at, queues->count + 1, sizeof(*larger));
	int before = number(fd, SO_PEEK_OFF, -1), start = 0, waiting = 0, err;
	struct unix_queue *q;

	if (!larger)
		return -ENOMEM;
	queues->at = larger;
	q = &queues->at[queues->count++];
	*q = (struct unix_queue){ .ino = ino };
	/* A listener has none; of packets, an empty one may wait. */
	if (number(fd, SO_ACCEPTCONN, 0) ||
	    (number(fd, SO_TYPE, 0) == SOCK_STREAM && (ioctl(fd, FIONREAD, &waiting) < 0 || !waiting)))
		return 0;
	if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &start, sizeof(start)) < 0)
		return -errno;
	err = read_packets(queues, q, fd);
	(void)setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof(before));
	return err;
}

static int read_queues(struct unix_queues *queues, struct descriptor_table *t, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < t->count && !code; i++) {
		const struct descriptor *d = &t->at[i];

		if (d->family == AF_UNIX && !find(queues, d->st.st_ino))
			code = read_queue(queues, d->st.st_ino, d->own);
		else if (queues->may_wait && netlink_has_answer(d))
			code = phaul_fail(err, -EAGAIN, "netlink", "fd %d of pid %d has an answer of the kernel that was not read yet, and would be "
					  "lost", d->fd, t->pid);
		if (code && code != -EAGAIN)
			phaul_fail(err, code, "unix sockets", "reading what waits in fd %d of pid %d (%s)", d->fd, t->pid, d->link);
	}
	return code;
}

int unix_queues_collect(struct unix_queues *queues, struct descriptor_table *tables, size_t *count, struct phaul_error *err)
{
	struct descriptor_table *ours = &tables[*count];
	int code = 0;

	for (size_t i = 0; i < *count && !code; i++)
		code = read_queues(queues, &tables[i], err);
	if (code || !queues->fd_count)
		return code;
	*ours = (struct descriptor_table){ .pid = getpid(), .pidfd = syscall(SYS_pidfd_open, getpid(), 0), .frozen = true };
	++*count;
	/* What waits may be a unix socket, in which descriptors wait. */
	while (!code && ours->count < queues->fd_count) {
		code = descriptors_add_own(ours, queues->fds + ours->count, queues->fd_count - ours->count);
		if (code)
			phaul_fail(err, code, "unix sockets", "listing descriptors that wait in unix sockets");
		else
			code = read_queues(queues, ours, err);
	}
	return code;
}

void unix_queues_free(struct unix_queues *queues)
{
	for (size_t i = 0; i < queues->count; i++) {
		for (size_t n = 0; n < queues->at[i].count; n++)
			packet_free(&queues->at[i].packets[n]);
		free(queues->at[i].packets);
	}
	for (size_t i = 0; i < queues->fd_count; i++)
		close(queues->fds[i]);
	free(queues->at);
	free(queues->fds);
	memset(queues, 0, sizeof(*queues));
}

/* ---- check ---- */

/* `d` is ours. The sentence about it begins with our number, which means nothing to anybody. */
static void check_right(struct check *c, const struct descriptor *socket, const struct descriptor *d)
{
	char text[4096] = "";
	struct check alone = { .pid = getpid(), .flags = c->flags, .proc = -1, .text = text, .capacity = sizeof(text) };
	const char *sentence;

	if (d->kind || S_ISSOCK(d->st.st_mode))
		return;
	unmovable_refuse(&alone, d);
	sentence = strstr(text, " is ");
	refuse(c, socket, "FD_ON_ITS_WAY", "is a unix socket in which a descriptor waits to be received that%.*s",
	       sentence ? (int)strcspn(sentence, "\n") : 0, sentence ? sentence : "");
}

/* The first packet alone: to look behind it the socket would have to be changed (SO_PEEK_OFF), which its process could
 * notice. The rest is seen in the freeze. */
void unix_queue_check(struct check *c, const struct descriptor *d)
{
	struct descriptor_table ours = { .pid = getpid(), .pidfd = -1 };
	struct unix_queues queues = { 0 };
	struct unix_packet packet;
	uint64_t waiting = 0;
	void *buffer;

	if (c->frozen || !fdinfo_number(d, "scm_fds", 10, &waiting) || !waiting || number(d->own, SO_PEEK_OFF, -1) >= 0)
		return;
	buffer = malloc(PACKET_MAX);
	if (buffer && peek(&queues, d->own, buffer, &packet) > 0) {
		if (!descriptors_add_own(&ours, queues.fds, queues.fd_count))
			for (size_t i = 0; i < ours.count; i++)
				check_right(c, d, &ours.at[i]);
		packet_free(&packet);
	}
	free(buffer);
	descriptors_free(&ours);
	unix_queues_free(&queues);
}

/* ---- dump ---- */

/* Ours are in the last table of the group. */
static uint32_t id_of(const struct descriptor_table *t, int fd)
{
	const struct descriptor_table *table;

	for (size_t n = 0; (table = descriptors_table(t, n)); n++)
		for (size_t i = 0; table->pid == getpid() && i < table->count; i++)
			if (table->at[i].fd == fd)
				return table->at[i].id;
	return 0;
}

static int dump_packet(struct dump *dump, const struct descriptor *d, const struct unix_packet *p)
{
	SkPacketEntry entry = SK_PACKET_ENTRY__INIT;
	ScmEntry scm = SCM_ENTRY__INIT, *scms = &scm;
	UcredEntry who = UCRED_ENTRY__INIT;
	uint32_t ids[RIGHTS_MAX];

	entry.id_for = d->id;
	entry.length = p->size;
	scm.type = SCM_RIGHTS;
	scm.rights = ids;
	for (size_t i = 0; i < p->rights_count; i++) {
		ids[scm.n_rights++] = id_of(dump->descriptors, p->rights[i]);
		if (!ids[i])
			return -ENOENT;
	}
	entry.n_scm = p->rights_count ? 1 : 0;
	entry.scm = &scms;
	entry.has_phaul_sender = p->sender_size;
	entry.phaul_sender = (ProtobufCBinaryData){ p->sender_size, (uint8_t *)p->sender };
	if (p->has_credentials) {
		who.pid = p->credentials.pid;
		who.uid = p->credentials.uid;
		who.gid = p->credentials.gid;
		entry.phaul_credentials = &who;
	}
	return image_put(dump->images, "sk-queues", -1, &entry.base) ?:
	       image_put_raw(dump->images, "sk-queues", -1, p->bytes, p->size);
}

int unix_queue_dump(struct dump *dump, const struct descriptor *d)
{
	const struct unix_queue *q = dump->queues ? find(dump->queues, d->st.st_ino) : NULL;
	int err = 0;

	for (size_t i = 0; q && i < q->count && !err; i++)
		err = dump_packet(dump, d, &q->packets[i]);
	return err;
}

/* ---- build ---- */

int unix_packets_each(const struct image_set *images, unix_on_packet act, void *to)
{
	struct image_reader r;
	ProtobufCMessage *message;
	int more, err = image_read(images, "sk-queues", -1, &r);

	if (err)
		return err == -ENOENT ? 0 : err;
	while (!err && (more = image_next(&r, &sk_packet_entry__descriptor, &message)) != 0) {
		const SkPacketEntry *packet = (SkPacketEntry *)message;
		const void *bytes = NULL;

		err = more < 0 ? more : image_next_raw(&r, packet->length, &bytes) ?: act(to, packet, bytes);
		if (message)
			protobuf_c_message_free_unpacked(message, NULL);
	}
	return err;
}

static int count_uses(void *to, const SkPacketEntry *packet, const void *bytes)
{
	struct built_files *f = to;

	(void)bytes;
	for (size_t i = 0; i < packet->n_scm; i++)
		for (size_t n = 0; n < packet->scm[i]->n_rights; n++)
			if (packet->scm[i]->rights[n] < f->count)
				f->uses[packet->scm[i]->rights[n]]++;
	return 0;
}

int unix_queues_count_uses(const struct image_set *images, struct built_files *f)
{
	return unix_packets_each(images, count_uses, f);
}

static int add_rights(struct build *b, struct msghdr *m, const SkPacketEntry *packet)
{
	struct cmsghdr *c = (struct cmsghdr *)((char *)m->msg_control + m->msg_controllen);
	size_t count = 0;

	for (size_t i = 0; i < packet->n_scm; i++) {
		const ScmEntry *scm = packet->scm[i];

		if (scm->type != SCM_RIGHTS || count + scm->n_rights > RIGHTS_MAX)
			return -EPROTO;
		for (size_t n = 0; n < scm->n_rights; n++) {
			int fd = file_make(b, scm->rights[n]);

			if (fd < 0)
				return fd;
			((int *)CMSG_DATA(c))[count++] = fd;
		}
	}
	if (!count)
		return 0;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(count * sizeof(int));
	m->msg_controllen += CMSG_SPACE(count * sizeof(int));
	return 0;
}

/* Nobody can be named who has ended: then it is us, for the user that it was. */
static void add_credentials(struct msghdr *m, const UcredEntry *who)
{
	struct cmsghdr *c = (struct cmsghdr *)((char *)m->msg_control + m->msg_controllen);
	struct ucred credentials = { kill(who->pid, 0) ? getpid() : (pid_t)who->pid, who->uid, who->gid };

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_CREDENTIALS;
	c->cmsg_len = CMSG_LEN(sizeof(credentials));
	memcpy(CMSG_DATA(c), &credentials, sizeof(credentials));
	m->msg_controllen += CMSG_SPACE(sizeof(credentials));
}

int unix_packet_send(struct build *b, int fd, const SkPacketEntry *packet, const void *bytes, const struct unix_place *to)
{
	char control[CMSG_SPACE(RIGHTS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))] = { 0 };
	struct iovec part = { (void *)bytes, packet->length };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control };
	int large = PACKET_MAX * 4, size = number(fd, SO_SNDBUF, 0) / 2, err = add_rights(b, &m, packet);

	if (!err && packet->phaul_credentials)
		add_credentials(&m, packet->phaul_credentials);
	/* The kernel counts what waits as the sender's, whose buffer may be smaller by now. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof(large));
	err = err ?: unix_send(fd, &m, to);
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	return err;
}

/* For what travels in a packet. */
static int each_right(struct build *b, const SkPacketEntry *packet, int (*act)(struct build *b, uint32_t id))
{
	int err = 0;

	for (size_t i = 0; i < packet->n_scm; i++)
		for (size_t n = 0; n < packet->scm[i]->n_rights && !err; n++)
			if (packet->scm[i]->rights[n] < b->files->count)
				err = act(b, packet->scm[i]->rights[n]);
	return err;
}

static int use(struct build *b, uint32_t id)
{
	b->files->uses[id]--;
	return 0;
}

static int finish(struct build *b, uint32_t id)
{
	const FileEntry *file = b->files->at[id];

	return b->files->uses[id] || b->files->finished[id] || !file || !file->epfd ? 0 :
	       epoll_finish_on_its_way(b, file, b->files->made[id]);
}

/* No longer ours to keep, if no process has it. */
static int let_go(struct build *b, uint32_t id)
{
	if (!b->files->uses[id] && b->files->made[id] >= 0) {
		close(b->files->made[id]);
		b->files->made[id] = -1;
	}
	return 0;
}

static int use_all(void *to, const SkPacketEntry *packet, const void *bytes)
{
	(void)bytes;
	return each_right(to, packet, use);
}

static int finish_all(void *to, const SkPacketEntry *packet, const void *bytes)
{
	(void)bytes;
	return each_right(to, packet, finish);
}

static int let_all_go(void *to, const SkPacketEntry *packet, const void *bytes)
{
	(void)bytes;
	return each_right(to, packet, let_go);
}

int unix_queues_finish(struct build *b)
{
	return unix_packets_each(b->images, use_all, b) ?: unix_packets_each(b->images, finish_all, b) ?:
	       unix_packets_each(b->images, let_all_go, b);
}
