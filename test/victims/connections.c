/* connections.c - NAME REPORT PAIRS: that many TCP connections with itself; a byte waits in each to be read, and at the end each
 * carries another, both ways.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "victim.h"

#define EXPECTED 0x5a

static void carry(int from, int to, uint8_t byte)
{
	uint8_t got = 0;

	if (write(from, &byte, 1) != 1 || read(to, &got, 1) != 1)
		victim_fail("fd %d: %s", from, strerror(errno));
	if (got != byte)
		victim_fail("fd %d got %x instead of %x", to, got, byte);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int pairs = argc > 2 ? atoi(argv[2]) : 100, listener = socket(AF_INET, SOCK_STREAM, 0), (*ends)[2];
	struct rlimit limit;
	uint8_t byte;

	victim_begin(argc, argv);
	victim_check(!getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	ends = calloc(pairs, sizeof(*ends));
	victim_check(ends && !setrlimit(RLIMIT_NOFILE, &limit) && !bind(listener, (void *)&address, size) && !listen(listener, 128) &&
		     !getsockname(listener, (void *)&address, &size));
	for (int i = 0; i < pairs; i++) {
		ends[i][0] = socket(AF_INET, SOCK_STREAM, 0);
		victim_check(ends[i][0] >= 0 && !connect(ends[i][0], (void *)&address, size));
		ends[i][1] = accept(listener, NULL, NULL);
		byte = EXPECTED ^ i;
		victim_check(ends[i][1] >= 0 && write(ends[i][0], &byte, 1) == 1);
	}
	victim_ready();
	while (victim_tick())
		usleep(1000);
	for (int i = 0; i < pairs; i++) {
		victim_check(read(ends[i][1], &byte, 1) == 1);
		if (byte != (uint8_t)(EXPECTED ^ i))
			victim_fail("connection %d has lost what waited in it", i);
		carry(ends[i][0], ends[i][1], i);
		carry(ends[i][1], ends[i][0], ~i);
	}
	return victim_ok();
}
