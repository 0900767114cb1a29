/* tcp.h - take a TCP connection out of one socket and put it into another, on this host or elsewhere: its peer notices a
 * pause. A library of its own: needs nothing else of phaul's but errors are -errno, as everywhere.
 *
 *	tcp_pause(fd);  tcp_save(fd, &c);  close(fd);		the peer is told nothing
 *	fd = socket(...);  tcp_restore(fd, &c);  tcp_restore_ends(fd, &c);  tcp_resume(fd);
 *
 * Between the two no packet of the connection may reach a host that doesn't know it, or the peer is told that it is gone:
 * see network_lock.h. It takes CAP_NET_ADMIN, and CAP_NET_RAW for a connection whose peer has closed its side.
 */
#ifndef PHAUL_TCP_H
#define PHAUL_TCP_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>

union tcp_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct tcp_connection {
	union tcp_address local, peer;
	int state;			/* TCP_ESTABLISHED ...; neither TCP_LISTEN nor one of a server's handshake */
	/* Bytes that wait to be read; that are sent but not acknowledged, with those that are not sent. Neither counts the
	 * end of a side (FIN), sequence numbers do. */
	uint32_t in_size, out_size, unsent_size;
	uint32_t in_sequence, out_sequence;	/* behind the last byte */
	uint8_t *in, *out;
	uint32_t options;		/* TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE */
	uint32_t mss, send_wscale, receive_wscale, timestamp;
	struct tcp_repair_window window;
};

/* From now on nothing is sent when the socket is closed. */
int tcp_pause(int fd);
/* Of a paused socket; nothing in it changes. */
int tcp_save(int fd, struct tcp_connection *ret);
/* The same of one whose addresses `ret` has already. */
int tcp_save_named(int fd, struct tcp_connection *ret);
void tcp_connection_free(struct tcp_connection *c);
/* `fd` is a new socket of the connection's family; it is paused afterwards. The connection's own address need not be on
 * this host yet. */
int tcp_restore(int fd, const struct tcp_connection *c);
/* What there is to say of sides that are closed; now it must be. Does nothing for others. */
int tcp_restore_ends(int fd, const struct tcp_connection *c);
/* Ends the pause: the peer is sent what shows it that we are there. SO_REUSEADDR is off afterwards. */
int tcp_resume(int fd);
/* The same, and the peer is sent nothing. */
int tcp_resume_quietly(int fd);

/* Packets that stand for those of the peer while a connection is restored have this mark. */
#define TCP_RESTORE_MARK 0x7068u

#endif
