#include "address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <stdbool.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "error.h"
#include "tcp.h"

#define ALL_NODES { 0xff, 0x02, [15] = 1 }

static size_t size_of(const struct moved_address *a)
{
	return a->family == AF_INET6 ? 16 : 4;
}

static int parse_one(char *word, struct moved_address *ret)
{
	char *slash = strchr(word, '/'), *at = strchr(word, '@'), *end;
	unsigned long prefix;

	if (!slash || !at || at < slash || !at[1] || strlen(at + 1) >= sizeof(ret->device))
		return -EINVAL;
	*slash = *at = 0;
	prefix = strtoul(slash + 1, &end, 10);
	ret->family = strchr(word, ':') ? AF_INET6 : AF_INET;
	if (end == slash + 1 || *end || prefix > size_of(ret) * 8 || inet_pton(ret->family, word, &ret->at) != 1)
		return -EINVAL;
	ret->prefix = prefix;
	strcpy(ret->device, at + 1);
	return 0;
}

int addresses_parse(const char *text, struct moved_addresses *ret, struct phaul_error *err)
{
	char *copy = strdup(text ? text : ""), *rest = copy, *word;
	int code = copy ? 0 : -ENOMEM;

	memset(ret, 0, sizeof(*ret));
	while (!code && (word = strsep(&rest, " "))) {
		struct moved_address *larger = *word ? reallocarray(ret->at, ret->count + 1, sizeof(*larger)) : NULL;

		if (!*word)
			continue;
		code = larger ? parse_one(word, &larger[ret->count]) : -ENOMEM;
		ret->at = larger ? larger : ret->at;
		ret->count += !code;
	}
	free(copy);
	if (code)
		addresses_free(ret);
	return code ? phaul_fail(err, code, "address", "reading the addresses \"%s\"", text) : 0;
}

void addresses_free(struct moved_addresses *a)
{
	if (a->announced)
		close(a->arp);
	free(a->at);
	memset(a, 0, sizeof(*a));
}

static void put(struct nlmsghdr *to, int type, const void *bytes, size_t size)
{
	struct rtattr *attribute = (void *)((char *)to + NLMSG_ALIGN(to->nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = RTA_LENGTH(size);
	memcpy(RTA_DATA(attribute), bytes, size);
	to->nlmsg_len = NLMSG_ALIGN(to->nlmsg_len) + RTA_LENGTH(size);
}

/* RTM_NEWADDR or RTM_DELADDR. */
static int change(int fd, int type, const struct moved_address *a)
{
	struct { struct nlmsghdr head; struct ifaddrmsg body; char attributes[64]; } ask = {
		.head = { NLMSG_LENGTH(sizeof(struct ifaddrmsg)), type,
			  NLM_F_REQUEST | NLM_F_ACK | (type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_EXCL : 0), 0, 0 },
		.body = { a->family, a->prefix, a->family == AF_INET6 ? IFA_F_NODAD : 0, RT_SCOPE_UNIVERSE, if_nametoindex(a->device) },
	};
	struct { struct nlmsghdr head; struct nlmsgerr body; char rest[256]; } answer;

	if (!ask.body.ifa_index)
		return -ENODEV;
	put(&ask.head, IFA_LOCAL, &a->at, size_of(a));
	put(&ask.head, IFA_ADDRESS, &a->at, size_of(a));
	if (send(fd, &ask, ask.head.nlmsg_len, 0) < 0 || recv(fd, &answer, sizeof(answer), 0) < (ssize_t)sizeof(answer.head))
		return -errno;
	return answer.head.nlmsg_type == NLMSG_ERROR ? answer.body.error : -EPROTO;
}

static const char *text_of(const struct moved_address *a, char ret[INET6_ADDRSTRLEN])
{
	return inet_ntop(a->family, &a->at, ret, INET6_ADDRSTRLEN);
}

static int change_all(const struct moved_addresses *a, int type, struct phaul_error *err)
{
	int fd = a->count ? socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE) : -1;
	int code = a->count && fd < 0 ? phaul_fail(err, -errno, "address", "opening a netlink socket") : 0;
	char text[INET6_ADDRSTRLEN];
	size_t done = 0;

	while (done < a->count && !code) {
		const struct moved_address *one = &a->at[done];

		code = change(fd, type, one);
		done += !code;
		if (code == -EEXIST || code == -EADDRNOTAVAIL)
			phaul_fail(err, code, "address", "the address %s is %s on %s of this host", text_of(one, text),
				   code == -EEXIST ? "already" : "not", one->device);
		else if (code)
			phaul_fail(err, code, "address", "%s the address %s/%d %s %s", type == RTM_NEWADDR ? "putting" : "taking",
				   text_of(one, text), one->prefix, type == RTM_NEWADDR ? "on" : "off", one->device);
	}
	while (code && done)
		(void)change(fd, type == RTM_NEWADDR ? RTM_DELADDR : RTM_NEWADDR, &a->at[--done]);
	if (fd >= 0)
		close(fd);
	return code;
}

int addresses_add(const struct moved_addresses *a, struct phaul_error *err)
{
	return change_all(a, RTM_NEWADDR, err);
}

int addresses_remove(const struct moved_addresses *a, struct phaul_error *err)
{
	return change_all(a, RTM_DELADDR, err);
}

/* ---- telling ---- */

static bool hardware_address(const char *device, uint8_t ret[ETH_ALEN])
{
	struct ifreq request = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool known;

	strcpy(request.ifr_name, device);
	known = fd >= 0 && !ioctl(fd, SIOCGIFHWADDR, &request) && request.ifr_hwaddr.sa_family == ARPHRD_ETHER;
	memcpy(ret, request.ifr_hwaddr.sa_data, ETH_ALEN);
	if (fd >= 0)
		close(fd);
	return known;
}

/* A request for our own address, which all neighbours that know it take note of. */
static void announce_v4(int fd, const struct moved_address *a, const uint8_t own[ETH_ALEN])
{
	struct sockaddr_ll to = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP), .sll_ifindex = if_nametoindex(a->device),
		.sll_halen = ETH_ALEN, .sll_addr = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff },
	};
	struct ether_arp arp = {
		.ea_hdr = { htons(ARPHRD_ETHER), htons(ETH_P_IP), ETH_ALEN, 4, htons(ARPOP_REQUEST) },
	};

	memcpy(arp.arp_sha, own, ETH_ALEN);
	memcpy(arp.arp_spa, &a->at.v4, 4);
	memcpy(arp.arp_tpa, &a->at.v4, 4);
	(void)sendto(fd, &arp, sizeof(arp), 0, (struct sockaddr *)&to, sizeof(to));
}

static void announce_v6(const struct moved_address *a, const uint8_t own[ETH_ALEN])
{
	struct { struct nd_neighbor_advert head; uint8_t type, size, address[ETH_ALEN]; } words = {
		.head = { .nd_na_hdr.icmp6_type = ND_NEIGHBOR_ADVERT, .nd_na_flags_reserved = ND_NA_FLAG_OVERRIDE,
			  .nd_na_target = a->at.v6 },
		.type = ND_OPT_TARGET_LINKADDR, .size = 1,
	};
	struct sockaddr_in6 from = { .sin6_family = AF_INET6, .sin6_addr = a->at.v6 };
	struct sockaddr_in6 to = {
		.sin6_family = AF_INET6, .sin6_addr.s6_addr = ALL_NODES, .sin6_scope_id = if_nametoindex(a->device),
	};
	int fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6), hops = 255, mark = TCP_RESTORE_MARK;

	memcpy(words.address, own, ETH_ALEN);
	if (fd < 0)
		return;
	/* The mark opens our own lock. */
	if (!setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &hops, sizeof(hops)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) &&
	    !bind(fd, (struct sockaddr *)&from, sizeof(from)))
		(void)sendto(fd, &words, sizeof(words), 0, (struct sockaddr *)&to, sizeof(to));
	close(fd);
}

void addresses_announce(struct moved_addresses *a)
{
	if (a->count && !a->announced) {
		a->arp = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		a->announced = a->arp >= 0;
	}
	for (size_t i = 0; i < a->count; i++) {
		uint8_t own[ETH_ALEN];

		if (!hardware_address(a->at[i].device, own))
			continue;
		if (a->at[i].family == AF_INET6)
			announce_v6(&a->at[i], own);
		else
			announce_v4(a->arp, &a->at[i], own);
	}
}
