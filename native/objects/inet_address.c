/* inet_address.c - where a socket is, and its peer: as text, and as images have it. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "inet_address.h"

int inet_port(const union tcp_address *a)
{
	return ntohs(a->any.sa_family == AF_INET6 ? a->v6.sin6_port : a->v4.sin_port);
}

const char *inet_text(const union tcp_address *a, char *ret, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr)) {
		inet_ntop(AF_INET, &a->v6.sin6_addr.s6_addr[12], host, sizeof(host));
		snprintf(ret, size, "%s:%d", host, inet_port(a));
	} else if (a->any.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
		snprintf(ret, size, "[%s]:%d", host, inet_port(a));
	} else {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
		snprintf(ret, size, "%s:%d", host, inet_port(a));
	}
	return ret;
}

bool inet_is_of_a_host(const union tcp_address *a)
{
	uint32_t v4 = a->v4.sin_addr.s_addr;

	if (a->any.sa_family == AF_INET6) {
		if (!IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr))
			return !IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr) &&
			       !IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
		memcpy(&v4, &a->v6.sin6_addr.s6_addr[12], 4);
	}
	return v4 && ntohl(v4) >> 24 != 127;
}

size_t inet_words(int family, const union tcp_address *a, uint32_t ret[4])
{
	if (family == AF_INET6)
		memcpy(ret, &a->v6.sin6_addr, 16);
	else
		memcpy(ret, &a->v4.sin_addr, 4);
	return family == AF_INET6 ? 4 : 1;
}

static int set_address(const InetSkEntry *image, const uint32_t *words, size_t count, uint32_t port, union tcp_address *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->any.sa_family = image->family;
	if (count < (image->family == AF_INET6 ? 4 : 1))
		return -EPROTO;
	if (image->family == AF_INET6) {
		ret->v6.sin6_port = htons(port);
		memcpy(&ret->v6.sin6_addr, words, 16);
		if (image->ifname)
			ret->v6.sin6_scope_id = if_nametoindex(image->ifname);
	} else {
		ret->v4.sin_port = htons(port);
		memcpy(&ret->v4.sin_addr, words, 4);
	}
	return 0;
}

int inet_read_local(const InetSkEntry *image, union tcp_address *ret, socklen_t *ret_size)
{
	*ret_size = image->family == AF_INET6 ? sizeof(ret->v6) : sizeof(ret->v4);
	return set_address(image, image->src_addr, image->n_src_addr, image->src_port, ret);
}

int inet_read_peer(const InetSkEntry *image, union tcp_address *ret)
{
	return set_address(image, image->dst_addr, image->n_dst_addr, image->dst_port, ret);
}
