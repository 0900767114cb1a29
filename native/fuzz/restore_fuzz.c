/* restore_fuzz.c - a checkpoint directory, whatever is in it, read and built as `phaul restore` does. */
#include "fuzz.h"
#include "kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct parts parts;
	struct phaul_restore *r;
	struct phaul_error err;
	char said[256];
	int pid;

	parts_read(bytes, size, &parts);
	kernel_begin(&parts);
	if (!tell(phaul_restore_open(KERNEL_DIRECTORY, 0, "", &r, &pid, &err), &err)) {
		phaul_restore_said(r, said, sizeof(said));
		(void)tell(phaul_restore_release(r, 0, &err), &err);
		phaul_restore_close(r);
	}
	kernel_end();
	return 0;
}
