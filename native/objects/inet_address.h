/* inet_address.h - where a socket is, and its peer: as text, and as images have it. */
#ifndef PHAUL_INET_ADDRESS_H
#define PHAUL_INET_ADDRESS_H

#include "../tcp.h"
#include "object.h"

int inet_port(const union tcp_address *a);
/* "10.0.0.7:6379", "[fd00::7]:6379"; IPv4 in IPv6 as IPv4. Returns ret. */
const char *inet_text(const union tcp_address *a, char *ret, size_t size);
/* An address that the target may not have. */
bool inet_is_of_a_host(const union tcp_address *a);
/* 32 bit words in network order; returns how many. */
size_t inet_words(int family, const union tcp_address *a, uint32_t ret[4]);
int inet_read_local(const InetSkEntry *image, union tcp_address *ret, socklen_t *ret_size);
int inet_read_peer(const InetSkEntry *image, union tcp_address *ret);

#endif
