/* source_look.c - a look at the tree: who is new is armed, what each has mapped becomes known. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "source.h"

#define ARM_TIMEOUT_MS 2000	/* to stop one thread for a moment; longer means it hangs in the kernel */
#define LOOKS_MAX 100		/* at a tree that changes while it is looked at */
#define LOOK_AGAIN_US 2000
#define HELD_ROUNDS 8u		/* generations that come one after the other; what is deeper, or comes later, waits for nobody */

/* All have it from the same kernel. */
static int read_origin(struct phaul_source *src, const struct member *m, struct phaul_error *err)
{
	int code;

	if (src->origin)
		return 0;
	src->origin = calloc(1, sizeof(*src->origin));
	code = src->origin ? origin_read(m->task.pid, &m->known, src->origin) : -ENOMEM;
	if (!code)
		return 0;
	free(src->origin);
	src->origin = NULL;
	return phaul_fail(err, code, "source", "reading the vdso of pid %d", m->task.pid);
}

int member_prepare(struct phaul_source *src, struct member *m, struct phaul_error *err)
{
	char path[32];
	int code = memory_map_read(m->task.pid, true, &m->known, err);

	if (code)
		return code;
	if (!m->known.count)
		return -ESRCH;
	code = read_origin(src, m, err) ?: remote_find_syscall(m->task.pid, &m->known, &m->syscall_at);
	if (code)
		return phaul_fail(err, code == -ENOENT ? -EOPNOTSUPP : code, "source", "finding the vdso of pid %d, through which "
				  "it would be asked for its state", m->task.pid);
	snprintf(path, sizeof(path), "/proc/%d/mem", m->task.pid);
	m->mem = open(path, O_RDWR | O_CLOEXEC);
	return m->mem < 0 ? phaul_fail(err, -errno, "source", "opening %s", path) : 0;
}

int member_track(struct phaul_source *src, struct member *m, struct remote *leader, struct phaul_error *err)
{
	int code = tracker_open(&m->tracker, src->tracker, m->task.pid, leader, err);

	m->tracked = !code;
	if (code) {
		tracker_close(&m->tracker);
		close(m->mem);
	}
	(void)remote_end(leader);
	return code;
}

static int arm(struct phaul_source *src, struct member *m, struct phaul_error *err)
{
	struct frozen leader;
	struct remote r;
	uint64_t start;
	int code = member_prepare(src, m, err);

	if (code)
		return code;
	start = phaul_now_ns();
	code = freeze_leader(m->task.pid, ARM_TIMEOUT_MS, &leader, err);
	if (code) {
		close(m->mem);
		return code;
	}
	code = remote_begin(&r, m->task.pid, m->syscall_at);
	if (code) {
		close(m->mem);
		phaul_fail(err, code, "source", "borrowing the main thread of pid %d", m->task.pid);
	} else {
		code = member_track(src, m, &r, err);
	}
	(void)thaw(&leader);
	if (phaul_now_ns() - start > src->longest_stop_ns)
		src->longest_stop_ns = phaul_now_ns() - start;
	return code;
}

/* The map with its flags. smaps takes 10 ms per GiB, in which the process dirties what the freeze has to send:
 * once the map has not changed for a round, its flags are taken to be the same, too. */
static int read_map(struct member *m, struct memory_map *ret, struct phaul_error *err)
{
	int code = memory_map_read(m->task.pid, false, ret, err);

	if (code)
		return code;
	if (m->map_is_settled && memory_map_equal(ret, &m->known)) {
		memory_map_inherit_flags(ret, &m->known);
		return 0;
	}
	m->map_is_settled = memory_map_equal(ret, &m->known);
	memory_map_free(ret);
	return memory_map_read(m->task.pid, true, ret, err);
}

/* A look that was in vain: no scan has taken note of what it had found. */
static void keep_fresh(struct memory_map *map, const struct memory_map *before)
{
	for (size_t i = 0; i < before->count; i++)
		for (size_t n = 0; before->at[i].flags & VMA_FRESH && n < map->count; n++)
			if (map->at[n].start < before->at[i].end && before->at[i].start < map->at[n].end)
				map->at[n].flags |= VMA_FRESH;
}

static int cover(struct phaul_source *src, const struct member *m, bool frozen, struct phaul_error *err)
{
	const struct descriptor_table *table = NULL;
	int code = shared_track_cover(&src->shared, &m->known, err);

	for (size_t i = 0; frozen && i < src->state.descriptor_count; i++)
		if (src->state.descriptors[i].pid == m->task.pid)
			table = &src->state.descriptors[i];
	return code ?: table ? shared_track_cover_table(&src->shared, table, err) :
			       shared_track_cover_open(&src->shared, m->task.pid, err);
}

/* What it had mapped is known; one that has no husk on the target yet sends all that it has. */
int member_look(struct phaul_source *src, struct member *m, bool frozen, struct phaul_error *err)
{
	struct memory_map map;
	int code;

	if (m->is_new) {
		m->is_new = false;
		return cover(src, m, frozen, err);
	}
	code = frozen ? memory_map_read(m->task.pid, false, &map, err) : read_map(m, &map, err);
	if (code)
		return code;
	if (!map.count) {
		memory_map_free(&map);
		return -ESRCH;
	}
	if (frozen)
		memory_map_inherit_flags(&map, &m->known);
	memory_map_mark_fresh(&map, &m->known);
	keep_fresh(&map, &m->known);
	memory_map_free(&m->known);
	m->known = map;
	return cover(src, m, frozen, err);
}

/* One that is about to end has none, and what was being read of it is cut off somewhere. */
static bool has_mappings(pid_t pid)
{
	struct memory_map map;
	int code = memory_map_read(pid, false, &map, NULL);

	memory_map_free(&map);
	return !code;
}

bool member_is_transient(const struct member *m, int code)
{
	struct task now;

	if (code == -ESRCH || code == -ENOENT || !has_mappings(m->task.pid))
		return true;
	return task_read(m->task.pid, &now) || now.started != m->task.started || now.state == TASK_DEAD ||
	       (m->tracked && !member_has_memory(m));
}

/* By its marks in pagemap. */
bool source_can_tell_shared(const struct phaul_source *src)
{
	return src->tracker == &tracker_uffd;
}

/* What they share is sent once if its husk is forked by one that has its memory already: with the round after its parent's. */
static int waits_for_parent(const struct member *m, const struct member *parent, bool *ret, struct phaul_error *err)
{
	struct memory_map map;
	int code;

	*ret = false;
	if (m->task.state == TASK_DEAD || m->told.count || parent->told.count || member_born_before_session(&m->task, &parent->task))
		return 0;
	code = memory_map_read(m->task.pid, false, &map, err);
	if (!code)
		*ret = inherit_is_same_program(&parent->known, &map);
	memory_map_free(&map);
	return code;
}

/* Of the root, whose parent stays. */
static bool shares_with_outside(const struct member *root)
{
	struct memory_map map = {0};
	struct task task;
	bool shares = !task_read(root->task.pid, &task) && !memory_map_read(task.ppid, false, &map, NULL) &&
		      inherit_is_same_program(&map, &root->known);

	memory_map_free(&map);
	return shares;
}

static void note_sharing(struct member *m, struct member *parent)
{
	if (!parent)
		m->shares = m->shares || (!m->told.count && shares_with_outside(m));
	else if (!(m->shares && parent->shares) && inherit_is_same_program(&parent->known, &m->known))
		m->shares = parent->shares = true;
}

/* With all that descend from it. */
static void hold_back(struct phaul_source *src, size_t at)
{
	pid_t pid = src->members[at].task.pid;

	for (size_t i = src->count; i-- > at + 1; )
		if (src->members[i].task.ppid == pid)
			hold_back(src, i);
	member_forget(&src->members[at]);
	memmove(&src->members[at], &src->members[at + 1], (src->count - at - 1) * sizeof(*src->members));
	src->count--;
	src->held_back++;
}

/* 1: it is to be held back. */
static int look_at_member(struct phaul_source *src, struct member *m, struct phaul_error *err)
{
	struct member *parent = member_find(src->members, m - src->members, m->task.ppid);
	bool waits = false;
	int code = parent && source_can_tell_shared(src) && src->round <= HELD_ROUNDS ? waits_for_parent(m, parent, &waits, err) : 0;

	if (code || m->task.state == TASK_DEAD)
		return code;
	if (waits) {
		parent->shares = true;
		return 1;
	}
	code = m->tracked ? 0 : arm(src, m, err);
	code = code ?: member_look(src, m, false, err);
	if (!code)
		note_sharing(m, parent);
	return code;
}

/* -EAGAIN: what was looked at has changed meanwhile. */
static int try_look(struct phaul_source *src, struct phaul_error *err)
{
	struct tree tree;
	int code = tree_list(src->pid, &tree, err);

	if (code)
		return code;
	tree_free(&src->seen);
	src->seen = tree;
	code = source_take_tree(src, &tree);
	if (code && code != -EAGAIN)
		return phaul_fail(err, code, "source", "listing the processes below pid %d", src->pid);
	src->held_back = 0;
	for (size_t i = 0; i < src->count && !code; ) {
		struct member *m = &src->members[i];

		code = look_at_member(src, m, err);
		if (code < 0 && i && member_is_transient(m, code))
			code = -EAGAIN;
		if (code > 0)
			hold_back(src, i);
		else
			i++;
		code = code < 0 ? code : 0;
	}
	return code;
}

int source_look(struct phaul_source *src, struct phaul_error *err)
{
	int code = -EAGAIN;

	for (int i = 0; i < LOOKS_MAX && code == -EAGAIN; i++) {
		if (i)
			usleep(LOOK_AGAIN_US);
		code = try_look(src, err);
	}
	return code != -EAGAIN ? code :
	       phaul_fail(err, -EBUSY, "source", "the processes below pid %d come and go faster than they can be listed", src->pid);
}
