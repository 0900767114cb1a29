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
#include "objects/inet_socket.h"
#include "objects/unix_socket.h"
#include "page_file.h"
#include "shmem.h"
#include "state.h"
#include "track.h"

#define NAMESPACES 1		/* the id of all of them: those of phaul */

/* What the processes of a dump share. */
struct tree_dump {
	const struct tree *tree;
	uint32_t flags;
	struct image_set *images;
	struct page_writer pages;
	struct shmem_set shmem;
	struct ghost_set ghosts;
	struct descriptor_table *descriptors;	/* of those that live, in the tree's order; then ours, of what was in queues */
	struct unix_queues queues;
	struct paused_set paused;
	bool locked;			/* packets of connections are dropped */
	size_t descriptor_count;
	uint32_t next_file_id;
	struct phaul_error *err;
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

static int put_mappings(struct tree_dump *d, const struct memory_map *map, struct process_memory *m, int pagemap)
{
	struct range_list guards = {0};
	int err = page_writer_begin(&d->pages, "pagemap", m->pid);

	for (size_t i = 0; i < map->count && !err; i++) {
		struct range_list held = {0};

		/* What the kernel may drop any time is dropped. */
		if (vma_has_pages(&map->at[i]) && !(map->at[i].flags & VMA_DROPPABLE))
			err = pagemap_held(pagemap, &map->at[i], &held, &guards);
		if (map->at[i].kind == VMA_VDSO)
			err = range_list_add(&held, map->at[i].start, map->at[i].end);
		for (size_t n = 0; n < held.count && !err; n++)
			err = page_writer_put(&d->pages, held.at[n].address, held.at[n].pages, read_memory, m);
		range_list_free(&held);
	}
	err = err ? err : page_writer_end(&d->pages);
	if (!err && guards.count)
		err = image_put_raw(d->images, "phaul-guards", m->pid, guards.at, guards.count * sizeof(*guards.at));
	range_list_free(&guards);
	return err ? err : shmem_dump(map, &d->shmem, &d->pages);
}

static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return open(path, flags | O_CLOEXEC);
}

static int put_memory(struct tree_dump *d, pid_t pid, const struct memory_map *map)
{
	struct process_memory m = { .pid = pid, .mem = open_proc(pid, "mem", O_RDWR) };
	int pagemap = open_proc(pid, "pagemap", O_RDONLY);
	int code = pagemap < 0 || m.mem < 0 ? -errno : put_mappings(d, map, &m, pagemap);

	if (pagemap >= 0)
		close(pagemap);
	if (m.mem >= 0)
		close(m.mem);
	return code ? phaul_fail(d->err, code, "checkpoint", "writing the memory of pid %d", pid) : 0;
}

/* ---- the rest ---- */

/* The first that has it: the nearest ancestor that shares it with none. */
static pid_t first_of(const struct tree *tree, const struct task *task, bool files)
{
	while (task && (files ? task->shares_files : task->shares_fs)) {
		const struct task *parent = NULL;

		for (size_t i = 0; i < tree->count && !parent; i++)
			parent = tree->tasks[i].pid == task->ppid ? &tree->tasks[i] : NULL;
		task = parent;
	}
	return task ? task->pid : 0;
}

static void ids_of(const struct tree *tree, const struct task *task, TaskKobjIdsEntry *ids)
{
	ids->vm_id = ids->sighand_id = task->pid;
	ids->files_id = first_of(tree, task, true);
	ids->fs_id = first_of(tree, task, false);
	ids->has_pid_ns_id = ids->has_net_ns_id = ids->has_ipc_ns_id = ids->has_uts_ns_id = ids->has_mnt_ns_id = true;
	ids->pid_ns_id = ids->net_ns_id = ids->ipc_ns_id = ids->uts_ns_id = ids->mnt_ns_id = NAMESPACES;
	ids->has_user_ns_id = ids->has_cgroup_ns_id = ids->has_time_ns_id = true;
	ids->user_ns_id = ids->cgroup_ns_id = ids->time_ns_id = NAMESPACES;
}

static int put_inventory(struct tree_dump *d)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	int code;

	ids_of(d->tree, &d->tree->tasks[0], &ids);
	/* CRIU compares these with the tree's: they are those of the one who dumps. */
	ids.vm_id = ids.files_id = ids.fs_id = ids.sighand_id = INT32_MAX;
	inventory.img_version = IMAGES_VERSION;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = true;
	inventory.has_ns_per_id = inventory.ns_per_id = true;
	inventory.root_ids = &ids;
	code = image_put(d->images, "inventory", -1, &inventory.base);
	return code ? phaul_fail(d->err, code, "checkpoint", "writing the inventory") : 0;
}

/* What waits for its parent to take note of its end. */
static int put_dead(struct tree_dump *d, const struct task *task)
{
	struct frozen none = { .threads = &(struct frozen_thread){ .tid = task->pid }, .count = 1 };
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;
	int code;

	tc.task_state = task->state;
	tc.exit_code = task->exit_code;
	tc.comm = "";
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.tc = &tc;
	code = image_put(d->images, "core", task->pid, &core.base) ?: state_put_tree(d->images, task, &none);
	return code ? phaul_fail(d->err, code, "checkpoint", "writing the end of pid %d", task->pid) : 0;
}

static int take_threads(void *ctx, const struct image_set *threads, struct phaul_error *err)
{
	int code = image_set_merge(ctx, threads);

	return code ? phaul_fail(err, code, "checkpoint", "collecting threads") : 0;
}

/* What came after the check, when the process still ran. */
static int check_mappings(struct tree_dump *d, pid_t pid, const struct memory_map *map)
{
	for (size_t i = 0; i < map->count; i++)
		if (map->at[i].kind == VMA_OTHER)
			return phaul_fail(d->err, -EOPNOTSUPP, "checkpoint", "pid %d has just mapped %s at %llx, which can't be "
					  "written to a directory", pid, map->at[i].path,
					  (unsigned long long)map->at[i].start);
	return 0;
}

static int put_living(struct tree_dump *d, const struct task *task, struct descriptor_table *descriptors)
{
	struct thread_sink sink = { d->images, take_threads };
	struct state_of_tree place = {
		.task = task, .descriptors = descriptors, .next_file_id = d->next_file_id, .ghosts = &d->ghosts,
		.queues = &d->queues, .paused = &d->paused, .shmem = &d->shmem, .pages = &d->pages,
	};
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	struct memory_map map;
	remote_addr syscall_at;
	int code = memory_map_read(task->pid, true, &map, d->err);

	if (code)
		return code;
	ids_of(d->tree, task, &ids);
	code = remote_find_syscall(task->pid, &map, &syscall_at) ?: image_put(d->images, "ids", task->pid, &ids.base);
	if (code)
		phaul_fail(d->err, code, "checkpoint", "finding the vdso of pid %d, through which it is asked for its state",
			   task->pid);
	else
		code = check_mappings(d, task->pid, &map) ?:
		       state_dump(&task->frozen, syscall_at, memory_map_gap(&map), d->flags, &map, &place, d->images, &sink,
				  d->err) ?:
		       put_memory(d, task->pid, &map);
	d->next_file_id = place.next_file_id;
	memory_map_free(&map);
	return code;
}

static int read_descriptors(struct tree_dump *d)
{
	int code = 0;

	d->descriptors = calloc(d->tree->count + 1, sizeof(*d->descriptors));
	if (!d->descriptors)
		return phaul_fail(d->err, -ENOMEM, "checkpoint", "listing descriptors");
	for (size_t i = 0; i < d->tree->count && !code; i++) {
		const struct task *task = &d->tree->tasks[i];

		if (task->state == TASK_DEAD)
			continue;
		code = descriptors_read(task->pid, &d->descriptors[d->descriptor_count], d->err);
		d->descriptor_count += !code;
	}
	code = code ?: unix_queues_collect(&d->queues, d->descriptors, &d->descriptor_count, d->err);
	if (!code && descriptors_group(d->descriptors, d->descriptor_count))
		code = phaul_fail(d->err, -ENOMEM, "checkpoint", "comparing descriptors");
	d->next_file_id = 1;
	for (size_t i = 0; i < d->descriptor_count; i++)
		d->next_file_id += d->descriptors[i].count;	/* at least as many as there are ids */
	return code;
}

static int put_tree(struct tree_dump *d)
{
	struct descriptor_table *descriptors = d->descriptors;
	struct dump of_ours = {
		.flags = d->flags, .images = d->images, .ghosts = &d->ghosts, .queues = &d->queues, .paused = &d->paused,
		.shmem = &d->shmem, .pages = &d->pages, .err = d->err,
	};
	int code = 0;

	for (size_t i = 0; i < d->tree->count && !code; i++) {
		const struct task *task = &d->tree->tasks[i];

		code = task->state == TASK_DEAD ? put_dead(d, task) : put_living(d, task, descriptors++);
	}
	/* Those that wait in unix sockets come last. */
	of_ours.next_file_id = d->next_file_id;
	return code || !d->queues.fd_count ? code : descriptors_dump_queued(&of_ours, descriptors);
}

static int lock_connections(struct tree_dump *d)
{
	struct connection_pair *pairs = NULL;
	size_t count = 0;
	int code;

	if (!(d->flags & PHAUL_TCP_ESTABLISHED))
		return 0;
	code = inet_connections(d->descriptors, d->descriptor_count, &pairs, &count);
	if (code)
		phaul_fail(d->err, code, "checkpoint", "listing TCP connections");
	else if (count)
		code = network_lock(d->tree->tasks[0].pid, pairs, count, NULL, d->err);
	d->locked = !code && count;
	free(pairs);
	return code;
}

/* The tree is frozen, and stays so. On failure some images may be left. */
static int dump(const struct tree *tree, int directory, uint32_t flags, struct phaul_dumped *ret,
		struct phaul_error *err)
{
	struct tree_dump d = {
		.tree = tree, .flags = flags, .images = image_set_new(), .ghosts = { .directory = directory }, .err = err,
	};
	int code = d.images ? page_writer_open(directory, d.images, &d.pages) : -ENOMEM;
	bool unpaused;

	if (code)
		phaul_fail(err, code, "checkpoint", "collecting the state of pid %d", tree->tasks[0].pid);
	else
		code = read_descriptors(&d) ?: lock_connections(&d) ?: put_tree(&d) ?: put_inventory(&d) ?:
		       image_set_save(d.images, directory, err);
	memset(ret, 0, sizeof(*ret));
	ret->pages = d.pages.pages;
	ret->processes = tree->count;
	for (size_t i = 0; i < tree->count; i++)
		ret->threads += tree->tasks[i].frozen.count;
	for (size_t i = 0; i < d.descriptor_count; i++)
		descriptors_free(&d.descriptors[i]);
	free(d.descriptors);
	unix_queues_free(&d.queues);
	unpaused = code || flags & PHAUL_LEAVE_RUNNING;
	if (unpaused && d.locked)
		(void)network_unlock(tree->tasks[0].pid, NULL);
	paused_set_free(&d.paused, unpaused);
	shmem_free(&d.shmem, false);
	ghost_set_free(&d.ghosts, !code);
	if (d.images)
		page_writer_close(&d.pages);
	image_set_free(d.images);
	return code;
}

int phaul_dump(int pid, int directory, uint32_t flags, int timeout_ms, struct phaul_dumped *ret,
	       struct phaul_error *err)
{
	struct tree tree;
	uint64_t since_ns = phaul_now_ns();
	int code = tree_freeze(pid, timeout_ms, &tree, err), thawed;

	memset(ret, 0, sizeof(*ret));
	if (code)
		return code;
	code = dump(&tree, directory, flags, ret, err);
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
