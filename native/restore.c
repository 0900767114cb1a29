/* restore.c - a process tree from a directory: a husk for each process, made by the one that shall be its parent;
 * then all memory, all threads, all descriptions, and at last all are let go.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"
#include "ghost.h"
#include "husk.h"
#include "layout.h"
#include "network_lock.h"
#include "objects/inet_socket.h"
#include "objects/memfd.h"
#include "objects/tty.h"
#include "objects/watched.h"
#include "objects/unix_socket.h"
#include "page_file.h"
#include "shmem.h"
#include "stage.h"
#include "state.h"

#define PAGE 4096ul
#define TASKS_MAX (1u << 20)

struct reborn {
	PstreeEntry *entry;
	size_t parent;			/* of the root: itself */
	enum task_state state;
	uint32_t files_id, fs_id;	/* the same numbers: they share it; 0: unknown */
	uint32_t exit_code;
	int stop_signal;		/* that it was stopped by, if it was */
	struct memory_map map;
	struct husk husk;
	struct stage stage;
	bool staged;
};

struct restore {
	struct image_set *images;
	int directory;
	struct reborn *tasks;		/* parents before their children */
	size_t count;
	pid_t *tables;			/* of descriptors, by their ids */
	size_t table_count;
	struct shmem_set shmem;
	struct built_files files;
	size_t connection_count;
	bool was_locked;		/* by the dump, on this host */
	struct phaul_error *err;
};

static pid_t pid_of(const struct reborn *task)
{
	return task->entry->pid;
}

/* ---- reading ---- */

static int find_parent(struct restore *r, struct reborn *task)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->tasks[i].entry->pid == task->entry->ppid && r->tasks[i].state != TASK_DEAD) {
			task->parent = i;
			return 0;
		}
	task->parent = r->count;
	return r->count ? -EPROTO : 0;
}

static int read_ids(struct restore *r, struct reborn *task)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;

	if (image_read(r->images, "ids", pid_of(task), &reader) ||
	    image_next(&reader, &task_kobj_ids_entry__descriptor, &msg) != 1)
		return image_malformed("ids", pid_of(task), r->err);
	task->files_id = ((TaskKobjIdsEntry *)msg)->files_id;
	task->fs_id = ((TaskKobjIdsEntry *)msg)->fs_id;
	protobuf_c_message_free_unpacked(msg, NULL);
	return 0;
}

static int read_core(struct restore *r, struct reborn *task)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	const CoreEntry *core;

	if (image_read(r->images, "core", pid_of(task), &reader) ||
	    image_next(&reader, &core_entry__descriptor, &msg) != 1)
		return image_malformed("core", pid_of(task), r->err);
	core = (CoreEntry *)msg;
	task->state = core->tc ? core->tc->task_state : 0;
	task->exit_code = core->tc ? core->tc->exit_code : 0;
	task->stop_signal = core->tc && core->tc->has_stop_signo ? core->tc->stop_signo : SIGSTOP;
	protobuf_c_message_free_unpacked(msg, NULL);
	if (task->state == TASK_DEAD)
		return 0;
	if (task->state != TASK_ALIVE && task->state != TASK_STOPPED)
		return image_malformed("core", pid_of(task), r->err);
	if (read_ids(r, task))
		return r->err->code;
	for (size_t i = 0; i < r->table_count; i++)
		if (r->tables[i] == (pid_t)task->files_id)
			return 0;
	r->tables[r->table_count++] = task->files_id;
	return 0;
}

static int add_task(struct restore *r, PstreeEntry *entry)
{
	struct reborn *tasks = reallocarray(r->tasks, r->count + 1, sizeof(*tasks));
	pid_t *tables = reallocarray(r->tables, r->count + 1, sizeof(*tables));
	struct reborn *task;

	r->tasks = tasks ? tasks : r->tasks;
	r->tables = tables ? tables : r->tables;
	if (!tasks || !tables || r->count == TASKS_MAX) {
		pstree_entry__free_unpacked(entry, NULL);
		return phaul_fail(r->err, -ENOMEM, "restore", "listing the processes");
	}
	task = &r->tasks[r->count];
	*task = (struct reborn){ .entry = entry };
	if (!entry->n_threads || entry->threads[0] != entry->pid || find_parent(r, task)) {
		pstree_entry__free_unpacked(entry, NULL);
		return image_malformed("pstree", -1, r->err);
	}
	r->count++;
	return read_core(r, task);
}

static int read_maps(struct restore *r)
{
	for (size_t i = 0; i < r->count; i++) {
		struct reborn *task = &r->tasks[i];

		if (task->state != TASK_DEAD && (layout_read_map(r->images, pid_of(task), &r->files, &task->map) ||
						 shmem_note(&r->shmem, &task->map)))
			return image_malformed("mm", pid_of(task), r->err);
	}
	return 0;
}

/* It is written last: without it the rest may be what a dump had written when it was killed. */
static int check_inventory(struct restore *r)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	uint32_t version;

	if (image_read(r->images, "inventory", -1, &reader) || image_next(&reader, &inventory_entry__descriptor, &msg) != 1)
		return image_malformed("inventory", -1, r->err);
	version = ((InventoryEntry *)msg)->img_version;
	protobuf_c_message_free_unpacked(msg, NULL);
	return version == IMAGES_VERSION ? 0 :
	       phaul_fail(r->err, -EPROTO, "restore", "inventory.img says version %u, and this phaul reads version %d: the images are of "
			  "another age", version, IMAGES_VERSION);
}

static int read_tree(struct restore *r)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	int more = 0, code = image_read(r->images, "pstree", -1, &reader) ? image_malformed("pstree", -1, r->err) : 0;

	while (!code && (more = image_next(&reader, &pstree_entry__descriptor, &msg)) > 0)
		code = add_task(r, (PstreeEntry *)msg);
	if (!code && (more < 0 || !r->count))
		code = image_malformed("pstree", -1, r->err);
	return code ? code : built_files_read(r->images, r->tables, r->table_count, &r->files, r->err) ?:
			     ghosts_make(&r->files, r->images, r->directory, r->err) ?:
			     memfds_make(&r->files, r->images, r->directory, r->err) ?:
			     ttys_make(&r->files, r->images, r->err) ?: read_maps(r);
}

/* ---- the tree ---- */

static int make(struct restore *r, size_t i);

/* Children that are no part of a session that their parent began were born before it did. */
static int make_children(struct restore *r, size_t of, bool elder)
{
	const struct reborn *parent = &r->tasks[of];
	int code = 0;

	for (size_t i = 1; i < r->count && !code; i++) {
		const PstreeEntry *entry = r->tasks[i].entry;
		bool older = entry->sid != entry->pid && entry->sid != parent->entry->sid;

		if (r->tasks[i].parent == of && older == elder)
			code = make(r, i);
	}
	return code;
}

static int end(struct restore *r, struct reborn *task)
{
	int code = husk_end(&task->husk, task->exit_code);

	return code ? phaul_fail(r->err, code, "restore", "ending process %d, which shall be a zombie", pid_of(task)) : 0;
}

static uint64_t shared_by_birth(const struct restore *r, const struct reborn *task)
{
	const struct reborn *parent = &r->tasks[task->parent];

	return (task->files_id && task->files_id == parent->files_id ? CLONE_FILES : 0) |
	       (task->fs_id && task->fs_id == parent->fs_id ? CLONE_FS : 0);
}

static int make(struct restore *r, size_t i)
{
	struct reborn *task = &r->tasks[i];
	pid_t pid = pid_of(task);
	int64_t session;
	int code = i ? husk_fork(&r->tasks[task->parent].husk, pid, shared_by_birth(r, task), &task->husk, r->err) :
		       husk_open(pid, &task->husk, r->err);

	if (!code)
		code = make_children(r, i, true);
	/* The root leads a session from the start. */
	if (!code && i && task->entry->sid == task->entry->pid) {
		session = remote_call(&task->husk.leader, SYS_setsid);
		code = session < 0 ? phaul_fail(r->err, session, "restore", "beginning session %d", pid) : 0;
	}
	return code ?: ttys_take(&r->files, r->images, &task->husk.leader, false, r->err) ?: make_children(r, i, false);
}

static int check_session(struct restore *r, const struct reborn *task)
{
	pid_t session = getsid(pid_of(task));

	if (session == (pid_t)task->entry->sid)
		return 0;
	return phaul_fail(r->err, -EOPNOTSUPP, "restore", "process %d belongs to session %u, whose leader is not in the "
			  "checkpoint", pid_of(task), task->entry->sid);
}

static int join_group(struct restore *r, struct reborn *task)
{
	uint32_t group = task->entry->pgid;
	int64_t code = getpgid(pid_of(task)) == (pid_t)group ? 0 :
		       remote_call(&task->husk.leader, SYS_setpgid, 0, group);

	return code < 0 ? phaul_fail(r->err, code, "restore", "making process %d a member of process group %u, whose "
				     "leader may have ended before the checkpoint", pid_of(task), group) : 0;
}

/* A group whose leader has ended, and was waited for, begins with one that stands in for it for a moment. */
static int make_group(struct restore *r, struct reborn *member)
{
	uint32_t group = member->entry->pgid;
	struct husk leader;
	int64_t code;

	for (size_t i = 0; i < r->count; i++)
		if (r->tasks[i].entry->pid == group)
			return 0;
	if (getpgid(pid_of(member)) == (pid_t)group)
		return 0;
	code = husk_fork(&member->husk, group, 0, &leader, r->err);
	if (code)
		return code;
	code = remote_call(&leader.leader, SYS_setpgid, 0, 0);
	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i].entry->pgid == group)
			code = remote_call(&r->tasks[i].husk.leader, SYS_setpgid, 0, group);
	if (code)
		phaul_fail(r->err, code, "restore", "beginning process group %u, whose leader had ended", group);
	code = code ?: husk_end(&leader, SIGKILL);
	husk_close(&leader);
	/* It is its parent's to take note of the end. */
	return code ? code : remote_call(&member->husk.leader, SYS_wait4, group, 0, __WALL, 0) == group ? 0 :
	       phaul_fail(r->err, -ECHILD, "restore", "ending the leader of process group %u", group);
}

static int make_tree(struct restore *r)
{
	int code = make(r, 0);

	for (size_t i = 0; i < r->count && !code; i++)
		code = check_session(r, &r->tasks[i]);
	for (int leaders = 1; leaders >= 0; leaders--)
		for (size_t i = 0; i < r->count && !code; i++)
			if ((r->tasks[i].entry->pgid == r->tasks[i].entry->pid) == leaders)
				code = leaders ? join_group(r, &r->tasks[i]) : make_group(r, &r->tasks[i]) ?:
				       join_group(r, &r->tasks[i]);
	for (size_t i = 0; i < r->count && !code; i++)
		code = ttys_take(&r->files, r->images, &r->tasks[i].husk.leader, true, r->err);
	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i].state == TASK_DEAD)
			code = end(r, &r->tasks[i]);
	return code;
}

/* ---- memory ---- */

/* The vdso is this kernel's own; in images it is for CRIU, which looks at what it was. */
static int place(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err)
{
	struct stage *stage = ctx;
	uint64_t end = at + pages * PAGE;
	int code = 0;

	while (at < end && !code) {
		const struct vma *vma = memory_map_find(&stage->layout, at);
		uint64_t until = vma && vma->end < end ? vma->end : end;
		struct page_extent extent = { at, (until - at) / PAGE, 0 };

		if (!vma || vma->kind != VMA_VDSO)
			code = stage_pages(stage, 1, &extent, 1, bytes, err);
		bytes += until - at;
		at = until;
	}
	return code;
}

static int make_memory(struct restore *r, struct reborn *task)
{
	struct final_scan gone = {0};
	int code = stage_open(&task->stage, &task->husk, r->err);

	if (code)
		return code;
	task->staged = true;
	task->stage.shmem = &r->shmem;
	code = stage_layout(&task->stage, &task->map, r->err) ?:
	       husk_threads(&task->husk, (pid_t *)task->entry->threads, task->entry->n_threads, r->err);
	if (code)
		return code;
	stage_open_round(&task->stage, 1);
	code = page_file_read(r->images, r->directory, "pagemap", pid_of(task), place, &task->stage, r->err);
	stage_filled(&task->stage);
	if (code)
		return code;
	if (layout_read_guards(r->images, pid_of(task), &gone.guards))
		code = image_malformed("phaul-guards", pid_of(task), r->err);
	else if (stage_drop(&task->stage, &gone, r->err) < 0)
		code = r->err->code;
	range_list_free(&gone.guards);
	return code;
}

/* ---- connections ---- */

static int lock_connections(struct restore *r)
{
	struct connection_pair *pairs = NULL;
	int code = inet_connections_of_images(&r->files, &pairs, &r->connection_count);

	if (code)
		phaul_fail(r->err, code, "restore", "listing TCP connections");
	else if (r->connection_count && !(r->files.flags & PHAUL_TCP_CLOSE))
		code = network_lock(pid_of(&r->tasks[0]), pairs, r->connection_count, &r->was_locked, r->err);
	free(pairs);
	return code;
}

/* Packets may come in again, and the peers are told that we are there. */
static int unlock_connections(struct restore *r)
{
	int code = r->connection_count ? network_unlock(pid_of(&r->tasks[0]), r->err) : 0;

	return code ? code : inet_resume(&r->files, r->err);
}

/* ---- all of it ---- */

/* The first that has a table makes it for all. */
static int64_t table_of(const struct restore *r, size_t i)
{
	for (size_t n = 0; n < i; n++)
		if (r->tasks[n].state != TASK_DEAD && r->tasks[n].files_id == r->tasks[i].files_id)
			return -1;
	return r->tasks[i].files_id;
}

static int restore(struct restore *r)
{
	struct phaul_built built = {0};
	int code = check_inventory(r) ?: read_tree(r) ?: lock_connections(r) ?: shmem_make(&r->shmem, r->images, r->directory, r->err) ?: make_tree(r);

	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i].state != TASK_DEAD)
			code = make_memory(r, &r->tasks[i]);
	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i].state != TASK_DEAD)
			code = state_build_first(&r->tasks[i].husk, r->images, &r->files, r->err);
	for (size_t i = 0; i < r->count && !code; i++) {
		struct husk *husk = &r->tasks[i].husk;

		if (r->tasks[i].state == TASK_DEAD)
			continue;
		husk_join(husk, true);
		code = state_build_threads(husk, r->images, r->err) ?:
		       state_build(husk, r->images, &r->files, table_of(r, i), &built, r->err);
		husk_join(husk, false);
	}
	code = code ?: memfds_seal(&r->files, r->err) ?: unix_names_publish(&r->files, r->err) ?: unlock_connections(r);
	if (!code)
		ghosts_forget_links(&r->files, r->images);
	ghosts_keep_files(&r->files, !code);
	watched_drain(&r->files);
	for (size_t i = 0; i < r->count && !code; i++) {
		struct reborn *task = &r->tasks[i];

		if (task->state == TASK_STOPPED)
			(void)kill(pid_of(task), task->stop_signal);
		if (task->state != TASK_DEAD)
			code = husk_release(&task->husk, r->err);
	}
	return code;
}

static void forget(struct restore *r, bool released)
{
	for (size_t i = r->count; i-- > 0; ) {
		struct reborn *task = &r->tasks[i];

		if (task->staged) {
			stage_shut(&task->stage);
			stage_close(&task->stage);
		}
		memory_map_free(&task->map);
		/* Nobody's any more. */
		if (released)
			task->husk.pid = 0;
		husk_close(&task->husk);
		pstree_entry__free_unpacked(task->entry, NULL);
	}
	free(r->tasks);
	free(r->tables);
	shmem_free(&r->shmem, released);
	built_files_free(&r->files);
	image_set_free(r->images);
}

int phaul_restore(int directory, uint32_t flags, int *ret_pid, struct phaul_error *err)
{
	struct restore r = { .directory = directory, .files.flags = flags, .err = err };
	int code = image_set_load(directory, &r.images, err) ?: restore(&r);

	if (!code)
		*ret_pid = pid_of(&r.tasks[0]);
	else if (r.connection_count && !r.was_locked)
		(void)network_unlock(pid_of(&r.tasks[0]), NULL);
	forget(&r, !code);
	return code;
}
