/* proc_fuzz.c - what /proc says of a process: may it move, and what are its descriptors? */
#include <string.h>

#include "fuzz.h"
#include "kernel.h"
#include "memory_map.h"
#include "objects/mm.h"
#include "objects/object.h"
#include "shmem.h"

static const uint32_t all = PHAUL_TO_DIRECTORY | PHAUL_FILE_LOCKS | PHAUL_LINK_REMAP | PHAUL_TCP_ESTABLISHED;

static void dump_descriptors(int pid, struct phaul_error *err)
{
	struct dump d = { .pid = pid, .ns_pid = pid, .flags = all, .next_file_id = 1000, .err = err };
	struct descriptor_table table;
	struct shmem_set shared = {0};
	struct mapped_files mapped = {0};
	struct memory_map map;

	if (descriptors_read(pid, false, &table, err))
		return;
	d.images = image_set_new();
	d.shmem = &shared;
	d.descriptors = &table;
	(void)tell(descriptors_dump(&d), err);
	if (!memory_map_read(pid, true, &map, err)) {
		(void)memory_map_gap(&map);
		d.map = &map;
		d.mapped = &mapped;
		(void)mm_dump(&d, 0);
		mapped_files_free(&mapped);
		memory_map_free(&map);
	}
	shmem_free(&shared, true);
	dump_free(&d);
	image_set_free(d.images);
	descriptors_free(&table);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct parts parts;
	static char text[1 << 16];
	const struct part *pid_at;
	struct phaul_error err;
	int32_t pid = 4242;

	parts_read(bytes, size, &parts);
	kernel_begin(&parts);
	pid_at = parts_find(&parts, "pid");
	if (pid_at && pid_at->size >= sizeof(pid))
		memcpy(&pid, pid_at->bytes, sizeof(pid));
	(void)tell(phaul_check(pid, 0, text, sizeof(text), &err), &err);
	(void)tell(phaul_check(pid, all, text, sizeof(text), &err), &err);
	dump_descriptors(pid, &err);
	kernel_end();
	return 0;
}
