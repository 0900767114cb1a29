/* socket_fuzz.c - saved TCP connections, packets that were caught, addresses as words. */
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "fuzz.h"
#include "kernel.h"
#include "packet_catch.h"

int kernel_close(int fd);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct parts parts;
	const struct part *connection, *packets, *words;
	struct moved_addresses addresses = {0};
	struct phaul_error err;
	char *text;
	int fd;

	parts_read(bytes, size, &parts);
	kernel_begin(&parts);
	connection = parts_find(&parts, "connection");
	packets = parts_find(&parts, "packets");
	words = parts_find(&parts, "addresses");
	fd = connection ? tell(phaul_tcp_restore(connection->bytes, connection->size, &err), &err) : -1;
	if (fd >= 0)
		kernel_close(fd);
	text = words ? calloc(1, words->size + 1) : NULL;
	if (text)
		memcpy(text, words->bytes, words->size);
	if (text && !addresses_parse(text, &addresses, &err) && !addresses_add(&addresses, &err)) {
		addresses_announce(&addresses);
		if (packets)
			packets_deliver(&addresses, packets->bytes, packets->size);
		(void)addresses_remove(&addresses, &err);
	}
	free(text);
	addresses_free(&addresses);
	kernel_end();
	return 0;
}
