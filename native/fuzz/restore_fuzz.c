/* restore_fuzz.c - a checkpoint directory, whatever is in it, read and built as `phaul restore` does. */
#include "fuzz.h"
#include "kernel.h"
#include "phaul.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct parts parts;
	struct phaul_error err;
	int pid;

	parts_read(bytes, size, &parts);
	kernel_begin(&parts);
	(void)tell(phaul_restore(KERNEL_DIRECTORY, 0, &pid, &err), &err);
	kernel_end();
	return 0;
}
