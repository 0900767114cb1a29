/* unix_socket.h - what the parts of unix sockets share: facts, queues, and making all of them. */
#ifndef PHAUL_UNIX_SOCKET_H
#define PHAUL_UNIX_SOCKET_H

#include <sys/socket.h>

#include "descriptors.h"

/* What the kernel's socket diagnosis tells of a unix socket of our network namespace. */
struct unix_facts {
	int type, state;		/* SOCK_..., TCP_... */
	int shutdown;			/* RCV_SHUTDOWN 1, SEND_SHUTDOWN 2 */
	uint32_t peer;			/* inode number, 0: none that anybody has open */
	uint32_t backlog;
	uint32_t *waiting;		/* of a listener: the inode numbers of clients, in their order */
	size_t waiting_count;
};

int unix_diag(ino_t ino, struct unix_facts *ret);
void unix_facts_free(struct unix_facts *facts);

/* ---- queues: what was sent and not read yet, descriptors included ---- */

struct unix_packet {
	void *bytes;
	size_t size;
	int *rights;			/* ours, of what travels in it */
	size_t rights_count;
	char sender[110];		/* its address without the family, as the kernel tells it */
	size_t sender_size;
	bool has_credentials;
	struct { pid_t pid; uid_t uid; gid_t gid; } credentials;
};

struct unix_queue {
	ino_t ino;
	struct unix_packet *packets;
	size_t count;
};

/* The queues of all unix sockets of a frozen tree, and of those that are in queues themselves. */
struct unix_queues {
	struct unix_queue *at;
	size_t count;
	int *fds;			/* ours, all that were in queues */
	size_t fd_count;
	bool may_wait;			/* -EAGAIN: an answer of netlink is to be read first, if the program is about to do that */
};

/* Of all sockets of the tables. Nothing is taken out of the queues. If there are descriptors in them, these become one more
 * table, our own, for which there is room. */
int unix_queues_collect(struct unix_queues *queues, struct descriptor_table *tables, size_t *count, struct phaul_error *err);
/* Obstacles for what waits to be received and can't move. */
void unix_queue_check(struct check *c, const struct descriptor *d);
/* Writes the packets of a socket; `queued` is the table of queues->fds. */
int unix_queue_dump(struct dump *dump, const struct descriptor *d);
void unix_queues_free(struct unix_queues *queues);

typedef int (*unix_on_packet)(void *to, const SkPacketEntry *packet, const void *bytes);
int unix_packets_each(const struct image_set *images, unix_on_packet act, void *to);
/* The packets' descriptors count as uses. */
int unix_queues_count_uses(const struct image_set *images, struct built_files *f);

/* ---- names ---- */

/* A name, and where it means something: a directory, for relative ones, or a root of its own that is gone soon. */
struct unix_place {
	const void *name;
	size_t size;		/* 0: there is none */
	const char *directory, *root;
};

int unix_bind(int fd, const struct unix_place *place);
int unix_connect(int fd, const struct unix_place *place);
/* A socket's file waits in a root of its own, beside its place, until the process is released: what goes wrong before
 * changes nothing that others see. */
struct unix_name {
	char *root, *from, *to;
};

/* Takes `root` and all in it; `to` NULL: it is nobody's. */
int unix_name_add(struct built_files *f, char *root, const char *from, const char *to);
int unix_names_publish(struct built_files *f, struct phaul_error *err);
void unix_names_free(struct built_files *f);

/* All of it at once; `to` is NULL, or has no name, for what `fd` is connected to. */
int unix_send(int fd, const struct msghdr *m, const struct unix_place *to);
/* Sends a packet of the images through `fd`, with the descriptors that travel in it. */
int unix_packet_send(struct build *b, int fd, const SkPacketEntry *packet, const void *bytes, const struct unix_place *to);

/* All packets are sent: epoll instances among what travels in them get what they watch, and what no process has is ours no
 * more. */
int unix_queues_finish(struct build *b);

/* unix_build.c: makes all unix sockets of the images at once, whichever of them is asked for first. */
int unix_build(struct build *b, const FileEntry *file);

#endif
