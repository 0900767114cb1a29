/* inet_socket.h - TCP connections, which are paused for as long as they are in nobody's hands. */
#ifndef PHAUL_INET_SOCKET_H
#define PHAUL_INET_SOCKET_H

#include "../network_lock.h"
#include "object.h"

/* Of a dump: resumed if it fails, or the processes go on. */
struct paused_set {
	struct paused_socket *at;
	size_t count;
};

/* All TCP connections of the tables' frozen processes, that may be in their images, each of them open in `own`; and how many
 * wait to be accepted, which can't. */
int inet_connections(const struct descriptor_table *tables, size_t count, struct connection_pair **ret, size_t *ret_count,
		     size_t *ret_waiting);
int inet_connections_of_images(const struct built_files *f, struct connection_pair **ret, size_t *ret_count);

/* The way of most sockets, which is looked at once: 1 if it was a connection that comes along, and nothing speaks against it;
 * 0 if it is for check() and dump() to say. A connection's `own` is kept. */
int inet_dump_connection(struct dump *dump, struct descriptor *d);

/* RCV_SHUTDOWN 1, SEND_SHUTDOWN 2; 0 also if nobody knows. */
int inet_udp_shutdown(int socket_fd, int protocol, const union tcp_address *local, const union tcp_address *peer);

/* A socket is paused while it is read, when no packet reaches it anyway; and again when the processes end, of which it then sends
 * nothing. */
void paused_set_pause(struct paused_set *set);
void paused_set_free(struct paused_set *set);
/* All connections of the images, before other descriptors are made. */
int inet_make_connections(struct built_files *f, const struct image_set *images, struct phaul_error *err);
/* Of all that were built: sides that are closed. Their addresses are on this host by now. */
int inet_restore_ends(struct built_files *f, struct phaul_error *err);
/* Their processes are about to run. */
int inet_resume(struct built_files *f, struct phaul_error *err);

#endif
