#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "error.h"
#include "objects/descriptors.h"
#include "objects/mm.h"
#include "objects/object.h"
#include "objects/parts.h"
#include "objects/proc_status.h"
#include "objects/unix_socket.h"
#include "threads.h"

#define PARTS_MAX 16
#define CALLS_OF_PARTS 2048	/* 64 signal handlers, timers by the hundred */
#define AREA_OF_PARTS (CALLS_OF_PARTS * 64 + (1 << 17))

/* ---- dump ---- */

/* One batch of the leader serves all parts. */
static int ask_parts(struct dump *d, struct remote *leader, CoreEntry *core)
{
	void *answers[PARTS_MAX] = { NULL };
	struct batch b;
	int brk, code;

	code = batch_begin(&b, d->area, leader, CALLS_OF_PARTS);
	brk = batch_call(&b, "tell its brk", SYS_brk, 0);
	for (size_t i = 0; process_parts[i] && !code; i++)
		if (process_parts[i]->ask)
			code = process_parts[i]->ask(d, &b, &answers[i]);
	if (code)
		phaul_fail(d->err, code, "state", "preparing the questions to pid %d", d->pid);
	else
		code = batch_run(&b, 1, d->err) ?: batch_check(&b, d->err);
	for (size_t i = 0; process_parts[i] && !code; i++) {
		if (process_parts[i]->dump)
			code = process_parts[i]->dump(d, &b, answers[i], core);
		if (code && d->err && d->err->code != code)
			phaul_fail(d->err, code, "state", "reading the %s of pid %d",
				   process_parts[i]->name, d->pid);
	}
	if (!code)
		code = mm_dump(d, batch_result(&b, brk));
	batch_free(&b);
	return code;
}

struct dump_block {
	struct dump_block *next;
	uint64_t bytes[];
};

void *dump_alloc(struct dump *d, size_t size)
{
	struct dump_block *block = calloc(1, sizeof(*block) + size);

	if (!block)
		return NULL;
	block->next = d->blocks;
	d->blocks = block;
	return block->bytes;
}

void dump_free(struct dump *d)
{
	for (struct dump_block *block = d->blocks, *next; block; block = next) {
		next = block->next;
		free(block);
	}
	d->blocks = NULL;
}

int state_put_tree(struct image_set *to, const struct task *task, const pid_t *tids, size_t count)
{
	PstreeEntry tree = PSTREE_ENTRY__INIT;

	tree.pid = task->pid;
	tree.ppid = task->ppid;
	tree.pgid = task->pgid;
	tree.sid = task->sid;
	tree.n_threads = count;
	tree.threads = (uint32_t *)tids;
	return image_put(to, "pstree", -1, &tree.base);
}

static int put_tree(struct dump *d, const struct task *task, const struct frozen *f)
{
	pid_t *tids = dump_alloc(d, f->count * sizeof(*tids));

	if (!tids)
		return -ENOMEM;
	for (size_t i = 0; i < f->count; i++)
		tids[i] = f->threads[i].tid;
	return state_put_tree(d->images, task, tids, f->count);
}

/* Threads come before descriptors: the other side builds them meanwhile. */
static int dump_all(struct dump *d, const struct frozen *f, struct remote *leader,
		    struct state_of_tree *place, const struct thread_sink *sink)
{
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;
	int code;

	d->descriptors = place->descriptors;
	d->shares_files = place->task->shares_files;
	d->next_file_id = place->next_file_id;
	d->ghosts = place->ghosts;
	d->mapped = place->mapped;
	d->queues = place->queues;
	d->shmem = place->shmem;
	d->pages = place->pages;
	d->paused = place->paused;
	d->cgroups = place->cgroups;
	tc.task_state = place->task->state;
	tc.has_stop_signo = f->stop_signal != 0;
	tc.stop_signo = f->stop_signal;
	tc.comm = "";
	core.tc = &tc;
	tc.blk_sigset = leader->saved_mask;
	code = ask_parts(d, leader, &core) ?: threads_dump(d, f, leader, &core, sink) ?: descriptors_ask(d, leader) ?: descriptors_dump(d);
	place->next_file_id = d->next_file_id;
	return code ? code : put_tree(d, place->task, f);
}

static void choose_signal(struct remote *leader)
{
	struct proc_status s;

	if (!proc_status_read(leader->tid, leader->tid, &s))
		remote_choose_signal(leader, proc_status_set(&s, "SigCgt"),
				     proc_status_set(&s, "ShdPnd") | proc_status_set(&s, "SigPnd"));
}

int state_dump(const struct frozen *f, remote_addr syscall_at, remote_addr area_hint, uint32_t flags,
	       const struct memory_map *map, struct state_of_tree *tree, struct image_set *to,
	       const struct thread_sink *sink, struct phaul_error *err)
{
	struct dump d = { .pid = f->pid, .ns_pid = f->pid, .flags = flags, .map = map, .images = to, .err = err };
	size_t size = (AREA_OF_PARTS + threads_area_size(f->count) + 8191) & ~4095ul;
	struct remote_area area = {0};
	struct remote leader;
	int code, unmapped;

	remote_begin_with(&leader, f->pid, syscall_at, &f->threads[0].regs, f->threads[0].mask);
	choose_signal(&leader);
	d.area = &area;
	code = remote_area_map(&leader, area_hint, size, &area);
	if (code)
		phaul_fail(err, code, "state", "mapping a batch area in pid %d", f->pid);
	else
		code = dump_all(&d, f, &leader, tree, sink);
	unmapped = remote_area_unmap(&leader, &area);
	if (!code && unmapped)
		code = phaul_fail(err, unmapped, "state", "unmapping the batch area in pid %d", f->pid);
	(void)remote_end(&leader);
	dump_free(&d);
	return code;
}

/* ---- build ---- */

static bool core_ok(const CoreEntry *core, bool leader)
{
	return core->thread_core && core->thread_info && core->thread_info->gpregs &&
	       (core->thread_info->has_phaul_xstate || core->thread_info->fpregs) && (core->tc || !leader);
}

static int get_core(const struct image_set *images, pid_t tid, bool leader, struct thread_image *ret, struct phaul_error *err)
{
	struct image_reader r;
	ProtobufCMessage *msg = NULL;
	int code;

	ret->tid = tid;
	if (image_read(images, "core", tid, &r) || image_next(&r, &core_entry__descriptor, &msg) != 1)
		return image_malformed("core", tid, err);
	ret->core = (CoreEntry *)msg;
	if (!core_ok(ret->core, leader))
		return image_wrong("core", tid, err, "thread_core, thread_info with gpregs and fpregs, or tc is missing");
	code = seccomp_from_criu(images, ret->core);
	return code == -EPROTO ? image_wrong("core", tid, err, "thread_core.seccomp_filter leads to no chain of filters in seccomp.img") :
	       code ? phaul_fail(err, code, "state", "reading the seccomp filters of thread %d", tid) : 0;
}

/* Of the threads' "core-TID" images, the leader's aside. */
static int get_cores(struct husk *h, const struct image_set *images, struct thread_image *threads,
		     size_t *ret_count, struct phaul_error *err)
{
	const char *name;
	int code = 0;

	*ret_count = 0;
	for (size_t i = 0; !code && (name = image_set_name(images, i)); i++) {
		int tid, length = 0;

		if (sscanf(name, "core-%d%n", &tid, &length) != 1 || name[length] || tid == h->pid)
			continue;
		/* Of another process of the tree. Whether all of ours are there is seen at the end. */
		if (!husk_thread(h, tid))
			continue;
		if (*ret_count == h->thread_count)
			return image_wrong("core", tid, err, "it is one more than the process has threads");
		code = get_core(images, tid, false, &threads[(*ret_count)++], err);
	}
	return code;
}

int state_build_threads(struct husk *h, const struct image_set *from, struct phaul_error *err)
{
	struct build b = { .pid = h->pid, .images = from, .leader = &h->leader, .area = &h->area, .err = err };
	struct thread_image *threads = calloc(h->thread_count + 1, sizeof(*threads));
	size_t count = 0;
	int code = threads ? get_cores(h, from, threads, &count, err) :
			     phaul_fail(err, -ENOMEM, "state", "reading the threads of pid %d", h->pid);

	code = code ?: threads_build(&b, h, threads, count) ?: threads_arm(h, threads, count, err);
	for (size_t i = 0; i < count; i++)
		if (threads[i].core)
			core_entry__free_unpacked(threads[i].core, NULL);
	free(threads);
	dump_free(&b.scratch);
	return code;
}

static int build_parts(struct build *b, const CoreEntry *core)
{
	struct batch batch;
	int code;

	remote_area_reset(b->area);
	remote_choose_signal(b->leader, 0, signals_pending(core));
	code = batch_begin(&batch, b->area, b->leader, CALLS_OF_PARTS);
	for (size_t i = 0; process_parts[i] && !code; i++) {
		if (!process_parts[i]->build)
			continue;
		code = process_parts[i]->build(b, &batch, core);
		if (code == -EPROTO && b->err && b->err->code != code)
			image_wrong("core", b->pid, b->err, "tc: the %s are malformed", process_parts[i]->name);
		else if (code && b->err && b->err->code != code)
			phaul_fail(b->err, code, "state", "building the %s of pid %d",
				   process_parts[i]->name, b->pid);
	}
	if (!code)
		code = batch_run(&batch, 1, b->err) ?: batch_check(&batch, b->err);
	batch_free(&batch);
	return code;
}

static int all_built(const struct husk *h, struct phaul_error *err)
{
	for (size_t i = 0; i < h->thread_count; i++)
		if (h->threads[i].begun)
			return image_malformed("core", h->threads[i].tid, err);
	return 0;
}

static int build_all(struct husk *h, struct build *b, const struct thread_image *leader, struct phaul_built *ret)
{
	uint64_t at = phaul_now_ns();
	uint32_t descriptors = 0;
	int code = mm_read_settings(b) ?: descriptors_build(b, &descriptors);

	ret->files_ns += phaul_now_ns() - at;
	ret->descriptors += descriptors;
	if (!code)
		code = build_parts(b, leader->core) ?: threads_build(b, h, leader, 1);
	if (code)
		return code;
	code = remote_area_unmap(&h->leader, &h->area);
	if (code)
		return phaul_fail(b->err, code, "state", "unmapping the batch area in pid %d", h->pid);
	return threads_arm(h, leader, 1, b->err);
}

int state_build_first(struct husk *h, const struct image_set *from, struct built_files *files, struct phaul_error *err)
{
	struct build b = {
		.pid = h->pid, .images = from, .leader = &h->leader, .area = &h->area, .files = files, .err = err,
	};
	struct thread_image leader = { 0 };
	int code = get_core(from, h->pid, true, &leader, err) ?: mm_build(&b) ?: loginuid_build(&b, leader.core);

	if (leader.core)
		core_entry__free_unpacked(leader.core, NULL);
	return code;
}

int state_build(struct husk *h, const struct image_set *from, struct built_files *files, int64_t table, struct phaul_built *ret,
		struct phaul_error *err)
{
	struct build b = {
		.pid = h->pid, .images = from, .leader = &h->leader, .area = &h->area, .files = files, .table = table, .err = err,
	};
	struct thread_image leader = { 0 };
	int code = all_built(h, err) ?: get_core(from, h->pid, true, &leader, err) ?: build_all(h, &b, &leader, ret);

	if (leader.core)
		core_entry__free_unpacked(leader.core, NULL);
	ret->threads += 1 + h->thread_count;
	dump_free(&b.scratch);
	return code;
}
