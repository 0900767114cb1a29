/* checkpoint.c - a process tree in a directory: CRIU's images, with the pages in pages-N.img. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "error.h"
#include "ghost.h"
#include "image.h"
#include "memory_map.h"
#include "objects/aio.h"
#include "objects/cgroup.h"
#include "page_file.h"
#include "shmem.h"
#include "track.h"
#include "tree_state.h"

#define SETTLE_LIMIT_MS 5000	/* for requests to disks */

struct dump_to {
	struct tree_state state;
	struct page_writer pages;
	struct shmem_set shmem;
	struct ghost_set ghosts;
	struct cgroup_options cgroup_options;
	struct cgroup_sets cgroups;
};

/* ---- memory ---- */

struct process_memory {
	pid_t pid;
	int mem;			/* /proc/PID/mem */
};

/* Forced where the process itself may not read. */
static int read_memory(void *ctx, uint64_t at, uint8_t *to, size_t size)
{
	const struct process_memory *m = ctx;
	struct iovec local = { to, size }, remote = { (void *)at, size };
	ssize_t got = process_vm_readv(m->pid, &local, 1, &remote, 1, 0);

	if (got != (ssize_t)size)
		got = pread(m->mem, to, size, at);
	return got < 0 ? -errno : (size_t)got == size ? 0 : -EFAULT;
}

static int put_mappings(struct dump_to *d, const struct memory_map *map, struct process_memory *m, int pagemap)
{
	struct range_list guards = {0};
	int err = page_writer_begin(&d->pages, "pagemap", m->pid);

	for (size_t i = 0; i < map->count && !err; i++) {
		struct range_list held = {0};

		/* What the kernel may drop any time is dropped. */
		if (vma_has_pages(&map->at[i]) && !(map->at[i].flags & VMA_DROPPABLE))
			err = pagemap_held(pagemap, &map->at[i], &held, &guards);
		if (map->at[i].kind == VMA_VDSO || map->at[i].kind == VMA_AIO)
			err = range_list_add(&held, map->at[i].start, map->at[i].end);
		for (size_t n = 0; n < held.count && !err; n++)
			err = page_writer_put(&d->pages, held.at[n].address, held.at[n].pages, read_memory, m);
		range_list_free(&held);
	}
	err = err ? err : page_writer_end(&d->pages);
	if (!err && guards.count)
		err = image_put_raw(d->state.images, "phaul-guards", m->pid, guards.at, guards.count * sizeof(*guards.at));
	range_list_free(&guards);
	return err ? err : shmem_dump(map, &d->shmem, &d->pages);
}

static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return open(path, flags | O_CLOEXEC);
}

static int put_memory(struct dump_to *d, pid_t pid, const struct memory_map *map)
{
	struct process_memory m = { .pid = pid, .mem = open_proc(pid, "mem", O_RDWR) };
	int pagemap = open_proc(pid, "pagemap", O_RDONLY);
	int code = pagemap < 0 || m.mem < 0 ? -errno : put_mappings(d, map, &m, pagemap);

	if (pagemap >= 0)
		close(pagemap);
	if (m.mem >= 0)
		close(m.mem);
	return code ? phaul_fail(d->state.err, code, "checkpoint", "writing the memory of pid %d", pid) : 0;
}

/* ---- the rest ---- */

static int put_inventory(struct dump_to *d)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	int code;

	tree_ids_of(d->state.tree, &d->state.tree->tasks[0], &ids);
	/* CRIU compares these with the tree's: they are those of the one who dumps. */
	ids.vm_id = ids.files_id = ids.fs_id = ids.sighand_id = INT32_MAX;
	inventory.img_version = IMAGES_VERSION;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = true;
	inventory.has_ns_per_id = inventory.ns_per_id = true;
	inventory.root_ids = &ids;
	inventory.has_root_cg_set = true;
	inventory.root_cg_set = CGROUP_OWN_SET;
	code = image_put(d->state.images, "inventory", -1, &inventory.base);
	return code ? phaul_fail(d->state.err, code, "checkpoint", "writing the inventory") : 0;
}

static int take_threads(void *ctx, const struct image_set *threads, struct phaul_error *err)
{
	int code = image_set_merge(ctx, threads);

	return code ? phaul_fail(err, code, "checkpoint", "collecting threads") : 0;
}

/* What came after the check, when the process still ran. */
static int check_mappings(struct dump_to *d, pid_t pid, const struct memory_map *map)
{
	for (size_t i = 0; i < map->count; i++)
		if (map->at[i].kind == VMA_OTHER)
			return phaul_fail(d->state.err, -EOPNOTSUPP, "checkpoint", "pid %d has just mapped %s at %llx, which can't be "
					  "written to a directory", pid, map->at[i].path,
					  (unsigned long long)map->at[i].start);
	return 0;
}

static int put_living(struct dump_to *d, const struct task *task)
{
	struct thread_sink sink = { d->state.images, take_threads };
	struct memory_map map;
	remote_addr syscall_at;
	int code = memory_map_read(task->pid, true, &map, d->state.err);

	if (code)
		return code;
	code = remote_find_syscall(task->pid, &map, &syscall_at);
	if (code)
		phaul_fail(d->state.err, code, "checkpoint", "finding the vdso of pid %d, through which it is asked for its state",
			   task->pid);
	else
		code = check_mappings(d, task->pid, &map) ?: aio_settle(task->pid, &map, SETTLE_LIMIT_MS, d->state.err) ?:
		       tree_state_put(&d->state, task, syscall_at, memory_map_gap(&map), &map, &sink) ?:
		       put_memory(d, task->pid, &map);
	memory_map_free(&map);
	return code;
}

static int put_tree(struct dump_to *d)
{
	const struct tree *tree = d->state.tree;
	int code = 0;

	for (size_t i = 0; i < tree->count && !code; i++)
		code = tree->tasks[i].state == TASK_DEAD ? tree_state_put_dead(&d->state, &tree->tasks[i]) :
							   put_living(d, &tree->tasks[i]);
	return code ?: tree_state_put_queued(&d->state);
}

/* The tree is frozen, and stays so. On failure some images may be left. */
static int dump(const struct tree *tree, int directory, uint32_t flags, const char *cgroups, struct phaul_dumped *ret,
		struct phaul_error *err)
{
	struct dump_to d = {
		.state = { .tree = tree, .flags = flags, .images = image_set_new(), .err = err }, .ghosts = { .directory = directory },
	};
	int code;

	d.state.shmem = &d.shmem;
	d.state.pages = &d.pages;
	d.state.ghosts = &d.ghosts;
	d.state.cgroups = &d.cgroups;
	code = d.state.images ? page_writer_open(directory, d.state.images, &d.pages) : -ENOMEM;
	if (code)
		phaul_fail(err, code, "checkpoint", "collecting the state of pid %d", tree->tasks[0].pid);
	else
		code = cgroup_options_parse(cgroups, &d.cgroup_options, err) ?: tree_state_read(&d.state) ?: put_tree(&d) ?:
		       cgroup_sets_dump(&d.cgroups, &d.cgroup_options, d.state.images, err) ?: put_inventory(&d) ?:
		       image_set_save(d.state.images, directory, err);
	memset(ret, 0, sizeof(*ret));
	ret->pages = d.pages.pages;
	ret->processes = tree->count;
	for (size_t i = 0; i < tree->count; i++)
		ret->threads += tree->tasks[i].frozen.count;
	shmem_free(&d.shmem, false);
	ghost_set_free(&d.ghosts, !code);
	cgroup_options_free(&d.cgroup_options);
	cgroup_sets_free(&d.cgroups);
	if (d.state.images)
		page_writer_close(&d.pages);
	tree_state_free(&d.state, code || flags & PHAUL_LEAVE_RUNNING);
	return code;
}

int phaul_dump(int pid, int directory, uint32_t flags, const char *cgroups, int timeout_ms, struct phaul_dumped *ret,
	       struct phaul_error *err)
{
	struct tree tree;
	uint64_t since_ns = phaul_now_ns();
	int code = tree_freeze(pid, NULL, timeout_ms, &tree, err), thawed;

	memset(ret, 0, sizeof(*ret));
	if (code)
		return code;
	code = dump(&tree, directory, flags, cgroups, ret, err);
	if (!code && !(flags & PHAUL_LEAVE_RUNNING)) {
		tree_kill(&tree);
	} else {
		thawed = tree_thaw(&tree);
		if (!code && thawed)
			code = phaul_fail(err, thawed, "checkpoint", "letting pid %d go on", pid);
	}
	ret->frozen_ns = phaul_now_ns() - since_ns;
	return code;
}
