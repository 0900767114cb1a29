/* source_send.c - what a round tells the target: processes, their mappings, pages. */
#include <errno.h>
#include <stdlib.h>

#include "error.h"
#include "layout.h"
#include "objects/proc_status.h"
#include "objects/tty.h"
#include "source.h"

/* Of all that the processes have, one is taken in the freeze. */
static void make_own_room(struct phaul_source *src)
{
	size_t room = 0;

	for (size_t i = 0; i < src->count; i++)
		room += src->members[i].descriptor_room;
	if (room > src->own_room)
		descriptors_reserve_own(room);
	src->own_room = room;
}

static uint32_t descriptor_room(pid_t pid)
{
	struct proc_status s;
	long long room = proc_status_read(pid, pid, &s) ? 0 : proc_status_number(&s, "FDSize");

	return room > 0 ? room : 0;
}

static int put_threads(struct phaul_source *src, const struct member *m, struct image_set *to)
{
	/* Members are in the order of the tree. */
	const struct frozen *f = source_is_frozen(src) ? &src->tree.tasks[m - src->members].frozen : NULL;
	pid_t *tids = NULL;
	size_t count = 0;
	int err;

	if (!f) {
		err = threads_list(m->task.pid, &tids, &count);
	} else {
		tids = calloc(f->count, sizeof(*tids));
		err = tids ? 0 : -ENOMEM;
		for (size_t i = 0; tids && i < f->count; i++)
			tids[count++] = f->threads[i].tid;
	}
	/* One that is about to end has none: its husk goes with the next round. */
	if (err == -ESRCH)
		err = state_put_tree(to, &m->task, &m->task.pid, 1);
	else if (!err)
		err = state_put_tree(to, &m->task, tids, count);
	free(tids);
	return err;
}

static int put_member(struct phaul_source *src, const struct tree *tree, struct member *m, bool last, struct image_set *to)
{
	struct layout_process told = { .birth = m->birth };

	if (m->task.state == TASK_DEAD)
		return tree_put_dead(to, &m->task) ?: layout_put_process(to, m->task.pid, &told);
	/* In the freeze it is taken to be where it was. One that has just ended is nowhere. */
	if ((!source_is_frozen(src) || !m->cgroup_set) && cgroup_set_of(&src->cgroups, m->task.pid, m->task.pid, &m->cgroup_set) == -ENOMEM)
		return -ENOMEM;
	m->descriptor_room = told.descriptor_room = descriptor_room(m->task.pid);
	told.cgroup_set = m->cgroup_set;
	return put_threads(src, m, to) ?: tree_put_ids(to, tree, &m->task) ?:
	       layout_put_process(to, m->task.pid, &told) ?:
	       layout_put_inherited(to, m->task.pid, &m->inherited) ?:
	       layout_put(to, m->task.pid, &m->known, &src->shared, last ? &m->gone : NULL);
}

int source_send_images(struct phaul_channel *ch, uint32_t kind, const struct image_set *images, uint64_t *ret_bytes,
		       struct phaul_error *err)
{
	uint8_t *bytes = NULL;
	size_t size = 0;
	int code = image_set_pack(images, &bytes, &size);

	if (code)
		phaul_fail(err, code, "source", "packing %zu bytes of state", size);
	else
		code = phaul_note_send(ch, kind, bytes, size, err);
	*ret_bytes += size;
	free(bytes);
	return code;
}

int source_send_layout(struct phaul_source *src, struct phaul_channel *ch, bool last, struct phaul_error *err)
{
	struct image_set *images = image_set_new();
	struct tree tree = { .tasks = calloc(src->count, sizeof(*tree.tasks)), .count = src->count };
	uint64_t bytes = 0;
	int code = images && tree.tasks ? layout_put_round(images, src->round) : -ENOMEM;

	for (size_t i = 0; tree.tasks && i < src->count; i++)
		tree.tasks[i] = src->members[i].task;
	for (size_t i = 0; i < src->count && !code; i++)
		code = put_member(src, &tree, &src->members[i], last, images);
	if (!last)
		make_own_room(src);
	if (!code && !last)
		code = origin_put(images, src->origin);
	code = code ?: shared_track_put(&src->shared, images) ?: ttys_put_sessions(&tree, images);
	if (code == -EACCES)
		phaul_fail(err, code, "source", "asking for the System V shared memory below pid %d, which belongs to another user: run phaul with "
			   "CAP_IPC_OWNER (docs/security.md)", src->pid);
	else if (code)
		phaul_fail(err, code, "source", "packing the mappings below pid %d", src->pid);
	else if (src->cgroups.count > src->cgroups_told)
		code = cgroup_sets_dump(&src->cgroups, &src->cgroup_options, images, err);
	src->cgroups_told = src->cgroups.count;
	if (!code)
		code = source_send_images(ch, PHAUL_NOTE_LAYOUT, images, &bytes, err);
	free(tree.tasks);
	image_set_free(images);
	return code;
}

int source_send_pages(struct phaul_source *src, struct phaul_channel *ch, bool last, struct phaul_round *ret,
		      struct phaul_error *err)
{
	struct page_source *sources = calloc(src->count + src->shared.count + 1, sizeof(*sources));
	struct pages_stats stats = {0};
	size_t count = 0;
	int code;

	ret->round = src->round;
	for (size_t i = 0; sources && i < src->count; i++) {
		const struct member *m = &src->members[i];
		const struct range_list *dirty = last ? &m->gone.dirty : &m->dirty;

		ret->vmas += m->known.count;
		if (!m->tracked)
			continue;
		/* In the freeze it is little, and counts. */
		sources[count++] = (struct page_source){ m->task.pid, m->shares && !last ? 0 : m->task.pid, m->mem, dirty->at,
							 dirty->count, NULL };
		ret->pages_dirty += dirty->pages;
	}
	for (size_t i = 0; sources && i < src->shared.count; i++) {
		const struct shared_object *o = &src->shared.at[i];

		sources[count++] = (struct page_source){ PAGES_SHARED | o->id, 0, o->fd, o->dirty.at, o->dirty.count, o->sums };
		ret->pages_dirty += o->dirty.pages;
	}
	code = sources ? pages_send(ch, sources, count, src->round, last, &stats, err) :
			 phaul_fail(err, -ENOMEM, "source", "sending pages");
	ret->pages_sent = stats.pages;
	ret->pages_zero = stats.zero_pages;
	ret->bytes_sent = stats.bytes_wire;
	ret->send_ns = stats.ns;
	free(sources);
	return code;
}
