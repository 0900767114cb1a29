/* inet_connection.h - TCP connections, which are paused for as long as they are in nobody's hands. */
#ifndef PHAUL_INET_CONNECTION_H
#define PHAUL_INET_CONNECTION_H

#include "../network_lock.h"
#include "object.h"

/* Of a dump: resumed if it fails, or the processes go on. */
struct paused_set {
	struct paused_socket *at;
	size_t count;
};

/* All TCP connections of the tables' frozen processes, that may be in their images; and how many wait to be accepted,
 * which can't. */
int inet_connections(const struct descriptor_table *tables, size_t count, struct connection_pair **ret, size_t *ret_count,
		     size_t *ret_waiting);
int inet_connections_of_images(const struct built_files *f, struct connection_pair **ret, size_t *ret_count);
/* Of a connection of this host with itself: does its other end move, too? */
bool inet_peer_comes_along(struct check *c, const union tcp_address *local, const union tcp_address *peer);
bool inet_is_connection(const InetSkEntry *image);

/* A socket is paused while it is read, when no packet reaches it anyway; and again when the processes end, of which it then sends
 * nothing. */
void paused_set_pause(struct paused_set *set);
void paused_set_free(struct paused_set *set);
/* One whose option gets that value when all are let go on; a descriptor of its own. */
int paused_keep(struct paused_socket **at, size_t *count, int fd, int option, int value);

/* Into "files" and "tcp-stream"; `image` has what all sockets have. d->own is kept, and is -1 afterwards. */
int connection_dump(struct dump *dump, struct descriptor *d, const union tcp_address *local, const union tcp_address *peer,
		    InetSkEntry *image);
int connection_build(struct build *b, int fd, const InetSkEntry *image);
/* It is closed, by whoever failed. */
void connection_forget(struct built_files *f, uint32_t id, int fd);
/* All connections of the images, side by side, before other descriptors are made. */
int inet_make_connections(struct built_files *f, const struct image_set *images, struct phaul_error *err);
/* Of all that were built: sides that are closed. Their addresses are on this host by now. */
int inet_restore_ends(struct built_files *f, struct phaul_error *err);
/* Their processes are about to run. */
int inet_resume(struct built_files *f, struct phaul_error *err);

#endif
