#include "packet_catch.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"

#define BUFFER_BYTES (32 << 20)		/* a GB/s for 30 ms */
#define PACKET_MAX 65535u
#define PACKETS_MAX (48u << 20)		/* fits into a note */
#define INSTRUCTIONS_A_V6 10u
#define INSTRUCTIONS_OF_NEW 13u
#define ADDRESSES_MAX 200u		/* jumps reach over 255 instructions, programs have 4096 */

/* For each address a few instructions that accept, or go on with the next. */
static size_t match(struct sock_filter *to, const struct moved_address *a)
{
	bool six = a->family == AF_INET6;
	size_t words = six ? 4 : 1, n = 0;
	uint32_t word[4];

	memcpy(word, &a->at, words * 4);
	to[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_H | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL);
	to[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, six ? ETHERTYPE_IPV6 : ETHERTYPE_IP, 0, 2 * words + 1);
	for (size_t i = 0; i < words; i++) {
		to[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						       (uint32_t)SKF_NET_OFF + (six ? 24 : 16) + 4 * i);
		to[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(word[i]), 0, 2 * (words - 1 - i) + 1);
	}
	to[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, PACKET_MAX);
	return n;
}

/* Of packets that begin with their IP header: accepts none but a TCP packet with SYN and without ACK. */
static size_t match_new(struct sock_filter *to)
{
	const struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, SKF_AD_OFF + SKF_AD_PROTOCOL),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IP, 0, 4),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
		BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 4, 0),
		BPF_STMT(BPF_RET | BPF_K, 0),
		/* Other headers in front of that of TCP are not looked behind. */
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
		BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, sizeof(struct ip6_hdr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_TCP, 0, 3),
		BPF_STMT(BPF_LD | BPF_B | BPF_IND, 13),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TH_SYN | TH_ACK),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TH_SYN, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};

	memcpy(to, code, sizeof(code));
	return sizeof(code) / sizeof(*code);
}

static int attach(int fd, const struct moved_addresses *a, bool new)
{
	struct sock_filter *code = calloc(a->count * (INSTRUCTIONS_A_V6 + 1) + INSTRUCTIONS_OF_NEW + 4, sizeof(*code));
	struct sock_fprog program = { .filter = code };
	int err = 0;

	if (!code)
		return -ENOMEM;
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_PKTTYPE);
	code[program.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_HOST, 1, 0);
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	if (new)
		program.len += match_new(code + program.len);
	for (size_t i = 0; i < a->count; i++)
		program.len += match(code + program.len, &a->at[i]);
	code[program.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
		err = -errno;
	free(code);
	return err;
}

static int catch(const struct moved_addresses *a, bool new)
{
	struct sockaddr_ll all = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
	int fd, err, size = BUFFER_BYTES;

	if (!a->count)
		return -ENOENT;
	if (a->count > ADDRESSES_MAX)
		return -E2BIG;
	/* Of no protocol, so that nothing is seen before there is a filter. */
	fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	err = attach(fd, a, new);
	if (!err && bind(fd, (struct sockaddr *)&all, sizeof(all)) < 0)
		err = -errno;
	if (err)
		close(fd);
	return err ? err : fd;
}

int packets_catch(const struct moved_addresses *a)
{
	return catch(a, false);
}

int packets_catch_new(const struct moved_addresses *a)
{
	return catch(a, true);
}

int packets_catch_all(int fd, const struct moved_addresses *a)
{
	return attach(fd, a, false);
}

int packets_take(int fd, struct packets *p)
{
	uint8_t packet[PACKET_MAX];
	ssize_t got;

	while ((got = recv(fd, packet, sizeof(packet), MSG_DONTWAIT | MSG_TRUNC)) >= 0) {
		uint8_t head[2] = { got & 0xff, got >> 8 }, *larger;

		if (got > (ssize_t)sizeof(packet) || p->size + got + sizeof(head) > PACKETS_MAX)
			continue;
		larger = realloc(p->at, p->size + sizeof(head) + got);
		if (!larger)
			return -ENOMEM;
		p->at = larger;
		memcpy(p->at + p->size, head, sizeof(head));
		memcpy(p->at + p->size + sizeof(head), packet, got);
		p->size += sizeof(head) + got;
	}
	return 0;
}

static uint32_t add(uint32_t sum, const uint8_t *at, size_t size)
{
	for (; size > 1; at += 2, size -= 2) {
		sum += at[0] << 8 | at[1];
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return size ? sum + (at[0] << 8) : sum;
}

/* Senders on this machine leave the sum to hardware that there isn't. */
static void put_sum(uint8_t *tcp, size_t size, const uint8_t *addresses, size_t address_bytes)
{
	uint32_t sum;

	tcp[16] = tcp[17] = 0;
	sum = add(add(IPPROTO_TCP + size, addresses, address_bytes), tcp, size);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum & 0xffff;
	tcp[16] = sum >> 8;
	tcp[17] = sum;
}

/* Where it is to go. False: it is no TCP packet, or not a whole one. Hostile bytes may be anything. */
static bool prepare(uint8_t *packet, size_t *size, union tcp_address *ret)
{
	struct iphdr v4;
	struct ip6_hdr v6;

	memset(ret, 0, sizeof(*ret));
	if (*size >= sizeof(v4) && packet[0] >> 4 == 4) {
		size_t head, whole;

		memcpy(&v4, packet, sizeof(v4));
		head = v4.ihl * 4;
		whole = ntohs(v4.tot_len);
		if (head < sizeof(v4) || whole > *size || whole < head + 20 || v4.protocol != IPPROTO_TCP || ntohs(v4.frag_off) & 0x3fff)
			return false;
		put_sum(packet + head, whole - head, packet + 12, 8);
		ret->v4.sin_family = AF_INET;
		memcpy(&ret->v4.sin_addr, &v4.daddr, 4);
		*size = whole;
		return true;
	}
	if (*size >= sizeof(v6) && packet[0] >> 4 == 6) {
		size_t whole;

		memcpy(&v6, packet, sizeof(v6));
		whole = sizeof(v6) + ntohs(v6.ip6_plen);
		if (whole > *size || whole < sizeof(v6) + 20 || v6.ip6_nxt != IPPROTO_TCP)
			return false;
		put_sum(packet + sizeof(v6), whole - sizeof(v6), packet + 8, 32);
		ret->v6.sin6_family = AF_INET6;
		ret->v6.sin6_addr = v6.ip6_dst;
		*size = whole;
		return true;
	}
	return false;
}

static int open_raw(int family)
{
	int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW), on = 1;
	unsigned int mark = TCP_RESTORE_MARK;

	/* Our own lock, if there is still one, lets the mark pass. */
	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	if (fd >= 0 && family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_HDRINCL, &on, sizeof(on));
	return fd;
}

static bool is_for(const struct moved_addresses *a, const union tcp_address *to)
{
	bool six = to->any.sa_family == AF_INET6;

	for (size_t i = 0; i < a->count; i++)
		if (a->at[i].family == to->any.sa_family &&
		    !memcmp(&a->at[i].at, six ? (void *)&to->v6.sin6_addr : (void *)&to->v4.sin_addr, six ? 16 : 4))
			return true;
	return false;
}

void packets_deliver(const struct moved_addresses *a, const void *bytes, size_t size)
{
	const uint8_t *at = bytes, *end = at + size;
	int v4 = size ? open_raw(AF_INET) : -1, v6 = size ? open_raw(AF_INET6) : -1;

	while (end - at > 2) {
		size_t length = at[0] | at[1] << 8;
		uint8_t packet[PACKET_MAX];
		union tcp_address to;

		if (length > (size_t)(end - at - 2))
			break;
		memcpy(packet, at + 2, length);
		at += 2 + length;
		if (!prepare(packet, &length, &to) || !is_for(a, &to))
			continue;
		if (to.any.sa_family == AF_INET6)
			(void)sendto(v6, packet, length, MSG_DONTWAIT, &to.any, sizeof(to.v6));
		else
			(void)sendto(v4, packet, length, MSG_DONTWAIT, &to.any, sizeof(to.v4));
	}
	if (v4 >= 0)
		close(v4);
	if (v6 >= 0)
		close(v6);
}

void packets_free(struct packets *p)
{
	free(p->at);
	memset(p, 0, sizeof(*p));
}
