/* address.h - an address of this host that goes along with a process: taken off a device, put on one, announced. */
#ifndef PHAUL_ADDRESS_H
#define PHAUL_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>

#include "phaul.h"

struct moved_address {
	int family;			/* AF_INET, AF_INET6 */
	union { struct in_addr v4; struct in6_addr v6; } at;
	uint8_t prefix;			/* bits */
	char device[16];
};

struct moved_addresses {
	struct moved_address *at;
	size_t count;
	bool announced;
	int arp;			/* that announced them: to close it takes some ms */
};

/* "10.0.0.7/24@eth0 fd00::7/64@eth0": NULL and "" are none. -EINVAL */
int addresses_parse(const char *text, struct moved_addresses *ret, struct phaul_error *err);
void addresses_free(struct moved_addresses *a);
/* All of them, or, on failure, none. One that is there already, or isn't, is an error. Without a probe for duplicates. */
int addresses_add(const struct moved_addresses *a, struct phaul_error *err);
int addresses_remove(const struct moved_addresses *a, struct phaul_error *err);
/* Tells the neighbours: gratuitous ARP, unsolicited neighbour advertisement. What isn't heard is found out later. */
void addresses_announce(struct moved_addresses *a);

#endif
