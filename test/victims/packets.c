/* packets.c - REPORT: packet sockets on the loopback device: one with a filter, as DHCP clients have it, that must see a datagram; a
 * group that packets are dealt out to; memberships; an unused ring, mapped; one of the oldest kind.
 */
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "victim.h"

#define PAGE 4096
#define PORT 7013

static int option(int fd, int name)
{
	socklen_t size = sizeof(int);
	int value = -1;

	victim_check(getsockopt(fd, SOL_PACKET, name, &value, &size) == 0);
	return value;
}

static void set(int fd, int name, int value)
{
	victim_check(setsockopt(fd, SOL_PACKET, name, &value, sizeof(value)) == 0);
}

static int open_socket(int type, int protocol)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = if_nametoindex("lo") };
	int fd = socket(AF_PACKET, type, 0);

	victim_check(fd >= 0 && bind(fd, (void *)&at, sizeof(at)) == 0);
	return fd;
}

/* Sent to ourselves; nobody need listen. */
static void send_datagram(void)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	victim_check(sendto(fd, "discover", 8, 0, (void *)&to, sizeof(to)) == 8);
	close(fd);
}

static void see_datagram(int fd)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	char packet[2048];
	ssize_t got = 0;

	for (int i = 0; i < 100; i++) {
		send_datagram();
		if (poll(&ready, 1, 100) > 0 && (got = recv(fd, packet, sizeof(packet), 0)) > 0)
			break;
	}
	if (got != 14 + 20 + 8 + 8 || memcmp(packet + got - 8, "discover", 8))
		victim_fail("a packet of %zd bytes came instead of the datagram", got);
}

int main(int argc, char **argv)
{
	/* UDP to our port, of IPv4 without options. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 9), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_UDP, 0, 3),
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 14 + 20 + 2), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PORT, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffff), BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog filter = { sizeof(code) / sizeof(*code), code };
	struct packet_mreq promiscuous = { .mr_ifindex = 1, .mr_type = PACKET_MR_PROMISC };
	struct tpacket_req ring = { .tp_block_size = PAGE, .tp_block_nr = 2, .tp_frame_size = 1024, .tp_frame_nr = 8 };
	struct sockaddr old = { .sa_family = AF_PACKET, .sa_data = "lo" };
	socklen_t size = sizeof(old);
	int seeing, group[2], ringed, oldest;
	char *mapped;

	victim_begin(argc, argv);
	promiscuous.mr_ifindex = if_nametoindex("lo");
	seeing = open_socket(SOCK_RAW, ETH_P_IP);
	victim_check(setsockopt(seeing, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) == 0);
	victim_check(setsockopt(seeing, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof(promiscuous)) == 0);
	set(seeing, PACKET_AUXDATA, 1);
	set(seeing, PACKET_QDISC_BYPASS, 1);
	see_datagram(seeing);
	for (int i = 0; i < 2; i++) {
		group[i] = open_socket(SOCK_DGRAM, ETH_P_ARP);
		set(group[i], PACKET_FANOUT, (getpid() & 0xffff) | PACKET_FANOUT_LB << 16);
	}
	ringed = socket(AF_PACKET, SOCK_RAW, 0);
	set(ringed, PACKET_VERSION, TPACKET_V2);
	victim_check(setsockopt(ringed, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)) == 0);
	mapped = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, ringed, 0);
	victim_check(mapped != MAP_FAILED);
	oldest = socket(AF_PACKET, SOCK_PACKET, htons(ETH_P_ARP));
	victim_check(oldest >= 0 && bind(oldest, &old, sizeof(old)) == 0);
	victim_ready();
	while (victim_tick())
		usleep(1000);

	see_datagram(seeing);
	victim_check(option(seeing, PACKET_AUXDATA) == 1 && option(seeing, PACKET_QDISC_BYPASS) == 1);
	victim_check(setsockopt(seeing, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &promiscuous, sizeof(promiscuous)) == 0);
	for (int i = 0; i < 2; i++)
		victim_check((option(group[i], PACKET_FANOUT) & 0xffffff) == ((getpid() & 0xffff) | PACKET_FANOUT_LB << 16));
	victim_check(option(ringed, PACKET_VERSION) == TPACKET_V2);
	/* The kernel writes into what is mapped. */
	{
		struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = promiscuous.mr_ifindex };
		volatile struct tpacket2_hdr *first = (void *)mapped;

		victim_check(first->tp_status == TP_STATUS_KERNEL && bind(ringed, (void *)&at, sizeof(at)) == 0);
		for (int i = 0; i < 1000 && !(first->tp_status & TP_STATUS_USER); i++) {
			send_datagram();
			usleep(1000);
		}
		victim_check(first->tp_status & TP_STATUS_USER && first->tp_len == 14 + 20 + 8 + 8);
	}
	victim_check(getsockname(oldest, &old, &size) == 0 && !strcmp(old.sa_data, "lo"));
	return victim_ok();
}
