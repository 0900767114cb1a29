/* packet_catch.h - packets that come for an address while nobody answers there: kept, and delivered where the address has
 * gone, or here if it stays. Otherwise their senders would send them again after 200 ms at the earliest.
 */
#ifndef PHAUL_PACKET_CATCH_H
#define PHAUL_PACKET_CATCH_H

#include "address.h"

/* A socket that sees what comes for these addresses, in TCP, from now on. Packets that others see too may be among them:
 * TCP takes no harm of what comes twice. Returns a descriptor, or -errno; -ENOENT: there are no addresses. */
int packets_catch(const struct moved_addresses *a);
/* One that sees only those that begin a connection, until packets_catch_all(). */
int packets_catch_new(const struct moved_addresses *a);
int packets_catch_all(int fd, const struct moved_addresses *a);

/* IP packets one behind the other, each with its size in two bytes, the lower first, in front. */
struct packets {
	uint8_t *at;
	size_t size;
};

/* Adds what has come since. -ENOMEM */
int packets_take(int fd, struct packets *p);
/* Sends those for these addresses to this host itself. What isn't a whole TCP packet is left out; what fails is as good as
 * lost on its way. */
void packets_deliver(const struct moved_addresses *a, const void *bytes, size_t size);
void packets_free(struct packets *p);

#endif
