/* network_lock.h - while nobody knows a connection, its packets are dropped: otherwise this host would tell its peer that
 * there is none. A table of nftables of our own, "phaul-PID", in the network namespace of the caller.
 */
#ifndef PHAUL_NETWORK_LOCK_H
#define PHAUL_NETWORK_LOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "address.h"
#include "phaul.h"
#include "tcp.h"

struct connection_pair {
	union tcp_address local, peer;
};

/* Replaces the lock of this process, if there is one. */
int network_lock(pid_t pid, const struct connection_pair *pairs, size_t count, struct phaul_error *err);
int network_unlock(pid_t pid, struct phaul_error *err);

/* The same for the time of a switch: it ends when phaul ends, whatever that dies of. */
struct network_hold {
	struct nft_ctx *nft;		/* NULL: there is nothing yet */
	bool ready, addressed;		/* there is a table; with the addresses */
};

/* Does what takes some ms: nothing is held yet, but `addresses` if there are any. What fails here fails when it is needed. */
void network_prepare(struct network_hold *h, pid_t pid, const struct moved_addresses *addresses);
/* No connection is begun at the addresses: the first packets of new ones are dropped, all others pass. */
int network_hold_new(struct network_hold *h, pid_t pid, const struct moved_addresses *addresses, struct phaul_error *err);
/* Nothing at all reaches or leaves the addresses; nothing of the connections that are at none of them. */
int network_hold(struct network_hold *h, pid_t pid, const struct connection_pair *pairs, size_t count,
		 const struct moved_addresses *addresses, struct phaul_error *err);
/* Packets come and go again: the same without the wait for CPUs that may still look at the table, which is some ms. */
void network_open(struct network_hold *h, pid_t pid);
void network_let_go(struct network_hold *h);

#endif
