/* source.c - one process that leaves: tracked, copied round by round, frozen, and gone or given back. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel.h"
#include "checksum.h"
#include "error.h"
#include "freeze.h"
#include "layout.h"
#include "objects/proc_status.h"
#include "state.h"
#include "track.h"

#define ARM_TIMEOUT_MS 2000	/* to stop one thread for a moment; longer means it hangs in the kernel */

struct phaul_source {
	pid_t pid;
	uint32_t flags, round;
	int mem;			/* /proc/PID/mem */
	remote_addr syscall_at;
	struct tracker tracker;
	struct memory_map known;	/* of the last round, with flags */
	struct frozen frozen;
	bool map_is_settled;		/* `known` was the same for two rounds */
	bool is_frozen, committed;
	struct range_list dirty;
	struct final_scan gone;
};

int phaul_abi_version(void)
{
	return PHAUL_ABI_VERSION;
}

int phaul_source_open(int pid, uint32_t flags, struct phaul_source **ret, struct phaul_error *err)
{
	struct phaul_source *src = calloc(1, sizeof(*src));
	char path[32];
	int code;

	if (!src)
		return phaul_fail(err, -ENOMEM, "source", "opening pid %d", pid);
	src->pid = pid;
	src->flags = flags;
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	src->mem = open(path, O_RDWR | O_CLOEXEC);
	if (src->mem < 0) {
		code = phaul_fail(err, -errno, "source", "opening %s", path);
		goto fail;
	}
	code = memory_map_read(pid, true, &src->known, err);
	if (code)
		goto fail;
	code = remote_find_syscall(pid, &src->known, &src->syscall_at);
	if (code) {
		phaul_fail(err, code, "source", "finding the vdso of pid %d, through which it would be asked "
			   "for its state", pid);
		goto fail;
	}
	*ret = src;
	return 0;
fail:
	phaul_source_close(src);
	return code;
}

int phaul_source_arm(struct phaul_source *src, uint64_t *ret_stop_ns, struct phaul_error *err)
{
	uint64_t start = phaul_now_ns();
	struct frozen leader;
	struct remote r;
	int code = freeze_leader(src->pid, ARM_TIMEOUT_MS, &leader, err);

	if (code)
		return code;
	code = remote_begin(&r, src->pid, src->syscall_at);
	if (code)
		phaul_fail(err, code, "source", "borrowing the main thread of pid %d", src->pid);
	else
		code = tracker_open(&src->tracker, src->pid, &r, err);
	(void)remote_end(&r);
	(void)thaw(&leader);
	*ret_stop_ns = phaul_now_ns() - start;
	return code;
}

static int list_threads(struct phaul_source *src, struct layout *to)
{
	const struct frozen *f = &src->frozen;

	if (!src->is_frozen)
		return threads_list(src->pid, &to->tids, &to->tid_count);
	to->tids = calloc(f->count, sizeof(*to->tids));
	if (!to->tids)
		return -ENOMEM;
	for (size_t i = 0; i < f->count; i++)
		to->tids[to->tid_count++] = f->threads[i].tid;
	return 0;
}

static uint32_t descriptor_room(struct phaul_source *src)
{
	struct proc_status s;
	long long room = proc_status_read(src->pid, src->pid, &s) ? 0 : proc_status_number(&s, "FDSize");

	return room > 0 ? room : 0;
}

static int send_layout(struct phaul_source *src, struct phaul_channel *ch, const struct memory_map *map,
		       const struct final_scan *gone, struct phaul_error *err)
{
	struct layout layout = { .round = src->round, .map = *map, .descriptor_room = descriptor_room(src) };
	uint8_t *bytes = NULL;
	size_t size;
	int code = list_threads(src, &layout);

	if (code)
		return phaul_fail(err, code, "source", "listing the threads of pid %d", src->pid);
	code = layout_pack(src->pid, &layout, gone, &bytes, &size, err);
	if (!code)
		code = phaul_note_send(ch, PHAUL_NOTE_LAYOUT, bytes, size, err);
	free(bytes);
	free(layout.tids);
	return code;
}

static int send_pages(struct phaul_source *src, struct phaul_channel *ch, const struct range_list *dirty,
		      bool frozen, struct phaul_round *ret, struct phaul_error *err)
{
	struct pages_stats stats = {0};
	int code = pages_send(ch, src->pid, src->mem, dirty->at, dirty->count, src->round, frozen, &stats,
			      err);

	ret->round = src->round;
	ret->pages_dirty = dirty->pages;
	ret->pages_sent = stats.pages;
	ret->pages_zero = stats.zero_pages;
	ret->bytes_sent = stats.bytes_wire;
	ret->send_ns = stats.ns;
	return code;
}

/* The map with its flags. smaps takes 10 ms per GiB, in which the process dirties what the freeze has to send:
 * once the map has not changed for a round, its flags are taken to be the same, too. */
static int read_map(struct phaul_source *src, struct memory_map *ret, struct phaul_error *err)
{
	int code = memory_map_read(src->pid, false, ret, err);

	if (code)
		return code;
	if (src->map_is_settled && memory_map_equal(ret, &src->known)) {
		memory_map_inherit_flags(ret, &src->known);
		return 0;
	}
	src->map_is_settled = src->round > 0 && memory_map_equal(ret, &src->known);
	memory_map_free(ret);
	return memory_map_read(src->pid, true, ret, err);
}

int phaul_source_round(struct phaul_source *src, struct phaul_channel *ch, struct phaul_round *ret,
		       struct phaul_error *err)
{
	struct memory_map map;
	uint64_t start = phaul_now_ns();
	int code = read_map(src, &map, err);

	memset(ret, 0, sizeof(*ret));
	if (code)
		return code;
	if (src->round++)
		memory_map_mark_fresh(&map, &src->known);
	memory_map_free(&src->known);
	src->known = map;
	range_list_reset(&src->dirty);
	code = src->tracker.kind->cover(&src->tracker, &map, err) ?:
	       src->tracker.kind->scan(&src->tracker, &map, true, &src->dirty, err);
	for (size_t i = 0; i < map.count; i++)
		map.at[i].flags &= ~VMA_FRESH;
	ret->scan_ns = phaul_now_ns() - start;
	ret->vmas = map.count;
	if (!code)
		code = send_layout(src, ch, &map, NULL, err);
	if (!code)
		code = send_pages(src, ch, &src->dirty, false, ret, err);
	return code;
}

int64_t phaul_source_dirty(struct phaul_source *src, struct phaul_error *err)
{
	int code;

	range_list_reset(&src->dirty);
	code = src->tracker.kind->scan(&src->tracker, &src->known, false, &src->dirty, err);
	return code ? code : (int64_t)src->dirty.pages;
}

int phaul_source_freeze(struct phaul_source *src, int timeout_ms, struct phaul_freeze *ret,
			struct phaul_error *err)
{
	int code;

	memset(ret, 0, sizeof(*ret));
	code = freeze(src->pid, timeout_ms, &src->frozen, err);
	ret->frozen_at_ns = src->frozen.since_ns;
	ret->stop_ns = phaul_now_ns() - ret->frozen_at_ns;
	ret->threads = src->frozen.count;
	src->is_frozen = !code;
	return code;
}

/* Sends an image set, or a part of one, as a note. */
struct note_sink {
	struct phaul_channel *channel;
	uint32_t kind;
	uint64_t bytes;			/* sent so far */
};

static int send_images(void *ctx, const struct image_set *images, struct phaul_error *err)
{
	struct note_sink *sink = ctx;
	uint8_t *bytes = NULL;
	size_t size = 0;
	int code = image_set_pack(images, &bytes, &size);

	if (code)
		phaul_fail(err, code, "source", "packing %zu bytes of state", size);
	else
		code = phaul_note_send(sink->channel, sink->kind, bytes, size, err);
	sink->bytes += size;
	free(bytes);
	return code;
}

static int send_state(struct phaul_source *src, struct phaul_channel *ch, const struct memory_map *map,
		      struct phaul_freeze *ret, struct phaul_error *err)
{
	struct image_set *images = image_set_new();
	struct note_sink threads = { ch, PHAUL_NOTE_THREADS, 0 }, state = { ch, PHAUL_NOTE_STATE, 0 };
	struct thread_sink sink = { &threads, send_images };
	int code = images ? 0 : phaul_fail(err, -ENOMEM, "source", "collecting the state");

	if (!code)
		code = state_dump(&src->frozen, src->syscall_at, memory_map_gap(map), src->flags, NULL, NULL, images, &sink,
				  err);
	if (!code)
		code = send_images(&state, images, err);
	ret->state_bytes = threads.bytes + state.bytes;
	image_set_free(images);
	return code;
}

int phaul_source_final(struct phaul_source *src, struct phaul_channel *ch, struct phaul_freeze *ret,
		       struct phaul_error *err)
{
	struct memory_map map;
	uint64_t at = phaul_now_ns();
	int code = memory_map_read(src->pid, false, &map, err);

	if (code)
		return code;
	memory_map_inherit_flags(&map, &src->known);
	memory_map_mark_fresh(&map, &src->known);
	src->round++;
	code = src->tracker.kind->final(&src->tracker, &map, &src->gone, err);
	ret->scan_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	if (!code)
		code = send_layout(src, ch, &map, &src->gone, err);
	if (!code)
		code = send_pages(src, ch, &src->gone.dirty, true, &ret->last, err);
	ret->last.vmas = map.count;
	ret->send_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	if (!code)
		code = send_state(src, ch, &map, ret, err);
	ret->dump_ns = phaul_now_ns() - at;
	memory_map_free(&src->known);
	src->known = map;
	return code;
}

static int set_options(struct phaul_source *src, unsigned long options, struct phaul_error *err)
{
	for (size_t i = 0; i < src->frozen.count; i++)
		if (ptrace(PTRACE_SETOPTIONS, src->frozen.threads[i].tid, 0, options) < 0)
			return phaul_fail(err, -errno, "source", "setting what becomes of thread %d when phaul "
					  "ends", src->frozen.threads[i].tid);
	return 0;
}

int phaul_source_commit(struct phaul_source *src, struct phaul_error *err)
{
	int code;

	if (!src->is_frozen)
		return phaul_fail(err, -EINVAL, "source", "pid %d is not frozen", src->pid);
	code = set_options(src, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL, err);
	src->committed = !code;
	return code;
}

/* Threads before the leader, or the wait for the leader would never end. Whoever is the parent reaps what
 * is left of it. */
int phaul_source_kill(struct phaul_source *src, struct phaul_error *err)
{
	if (kill(src->pid, SIGKILL) < 0 && errno != ESRCH)
		return phaul_fail(err, -errno, "source", "ending the original, pid %d", src->pid);
	for (size_t i = src->frozen.count; i-- > 0; )
		while (waitpid(src->frozen.threads[i].tid, NULL, __WALL) < 0 && errno == EINTR)
			;
	frozen_free(&src->frozen);
	src->is_frozen = false;
	return 0;
}

int phaul_source_abandon(struct phaul_source *src, int stopped, struct phaul_error *err)
{
	int code = set_options(src, PTRACE_O_TRACESYSGOOD, err);

	if (!code && stopped && kill(src->pid, SIGSTOP) < 0)
		code = phaul_fail(err, -errno, "source", "stopping pid %d", src->pid);
	if (code)
		return code;
	src->is_frozen = src->committed = false;
	tracker_close(&src->tracker);
	return thaw(&src->frozen);
}

int phaul_source_thaw(struct phaul_source *src, struct phaul_error *err)
{
	int code;

	if (src->committed)
		return phaul_fail(err, -EINVAL, "source", "pid %d is committed: it may run on the target, so "
				  "that it must not run here", src->pid);
	src->is_frozen = false;
	code = thaw(&src->frozen);
	return code ? phaul_fail(err, code, "source", "letting pid %d go on", src->pid) : 0;
}

void phaul_source_close(struct phaul_source *src)
{
	if (!src)
		return;
	if (src->is_frozen && !src->committed)
		(void)phaul_source_thaw(src, NULL);
	frozen_free(&src->frozen);
	tracker_close(&src->tracker);
	memory_map_free(&src->known);
	range_list_free(&src->dirty);
	range_list_free(&src->gone.dirty);
	range_list_free(&src->gone.absent);
	range_list_free(&src->gone.sparse);
	range_list_free(&src->gone.populated);
	range_list_free(&src->gone.guards);
	if (src->mem >= 0)
		close(src->mem);
	free(src);
}

int phaul_source_checksum(struct phaul_source *src, char *ret_text, size_t size, struct phaul_error *err)
{
	struct memory_map map;
	int code = memory_map_read(src->pid, false, &map, err);

	if (code)
		return code;
	code = checksum(src->mem, &map, ret_text, size, err);
	memory_map_free(&map);
	return code;
}
