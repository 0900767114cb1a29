/* restore.c - a process tree from a directory. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "ghost.h"
#include "inherit.h"
#include "inventory.h"
#include "layout.h"
#include "network_lock.h"
#include "objects/inet_connection.h"
#include "objects/memfd.h"
#include "objects/tty.h"
#include "objects/unix_socket.h"
#include "objects/watched.h"
#include "page_file.h"
#include "rebirth.h"

#define PAGE 4096ul

struct phaul_restore {
	struct image_set *images;
	int directory;
	struct chain chain;
	struct rebirth tree;
	size_t connection_count;
	struct network_hold hold;
	struct phaul_error *err;
};

/* ---- reading ---- */

/* All come from the host that the first comes from. */
static int know_origin(struct phaul_restore *r, struct reborn *task)
{
	struct rebirth *tree = &r->tree;
	int code = 0;

	if (!tree->origin) {
		tree->origin = calloc(1, sizeof(*tree->origin));
		code = tree->origin ? origin_read_checkpoint(r->images, &r->chain, reborn_pid(task), &task->layout.map, tree->origin, r->err) :
		       phaul_fail(r->err, -ENOMEM, "restore", "reading the vdso of pid %d", reborn_pid(task));
	}
	if (!code)
		origin_mark_foreign(tree->origin, &task->layout.map);
	return code;
}

/* Images don't tell what processes share: all that may be is given to the child, and what differs is written. */
static int read_maps(struct phaul_restore *r)
{
	for (size_t i = 0; i < r->tree.count; i++) {
		struct reborn *task = r->tree.tasks[i];
		const struct layout *parent = &r->tree.tasks[task->parent]->layout;
		struct layout *own = &task->layout;
		int code = task->state == TASK_DEAD ? 0 :
			   layout_read_map(r->images, reborn_pid(task), &r->tree.files, &own->map, r->err) ?:
			   shmem_note(&r->tree.shmem, &own->map, reborn_pid(task), r->err);

		code = code ?: task->state == TASK_DEAD ? 0 : know_origin(r, task);
		if (code)
			return code;
		if (i && task->state != TASK_DEAD && inherit_candidates(&parent->map, &own->map, &own->inherited))
			return phaul_fail(r->err, -ENOMEM, "restore", "comparing the mappings of pid %d with its parent's",
					  reborn_pid(task));
	}
	return 0;
}

static int read_all(struct phaul_restore *r)
{
	struct built_files *files = &r->tree.files;

	return rebirth_read(&r->tree, r->images) ?: rebirth_read_states(&r->tree, r->images) ?:
	       built_files_read(r->images, r->tree.tables, r->tree.table_count, files, r->err) ?:
	       ghosts_make(files, r->images, r->directory, NULL, r->err) ?: memfds_make(files, r->images, &r->chain, NULL, r->err) ?:
	       ttys_make(files, r->images, NULL, r->err) ?: read_maps(r);
}

/* ---- memory ---- */

struct placing {
	struct stage *stage;
	struct range_list held;		/* all that the process has */
};

/* The vdso is this kernel's own, or leads into it. */
static int place(void *ctx, uint64_t at, uint64_t pages, const uint8_t *bytes, struct phaul_error *err)
{
	struct placing *p = ctx;
	uint64_t end = at + pages * PAGE;
	int code = 0;

	while (at < end && !code) {
		const struct vma *vma = memory_map_find(&p->stage->layout, at);
		uint64_t until = vma && vma->end < end ? vma->end : end;

		if (!vma || vma->kind != VMA_VDSO)
			code = stage_pages_that_differ(p->stage, at, (until - at) / PAGE, bytes, err) ?:
			       range_list_add(&p->held, at, until);
		bytes += until - at;
		at = until;
	}
	return code;
}

/* phaul's dump leads threads out of the vdso, as far as that can be done; CRIU's doesn't. */
static int check_thread_left(struct phaul_restore *r, const struct reborn *task, pid_t tid, uint64_t vdso_at)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	uint64_t ip;

	if (image_read(r->images, "core", tid, &reader) || image_next(&reader, &core_entry__descriptor, &msg) != 1)
		return image_malformed("core", tid, r->err);
	ip = ((CoreEntry *)msg)->thread_info ? ((CoreEntry *)msg)->thread_info->gpregs->ip : 0;
	protobuf_c_message_free_unpacked(msg, NULL);
	if (ip < vdso_at || !vdso_is_overwritten(&r->tree.origin->vdso, ip - vdso_at))
		return 0;
	return phaul_fail(r->err, -EXDEV, "restore", "thread %d of pid %d was dumped at the beginning of a function of its kernel's vdso (%llx), "
			  "where this host's kernel, of another build, has other code: restore it on a host with the kernel that it was dumped "
			  "on", tid, reborn_pid(task), (unsigned long long)ip);
}

static int check_threads_left(struct phaul_restore *r, const struct reborn *task)
{
	const struct vma *vdso = memory_map_named(&task->stage.layout, "[vdso]");
	int code = 0;

	for (size_t i = 0; vdso && r->tree.origin->other_vdso && i < task->entry->n_threads && !code; i++)
		code = check_thread_left(r, task, task->entry->threads[i], vdso->start);
	return code;
}

/* Of a husk that was just made, and will have children. */
static int make_memory(void *ctx, struct reborn *task)
{
	struct phaul_restore *r = ctx;
	struct placing placing = { .stage = &task->stage };
	int code;

	if (task->state == TASK_DEAD)
		return 0;
	task->husk.origin = r->tree.origin;
	code = rebirth_stage(&r->tree, task);
	if (code)
		return code;
	code = stage_layout(&task->stage, &task->layout.map, r->err) ?: check_threads_left(r, task) ?: rebirth_lead_vdso(&r->tree, task) ?:
	       husk_threads(&task->husk, (pid_t *)task->entry->threads, task->entry->n_threads, r->err) ?:
	       page_file_read(&r->chain, "pagemap", reborn_pid(task), place, &placing, r->err);
	stage_filled(&task->stage);
	if (!code && task->stage.inherits)
		code = stage_keep(&task->stage, &placing.held, r->err);
	range_list_free(&placing.held);
	return code;
}

/* When all have their memory: a child would inherit them. */
static int make_guards(struct phaul_restore *r)
{
	int code = 0;

	for (size_t i = 0; i < r->tree.count && !code; i++) {
		struct reborn *task = r->tree.tasks[i];
		struct final_scan gone = {0};

		if (task->state == TASK_DEAD)
			continue;
		code = layout_read_guards(r->images, reborn_pid(task), &gone.guards, r->err);
		if (!code && stage_drop(&task->stage, &gone, r->err) < 0)
			code = r->err->code;
		range_list_free(&gone.guards);
	}
	return code;
}

/* ---- connections ---- */

/* Beside the lock that the dump has left, if it was on this host. */
static int hold_connections(struct phaul_restore *r)
{
	const struct moved_addresses none = {0};
	struct connection_pair *pairs = NULL;
	int code = inet_connections_of_images(&r->tree.files, &pairs, &r->connection_count);

	if (code)
		phaul_fail(r->err, code, "restore", "listing TCP connections");
	else if (r->connection_count && !(r->tree.files.flags & PHAUL_TCP_CLOSE))
		code = network_hold(&r->hold, reborn_pid(r->tree.tasks[0]), pairs, r->connection_count, &none, r->err);
	free(pairs);
	return code;
}

/* Packets may come in again, and the peers are told that we are there. */
static int unlock_connections(struct phaul_restore *r)
{
	int code = inet_restore_ends(&r->tree.files, r->err);

	if (!code && r->connection_count)
		code = network_unlock(reborn_pid(r->tree.tasks[0]), r->err);
	network_let_go(&r->hold);
	return code ? code : inet_resume(&r->tree.files, r->err);
}

/* ---- all of it ---- */

/* Criu's tell of none. */
static int choose_clocks(struct phaul_restore *r)
{
	struct clocks_told told = {0};
	int code = clocks_of_images(r->images, &told.least);

	if (code == -ENOENT)
		return 0;
	told.at = phaul_now_ns();
	return code ? image_malformed("phaul-clocks", -1, r->err) : clocks_offsets(&told, r->tree.clock_offsets, r->err);
}

/* All are complete afterwards, and held. */
static int build(struct phaul_restore *r)
{
	struct rebirth *tree = &r->tree;
	struct phaul_built built = {0};
	int code = inventory_check(r->images, r->directory, r->err) ?: image_set_check(r->images, r->err) ?: chain_open(r->directory, r->images, &r->chain, r->err) ?: read_all(r) ?:
		   hold_connections(r) ?: cgroups_read(&tree->cgroups, r->images, r->err) ?: cgroups_make(&tree->cgroups, r->err) ?:
		   shmem_make(&tree->shmem, r->images, &r->chain, r->err) ?: choose_clocks(r) ?: rebirth_make(tree, r->images) ?:
		   rebirth_settle(tree, r->images) ?: make_guards(r) ?: rebirth_place_threads(tree, r->images);

	if (code)
		return code;
	husk_join(&tree->tasks[0]->husk, true);
	code = rebirth_build(tree, r->images, &built);
	husk_join(&tree->tasks[0]->husk, false);
	return code;
}

void phaul_restore_said(struct phaul_restore *r, char *ret_text, size_t size)
{
	cgroups_said(&r->tree.cgroups, ret_text, size);
}

int phaul_restore_open(int directory, uint32_t flags, const char *cgroups, struct phaul_restore **ret, int *ret_pid,
		       struct phaul_error *err)
{
	struct phaul_restore *r = calloc(1, sizeof(*r));
	int code;

	*ret = NULL;
	if (!r)
		return phaul_fail(err, -ENOMEM, "restore", "reading the images");
	*r = (struct phaul_restore){
		.directory = directory, .tree = { .files.flags = flags, .populate = make_memory, .ctx = r, .err = err }, .err = err,
	};
	code = cgroup_options_parse(cgroups, &r->tree.cgroups.options, err) ?: image_set_load(directory, &r->images, err) ?: build(r);
	if (code) {
		phaul_restore_close(r);
		return code;
	}
	*ret_pid = reborn_pid(r->tree.tasks[0]);
	*ret = r;
	return 0;
}

static void stop_all(struct rebirth *tree)
{
	for (size_t i = 0; i < tree->count; i++)
		if (tree->tasks[i]->state == TASK_ALIVE) {
			tree->tasks[i]->state = TASK_STOPPED;
			tree->tasks[i]->stop_signal = SIGSTOP;
		}
}

int phaul_restore_release(struct phaul_restore *r, uint32_t flags, struct phaul_error *err)
{
	struct rebirth *tree = &r->tree;
	int code;

	r->err = tree->err = err;
	if (flags & PHAUL_LEAVE_STOPPED)
		stop_all(tree);
	code = memfds_seal(&tree->files, err) ?: cgroups_finish(&tree->cgroups, err) ?: unix_names_publish(&tree->files, err) ?: unlock_connections(r);
	if (!code)
		ghosts_forget_links(&tree->files, r->images);
	ghosts_keep_files(&tree->files, !code);
	watched_drain(&tree->files);
	return code ?: rebirth_release(tree);
}

void phaul_restore_close(struct phaul_restore *r)
{
	network_let_go(&r->hold);
	rebirth_free(&r->tree);
	chain_close(&r->chain);
	image_set_free(r->images);
	free(r);
}
