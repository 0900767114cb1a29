/* target_fuzz.c - the host that a process moves to, told by a source that may say anything. */
#include "conversation.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct parts parts;
	struct phaul_error err;

	parts_read(bytes, size, &parts);
	(void)converse(&parts, &err);
	return 0;
}
