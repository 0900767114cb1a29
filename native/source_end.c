/* source_end.c - how it ends for the originals: committed and killed, or given back. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "error.h"
#include "objects/locks.h"
#include "source.h"

/* They are for this host after all. */
void source_deliver_caught(struct phaul_source *src)
{
	struct packets packets = {0};

	if (src->caught >= 0 && !packets_take(src->caught, &packets))
		packets_deliver(&src->addresses, packets.at, packets.size);
	packets_free(&packets);
	source_close_caught(src);
}

int phaul_source_packets(struct phaul_source *src, struct phaul_channel *ch, struct phaul_error *err)
{
	struct packets packets = {0};
	int code = src->caught < 0 ? 0 : packets_take(src->caught, &packets);

	if (code)
		phaul_fail(err, code, "source", "collecting packets");
	else
		code = phaul_note_send(ch, PHAUL_NOTE_PACKETS, packets.at, packets.size, err);
	packets_free(&packets);
	return code;
}

/* So that they can be taken there; or again, here. What fails of it the target sees. */
static void pass_locks(struct phaul_source *src, bool take)
{
	for (size_t i = 0; src->state.images && i < src->count; i++) {
		const struct member *m = &src->members[i];
		struct file_lock *locks;
		size_t count;
		int64_t *results;

		if (m->task.state == TASK_DEAD || locks_read(src->state.images, m->task.pid, &locks, &count, NULL))
			continue;
		results = calloc(count + 1, sizeof(*results));
		if (count && results)
			(void)locks_apply(m->task.pid, m->syscall_at, memory_map_gap(&m->known), locks, count, take, results);
		free(results);
		free(locks);
	}
}

int phaul_source_locks(struct phaul_source *src, char *ret_text, size_t size, struct phaul_error *err)
{
	size_t used = 0;

	if (!source_is_frozen(src))
		return phaul_fail(err, -EINVAL, "source", "pid %d is not frozen", src->pid);
	if (size)
		*ret_text = 0;
	for (size_t i = 0; src->state.images && i < src->count; i++) {
		const struct member *m = &src->members[i];
		struct file_lock *locks;
		size_t count;
		int code = m->task.state == TASK_DEAD ? -ESRCH : locks_read(src->state.images, m->task.pid, &locks, &count, err);

		for (size_t n = 0; !code && n < count; n++)
			used += lock_note(&locks[n], used < size ? ret_text + used : NULL, used < size ? size - used : 0);
		if (!code)
			free(locks);
		else if (code != -ESRCH)
			return code;
	}
	return used < INT_MAX ? (int)used : phaul_fail(err, -EFBIG, "source", "pid %d has more locks than can be noted", src->pid);
}

int phaul_source_commit(struct phaul_source *src, struct phaul_error *err)
{
	int code;

	if (!source_is_frozen(src))
		return phaul_fail(err, -EINVAL, "source", "pid %d is not frozen", src->pid);
	code = tree_stop(&src->tree, err) ?: addresses_remove(&src->addresses, err);
	src->committed = !code;
	if (code)
		tree_continue(&src->tree);
	return code;
}

void phaul_source_pass(struct phaul_source *src)
{
	pass_locks(src, false);
}

int phaul_source_kill(struct phaul_source *src, struct phaul_error *err)
{
	(void)err;
	paused_set_pause(&src->state.paused);
	tree_kill(&src->tree);
	tree_state_free(&src->state, false);
	network_let_go(&src->hold);
	source_close_caught(src);
	shared_track_leave(&src->shared);
	return 0;
}

int phaul_source_abandon(struct phaul_source *src, int stopped, struct phaul_error *err)
{
	if (!src->committed)
		return phaul_fail(err, -EINVAL, "source", "pid %d is not committed", src->pid);
	/* The copy may be let go yet, and take them. */
	if (!stopped) {
		pass_locks(src, true);
		tree_continue(&src->tree);
	}
	src->committed = false;
	source_stop_tracking(src);
	/* It has been there before; what speaks against it now is not worth a process. */
	if (!stopped && !addresses_add(&src->addresses, NULL))
		addresses_announce(&src->addresses);
	tree_state_free(&src->state, true);
	if (!stopped)
		source_deliver_caught(src);
	source_close_caught(src);
	return tree_thaw(&src->tree);
}

int phaul_source_yield(struct phaul_source *src, struct phaul_error *err)
{
	int code;

	src->yields++;
	src->state.hold = NULL;
	tree_state_free(&src->state, true);
	code = tree_thaw(&src->tree);
	return code ? phaul_fail(err, code, "source", "letting pid %d go on", src->pid) : 0;
}

int phaul_source_thaw(struct phaul_source *src, struct phaul_error *err)
{
	int code;

	if (src->committed)
		return phaul_fail(err, -EINVAL, "source", "pid %d is committed: it may run on the target, so "
				  "that it must not run here", src->pid);
	tree_state_free(&src->state, true);
	network_let_go(&src->hold);
	source_deliver_caught(src);
	code = tree_thaw(&src->tree);
	return code ? phaul_fail(err, code, "source", "letting pid %d go on", src->pid) : 0;
}
