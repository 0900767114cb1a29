/* inet_socket.h - sockets of TCP and UDP, over IPv4 and IPv6. */
#ifndef PHAUL_INET_SOCKET_H
#define PHAUL_INET_SOCKET_H

#include "inet_connection.h"

extern const struct descriptor_kind inet_socket;

/* The way of most sockets, which is looked at once: 1 if it was a connection that comes along, and nothing speaks against it;
 * 0 if it is for check() and dump() to say. A connection's `own` is kept. */
int inet_dump_connection(struct dump *dump, struct descriptor *d);

/* RCV_SHUTDOWN 1, SEND_SHUTDOWN 2; 0 also if nobody knows. */
int inet_udp_shutdown(int socket_fd, int protocol, const union tcp_address *local, const union tcp_address *peer);

#endif
