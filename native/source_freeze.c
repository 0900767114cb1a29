/* source_freeze.c - the freeze: last pages, and all else that the processes are. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "handshakes.h"
#include "leave.h"
#include "objects/aio.h"
#include "objects/clocks.h"
#include "source.h"

#define QUIESCE_STEP_US 1000	/* a handshake on a local network, and then some */
#define YIELDS_MAX 15		/* for what a program is about to read; one that never does moves all the same */
#define SETTLE_LIMIT_MS 100	/* for requests to disks, in the freeze; afterwards the process goes on for a moment */
#define INHERITED_IN_FREEZE_MAX 16384u	/* pages of children that are new then: to compare them takes some 5 ms */

/* That are no file's, and no shared memory's. */
static uint64_t private_pages(pid_t pid)
{
	unsigned long size, resident = 0, shared = 0;
	char path[32];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	f = fopen(path, "re");
	if (f && fscanf(f, "%lu %lu %lu", &size, &resident, &shared) != 3)
		resident = shared = 0;
	if (f)
		fclose(f);
	return resident - shared;
}

int64_t phaul_source_quiesce(struct phaul_source *src, int timeout_ms, struct phaul_error *err)
{
	uint64_t deadline = phaul_now_ns() + timeout_ms * 1000000ull;
	int code, left = 0;

	if (!(src->flags & PHAUL_TCP_ESTABLISHED) || !src->addresses.count || src->caught >= 0)
		return 0;
	src->caught = packets_catch_new(&src->addresses);
	src->caught_new = src->caught >= 0;
	/* What would be dropped for good is let in. */
	code = src->caught < 0 ? 0 : network_hold_new(&src->hold, src->pid, &src->addresses, err);
	while (!code && src->caught >= 0 && (left = handshakes_count(&src->addresses)) > 0 && phaul_now_ns() < deadline)
		usleep(QUIESCE_STEP_US);
	return code ? code : left > 0 ? left : 0;
}

/* What it has, and what of that its parent's husk has not. */
static void add_fresh(const struct member *m, const struct member *parent, struct phaul_freeze *ret)
{
	struct range_list candidates = {0}, shared = {0};
	struct inherit_from from = { &parent->told, &(struct range_list){0}, parent->tracker.pagemap, true };
	uint64_t pages = private_pages(m->task.pid);
	struct memory_map map = {0};
	int pagemap;
	char path[32];

	ret->fresh_pages += pages;
	ret->fresh_own_pages += pages;
	if (!parent->told.count || parent->tracker.kind != &tracker_uffd || ret->fresh_pages > INHERITED_IN_FREEZE_MAX ||
	    memory_map_read(m->task.pid, false, &map, NULL))
		return;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", m->task.pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap >= 0 && !inherit_candidates(from.told, &map, &candidates) &&
	    !inherit_find(&from, &map, pagemap, &candidates, &shared))
		ret->fresh_own_pages -= shared.pages < pages ? shared.pages : pages;
	if (pagemap >= 0)
		close(pagemap);
	memory_map_free(&map);
	range_list_free(&candidates);
	range_list_free(&shared);
}

/* Whose threads stand in the middle of code that the target's kernel hasn't got. */
static int leave_own_code(struct phaul_source *src, struct phaul_error *err)
{
	return src->flags & PHAUL_OTHER_KERNEL ? leave_vdsos(&src->tree, err) : 0;
}

int phaul_source_freeze(struct phaul_source *src, int timeout_ms, struct phaul_freeze *ret,
			struct phaul_error *err)
{
	int code;

	memset(ret, 0, sizeof(*ret));
	code = tree_freeze(src->pid, &src->seen, timeout_ms, &src->tree, err);
	if (code)
		return code;
	ret->frozen_at_ns = src->tree.tasks[0].frozen.since_ns;
	ret->stop_ns = phaul_now_ns() - ret->frozen_at_ns;
	code = source_take_tree(src, &src->tree);
	ret->processes = src->count;
	for (size_t i = 0; i < src->count; i++) {
		const struct member *m = &src->members[i];

		ret->threads += src->tree.tasks[i].frozen.count;
		if (m->is_new && m->task.state != TASK_DEAD)
			add_fresh(m, member_find(src->members, i, m->task.ppid) ?: m, ret);
	}
	if (code == -EAGAIN)
		ret->fresh_pages = ret->fresh_own_pages = ~0ull;
	else if (code)
		return phaul_fail(err, code, "source", "listing the processes below pid %d", src->pid);
	/* Before anybody compares memory. What can't be done now is tried again by phaul_source_final(). */
	code = leave_own_code(src, err);
	return code == -EAGAIN ? 0 : code;
}

/* Those that no round knew. Their threads make system calls for it, and the kernel may write to their rseq areas when they
 * do: afterwards their memory stays as it is. */
int source_track_new(struct phaul_source *src, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < src->count && !code; i++) {
		struct member *m = &src->members[i];
		const struct frozen *frozen = &src->tree.tasks[i].frozen;
		struct remote leader;

		if (m->task.state == TASK_DEAD || m->tracked)
			continue;
		code = member_prepare(src, m, err);
		remote_begin_with(&leader, m->task.pid, m->syscall_at, &frozen->threads[0].regs, frozen->threads[0].mask);
		code = code ?: member_track(src, m, &leader, err);
	}
	return code;
}

static int final_scan(struct phaul_source *src, struct member *m, struct phaul_error *err)
{
	int code = member_look(src, m, true, err) ?: m->tracker.kind->final(&m->tracker, &m->known, &m->gone, err);

	/* The kernel writes to rings by ways that no tracker sees. */
	for (size_t i = 0; i < m->known.count && !code; i++)
		if (m->known.at[i].kind == VMA_AIO && range_list_add(&m->gone.dirty, m->known.at[i].start, m->known.at[i].end))
			code = phaul_fail(err, -ENOMEM, "source", "listing pages of pid %d", m->task.pid);
	return code;
}

void source_close_caught(struct phaul_source *src)
{
	if (src->caught >= 0)
		close(src->caught);
	src->caught = -ENOENT;
}

struct note_sink {
	struct phaul_channel *channel;
	uint64_t bytes;			/* sent so far */
};

static int send_threads(void *ctx, const struct image_set *images, struct phaul_error *err)
{
	struct note_sink *sink = ctx;

	return source_send_images(sink->channel, PHAUL_NOTE_THREADS, images, &sink->bytes, err);
}

static int send_state(struct phaul_source *src, struct phaul_channel *ch, struct phaul_freeze *ret, struct phaul_error *err)
{
	struct note_sink threads = { ch, 0 };
	struct thread_sink sink = { &threads, send_threads };
	struct tree_state *s = &src->state;
	int code = 0;

	for (size_t i = 0; i < src->count && !code; i++) {
		const struct member *m = &src->members[i];
		const struct task *task = &src->tree.tasks[i];

		code = task->state == TASK_DEAD ? tree_state_put_dead(s, task) :
		       tree_state_put(s, task, m->syscall_at, memory_map_gap(&m->known), NULL, &sink);
	}
	if (!code && clocks_put(s->images, src->pid))
		code = phaul_fail(err, -EIO, "source", "reading the clocks of pid %d", src->pid);
	code = code ?: tree_state_put_queued(s) ?: source_send_images(ch, PHAUL_NOTE_STATE, s->images, &ret->state_bytes, err);
	ret->state_bytes += threads.bytes;
	return code;
}

int phaul_source_final(struct phaul_source *src, struct phaul_channel *ch, struct phaul_freeze *ret,
		       struct phaul_error *err)
{
	uint64_t at = phaul_now_ns();
	int64_t shared;
	int code = leave_own_code(src, err);

	if (code)
		return code;
	src->round++;
	src->state = (struct tree_state){
		.tree = &src->tree, .queues.may_wait = src->yields < YIELDS_MAX, .flags = src->flags, .stdio = src->stdio, .images = image_set_new(),
		.shmem = &src->dumped, .ghosts = &src->ghosts,
		.hold = &src->hold, .addresses = &src->addresses, .err = err,
	};
	/* Before they are dropped. What can't be caught is sent again by its senders. */
	if (src->caught_new && packets_catch_all(src->caught, &src->addresses))
		source_close_caught(src);
	src->caught_new = false;
	if (src->caught < 0)
		src->caught = packets_catch(&src->addresses);
	shmem_free(&src->dumped, false);
	ghost_set_free(&src->ghosts, true);
	src->ghosts = (struct ghost_set){ .directory = -1, .sent = &src->shared };
	code = src->state.images ? tree_state_read(&src->state) : phaul_fail(err, -ENOMEM, "source", "collecting the state");
	code = code ?: source_track_new(src, err);
	for (size_t i = 0; i < src->count && !code; i++)
		code = aio_settle(src->members[i].task.pid, &src->members[i].known, SETTLE_LIMIT_MS, err);
	for (size_t i = 0; i < src->count && !code; i++)
		if (src->members[i].task.state != TASK_DEAD)
			code = final_scan(src, &src->members[i], err);
	shared = code ? code : shared_track_scan(&src->shared, err);
	code = shared < 0 ? shared : source_find_inherited(src, true, &ret->last.pages_inherited, err);
	ret->scan_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	code = code ?: source_send_layout(src, ch, true, err) ?: source_send_pages(src, ch, true, &ret->last, err);
	ret->send_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	code = code ?: send_state(src, ch, ret, err);
	ret->dump_ns = phaul_now_ns() - at;
	return code;
}
