/* packet_socket.h - what the kernel's diagnosis tells of a packet socket. */
#ifndef PHAUL_PACKET_SOCKET_H
#define PHAUL_PACKET_SOCKET_H

#include <linux/packet_diag.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PACKET_NO_FANOUT 0xffffffffu

struct packet_facts {
	int type;			/* SOCK_ */
	uint16_t protocol;		/* host order */
	struct packet_diag_info info;
	struct packet_diag_mclist *members;
	size_t member_count;
	uint32_t fanout;
	struct packet_diag_ring rx, tx;
	bool has_rx, has_tx;
};

/* -ENOENT: it is in another network namespace, or the kernel has no such diagnosis. */
int packet_diag(ino_t ino, struct packet_facts *ret);
void packet_facts_free(struct packet_facts *facts);

#endif
