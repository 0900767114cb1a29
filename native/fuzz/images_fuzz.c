/* images_fuzz.c - a set of images, as it comes over the wire: all that reads one, and builds nothing. */
#include <stdlib.h>

#include "fuzz.h"
#include "ghosts.pb-c.h"
#include "inventory.h"
#include "ipc.pb-c.h"
#include "kernel.h"
#include "layout.h"
#include "locks.pb-c.h"
#include "memfd.pb-c.h"
#include "objects/inet_connection.h"
#include "objects/unix_socket.h"
#include "page_file.h"
#include "rebirth.h"
#include "tty.pb-c.h"
#include "xstate.h"
#include "xstate_criu.h"

static const struct { const char *base; const ProtobufCMessageDescriptor *type; } kinds[] = {
	{ "inventory", &inventory_entry__descriptor }, { "remap-fpath", &remap_file_path_entry__descriptor },
	{ "filelocks", &file_lock_entry__descriptor }, { "memfd", &memfd_inode_entry__descriptor },
	{ "tty-info", &tty_info_entry__descriptor }, { "tty-data", &tty_data_entry__descriptor },
};

static volatile uint8_t last;

static int take_packet(void *to, const SkPacketEntry *packet, const void *bytes)
{
	(void)to;
	if (packet->length)
		last = ((const uint8_t *)bytes)[packet->length - 1];
	return 0;
}

static int take_pages(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err)
{
	(void)ctx;
	(void)err;
	last = bytes[pages * 4096 - 1] ^ at;
	return 0;
}

static void read_registers(const struct image_set *set, uint32_t tid)
{
	static uint8_t state[XSTATE_MAX];
	ProtobufCMessage **all;
	size_t count, size;

	(void)image_read_all(set, "core", tid, &core_entry__descriptor, &all, &count);
	for (size_t i = 0; i < count; i++) {
		const ThreadInfoX86 *info = ((CoreEntry *)all[i])->thread_info;

		if (info && info->has_phaul_xstate)
			(void)xstate_unpack(info->phaul_xstate.data, info->phaul_xstate.len, state, &size);
		if (info && info->fpregs)
			(void)xstate_from_criu(info->fpregs, state, &size);
	}
	image_free_all(all, count);
}

static void read_memory(const struct image_set *set, const struct chain *chain, pid_t pid, const struct built_files *files,
			struct phaul_error *err)
{
	struct memory_map map;
	struct range_list guards = {0};
	struct shmem_set shared = {0};
	struct layout layout;

	if (!layout_read_map(set, pid, files, &map, err)) {
		(void)shmem_note(&shared, &map, pid, err);
		memory_map_free(&map);
	}
	(void)layout_read_guards(set, pid, &guards, err);
	range_list_free(&guards);
	if (!layout_read(set, pid, &layout, err))
		layout_free(&layout);
	(void)page_file_read(chain, "pagemap", pid, take_pages, NULL, err);
	for (size_t i = 0; i < shared.count; i++)
		(void)page_file_read(chain, "pagemap-shmem", shared.at[i].id, take_pages, NULL, err);
	shmem_free(&shared, true);
}

static void read_all(const struct image_set *set, const struct chain *chain, struct phaul_error *err)
{
	struct rebirth tree = { .err = err };
	struct connection_pair *pairs = NULL;
	struct cgroups groups = {0};
	struct clocks clocks;
	uint32_t round;
	size_t count;

	(void)layout_read_round(set, &round);
	(void)clocks_of_images(set, &clocks);
	if (!cgroups_read(&groups, set, err))
		cgroups_free(&groups);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		ProtobufCMessage **all;

		(void)image_read_all(set, kinds[i].base, -1, kinds[i].type, &all, &count);
		image_free_all(all, count);
	}
	(void)unix_packets_each(set, take_packet, NULL);
	if (!tell(rebirth_read(&tree, set) ?: rebirth_read_states(&tree, set) ?:
		  built_files_read(set, tree.tables, tree.table_count, &tree.files, err), err)) {
		(void)inet_connections_of_images(&tree.files, &pairs, &count);
		for (size_t i = 0; i < tree.count; i++) {
			const PstreeEntry *entry = tree.tasks[i]->entry;

			read_memory(set, chain, entry->pid, &tree.files, err);
			for (size_t n = 0; n < entry->n_threads; n++)
				read_registers(set, entry->threads[n]);
		}
	}
	free(pairs);
	rebirth_free(&tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct parts parts;
	const struct part *set_at;
	struct image_set *set;
	struct phaul_error err;
	struct chain chain;

	parts_read(bytes, size, &parts);
	kernel_begin(&parts);
	set_at = parts_find(&parts, "set");
	if (set_at && !tell(image_set_unpack(set_at->bytes, set_at->size, &set, &err), &err)) {
		(void)tell(inventory_check(set, KERNEL_DIRECTORY, &err), &err);
		(void)tell(image_set_check(set, &err), &err);
		if (!tell(chain_open(KERNEL_DIRECTORY, set, &chain, &err), &err)) {
			read_all(set, &chain, &err);
			chain_close(&chain);
		}
		image_set_free(set);
	}
	kernel_end();
	return 0;
}
