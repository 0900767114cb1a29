/* source.c - processes that leave: tracked, copied round by round, frozen, and gone or given back. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "channel.h"
#include "checksum.h"
#include "error.h"
#include "ghost.h"
#include "handshakes.h"
#include "inherit.h"
#include "layout.h"
#include "leave.h"
#include "objects/aio.h"
#include "objects/cgroup.h"
#include "objects/clocks.h"
#include "objects/locks.h"
#include "objects/proc_status.h"
#include "objects/tty.h"
#include "packet_catch.h"
#include "shared_track.h"
#include "shmem.h"
#include "track.h"
#include "tree_state.h"

#define ARM_TIMEOUT_MS 2000	/* to stop one thread for a moment; longer means it hangs in the kernel */
#define LOOKS_MAX 100		/* at a tree that changes while it is looked at */
#define LOOK_AGAIN_US 2000
#define QUIESCE_STEP_US 1000	/* a handshake on a local network, and then some */
#define YIELDS_MAX 15		/* for what a program is about to read; one that never does moves all the same */
#define ROOT_BIRTH 1u
#define SETTLE_LIMIT_MS 100	/* for requests to disks, in the freeze; afterwards the process goes on for a moment */
#define INHERITED_IN_FREEZE_MAX 16384u	/* pages of children that are new then: to compare them takes some 5 ms */
#define HELD_ROUNDS 8u		/* generations that come one after the other; what is deeper, or comes later, waits for nobody */

/* One process of the tree. A dead one has no memory. */
struct member {
	struct task task;		/* as it was when it was last looked at; not frozen */
	uint32_t birth;			/* layout.h; that of the root is 1 */
	bool is_new;			/* it was not looked at yet */
	bool tracked;
	uint32_t descriptor_room;	/* that its table has */
	bool shares;			/* memory with its parent or its children: until one writes to it */
	int mem;			/* /proc/PID/mem, of the program that it ran then: exec() ends that */
	remote_addr syscall_at;
	struct tracker tracker;
	struct memory_map known;	/* of the last look, with flags */
	struct memory_map told;		/* of the last round: what its husk has mapped. Empty: it has none */
	struct range_list inherited;	/* what its husk gets from its parent's in this round */
	bool map_is_settled;		/* `known` was the same for two rounds */
	uint32_t cgroup_set;
	struct range_list dirty;
	struct final_scan gone;
};

struct phaul_source {
	pid_t pid;
	const struct tracker_kind *tracker;
	char *stdio;			/* where its output goes on the target; NULL: as here */
	uint32_t flags, round, births;
	struct origin *origin;		/* this host's, as its processes know it; NULL: not read yet */
	struct member *members;		/* parents before their children */
	size_t count;
	size_t held_back;		/* processes that come with a later round, and are not among them */
	struct shared_track shared;
	struct shmem_set dumped;	/* what the state tells of already */
	struct cgroup_options cgroup_options;
	struct cgroup_sets cgroups;
	size_t cgroups_told;
	struct tree seen;		/* at the last look; not frozen */
	struct ghost_set ghosts;	/* the same of deleted files */
	struct tree tree;		/* frozen, or nothing */
	size_t own_room;		/* for their descriptors, in our own table */
	struct tree_state state;
	struct moved_addresses addresses;
	struct network_hold hold;
	int caught;			/* packets that came since the freeze, or -errno */
	bool caught_new;		/* only those that begin a connection so far */
	uint64_t longest_stop_ns;	/* of one process, while the others ran */
	unsigned yields;		/* so often it went on for a moment */
	bool committed;
};

int phaul_abi_version(void)
{
	return PHAUL_ABI_VERSION;
}

int phaul_clocks(int pid, char *ret_text, size_t size, struct phaul_error *err)
{
	struct clocks seen;
	int code = clocks_seen_by(pid, &seen);

	if (code)
		return phaul_fail(err, code, "source", "reading the clocks of pid %d", pid);
	snprintf(ret_text, size, "%lld %lld%s", (long long)seen.monotonic, (long long)seen.boottime, clocks_are_own(pid) ? " own" : "");
	return 0;
}

static bool is_frozen(const struct phaul_source *src)
{
	return src->tree.count;
}

/* ---- who belongs to it ---- */

static void forget_memory(struct member *m)
{
	if (m->tracked) {
		tracker_close(&m->tracker);
		close(m->mem);
	}
	m->tracked = m->map_is_settled = false;
	memory_map_free(&m->known);
	memory_map_free(&m->told);
	range_list_free(&m->dirty);
	range_list_free(&m->inherited);
	range_list_free(&m->gone.dirty);
	range_list_free(&m->gone.absent);
	range_list_free(&m->gone.sparse);
	range_list_free(&m->gone.populated);
	range_list_free(&m->gone.guards);
}

/* exec() leaves nothing of what was tracked. */
static bool has_memory(const struct member *m)
{
	const struct vma *vdso = memory_map_named(&m->known, "[vdso]");
	char byte;

	return m->tracked && vdso && pread(m->mem, &byte, 1, vdso->start) == 1;
}

static struct member *find(struct member *members, size_t count, pid_t pid)
{
	for (size_t i = 0; i < count; i++)
		if (members[i].task.pid == pid)
			return &members[i];
	return NULL;
}

/* The husk of such a one would have to be forked before its parent's became the leader of a session. */
static bool born_before_session(const struct task *task, const struct task *parent)
{
	return task->sid != task->pid && task->sid != parent->sid && parent->sid == parent->pid;
}

/* Can the husk that it has on the target still become what it is now? */
static bool is_same(const struct member *m, const struct task *now)
{
	return m->task.started == now->started && m->task.ppid == now->ppid && m->task.sid == now->sid && m->task.tty == now->tty &&
	       (now->state == TASK_DEAD || (m->task.shares_files == now->shares_files && m->task.shares_fs == now->shares_fs &&
					    has_memory(m)));
}

/* Takes the tree as it is for that of the next round. */
static int take_tree(struct phaul_source *src, const struct tree *tree)
{
	struct member *members = calloc(tree->count, sizeof(*members));
	int code = 0;

	if (!members)
		return -ENOMEM;
	for (size_t i = 0; i < tree->count; i++) {
		const struct task *now = &tree->tasks[i];
		struct member *old = find(src->members, src->count, now->pid);

		if (old && is_same(old, now)) {
			members[i] = *old;
			memset(old, 0, sizeof(*old));
		} else {
			members[i].is_new = true;
		}
		members[i].task = *now;
		members[i].task.frozen = (struct frozen){0};
	}
	for (size_t i = 0; i < src->count; i++)
		forget_memory(&src->members[i]);
	free(src->members);
	src->members = members;
	src->count = tree->count;
	/* Children go on growing below the husk of their parent only, and come later than that here. The root's stays. */
	for (size_t i = src->count; i-- > 1; ) {
		struct member *parent = find(members, i, members[i].task.ppid);

		if (parent && members[i].is_new && born_before_session(&members[i].task, &parent->task))
			parent->is_new = true;
	}
	for (size_t i = 0; i < src->count; i++) {
		struct member *m = &members[i], *parent = find(members, i, m->task.ppid);

		if ((i && !parent) || m->task.shares_memory)
			code = -EAGAIN;
		m->is_new = m->is_new || (parent && parent != members && parent->is_new);
		if (m->is_new || m->task.state == TASK_DEAD)
			forget_memory(m);
		if (m->is_new)
			m->birth = i ? ++src->births : ROOT_BIRTH;
	}
	return code;
}

/* ---- their memory ---- */

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

/* With flags: while it is frozen only for one that has just begun. */
static int prepare(struct phaul_source *src, struct member *m, struct phaul_error *err)
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

/* Its main thread is stopped. */
static int track(struct phaul_source *src, struct member *m, struct remote *leader, struct phaul_error *err)
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
	int code = prepare(src, m, err);

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
		code = track(src, m, &r, err);
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
static int look_at(struct phaul_source *src, struct member *m, bool frozen, struct phaul_error *err)
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

/* Is the process of this failure simply gone, or another program by now? */
static bool is_transient(const struct member *m, int code)
{
	struct task now;

	if (code == -ESRCH || code == -ENOENT || !has_mappings(m->task.pid))
		return true;
	return task_read(m->task.pid, &now) || now.started != m->task.started || now.state == TASK_DEAD ||
	       (m->tracked && !has_memory(m));
}

/* By its marks in pagemap. */
static bool can_tell_shared(const struct phaul_source *src)
{
	return src->tracker == &tracker_uffd;
}

/* What they share is sent once if its husk is forked by one that has its memory already: with the round after its parent's. */
static int waits_for_parent(const struct member *m, const struct member *parent, bool *ret, struct phaul_error *err)
{
	struct memory_map map;
	int code;

	*ret = false;
	if (m->task.state == TASK_DEAD || m->told.count || parent->told.count || born_before_session(&m->task, &parent->task))
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
	forget_memory(&src->members[at]);
	memmove(&src->members[at], &src->members[at + 1], (src->count - at - 1) * sizeof(*src->members));
	src->count--;
	src->held_back++;
}

/* 1: it is to be held back. */
static int look_at_member(struct phaul_source *src, struct member *m, struct phaul_error *err)
{
	struct member *parent = find(src->members, m - src->members, m->task.ppid);
	bool waits = false;
	int code = parent && can_tell_shared(src) && src->round <= HELD_ROUNDS ? waits_for_parent(m, parent, &waits, err) : 0;

	if (code || m->task.state == TASK_DEAD)
		return code;
	if (waits) {
		parent->shares = true;
		return 1;
	}
	code = m->tracked ? 0 : arm(src, m, err);
	code = code ?: look_at(src, m, false, err);
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
	code = take_tree(src, &tree);
	if (code && code != -EAGAIN)
		return phaul_fail(err, code, "source", "listing the processes below pid %d", src->pid);
	src->held_back = 0;
	for (size_t i = 0; i < src->count && !code; ) {
		struct member *m = &src->members[i];

		code = look_at_member(src, m, err);
		if (code < 0 && i && is_transient(m, code))
			code = -EAGAIN;
		if (code > 0)
			hold_back(src, i);
		else
			i++;
		code = code < 0 ? code : 0;
	}
	return code;
}

static int look(struct phaul_source *src, struct phaul_error *err)
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

/* ---- rounds ---- */

int phaul_source_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, struct phaul_source **ret,
		      struct phaul_error *err)
{
	struct phaul_source *src = calloc(1, sizeof(*src));
	struct task task;
	int code;

	if (!src)
		return phaul_fail(err, -ENOMEM, "source", "opening pid %d", pid);
	src->pid = pid;
	src->flags = flags;
	src->births = ROOT_BIRTH;
	src->caught = -ENOENT;
	if (task_read(pid, &task) || task.state == TASK_DEAD) {
		free(src);
		return phaul_fail(err, -ESRCH, "source", "there is no process %d here", pid);
	}
	code = tracker_choose(NULL, &src->tracker, err) ?: addresses_parse(addresses, &src->addresses, err) ?:
	       cgroup_options_parse(cgroups, &src->cgroup_options, err);
	if (code) {
		addresses_free(&src->addresses);
		free(src);
		return code;
	}
	*ret = src;
	return 0;
}

int phaul_source_track_by(struct phaul_source *src, const char *tracker, struct phaul_error *err)
{
	return tracker_choose(tracker, &src->tracker, err);
}

int phaul_source_stdio(struct phaul_source *src, const char *output, struct phaul_error *err)
{
	free(src->stdio);
	src->stdio = strdup(output);
	return src->stdio ? 0 : phaul_fail(err, -ENOMEM, "source", "opening pid %d", src->pid);
}

int phaul_source_arm(struct phaul_source *src, uint64_t *ret_stop_ns, struct phaul_error *err)
{
	int code = look(src, err);

	if (src->flags & PHAUL_TCP_ESTABLISHED || src->addresses.count)
		network_prepare(&src->hold, src->pid, &(struct moved_addresses){0});
	*ret_stop_ns = src->longest_stop_ns;
	return code;
}

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
	const struct frozen *f = is_frozen(src) ? &src->tree.tasks[m - src->members].frozen : NULL;
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
	if ((!is_frozen(src) || !m->cgroup_set) && cgroup_set_of(&src->cgroups, m->task.pid, m->task.pid, &m->cgroup_set) == -ENOMEM)
		return -ENOMEM;
	m->descriptor_room = told.descriptor_room = descriptor_room(m->task.pid);
	told.cgroup_set = m->cgroup_set;
	return put_threads(src, m, to) ?: tree_put_ids(to, tree, &m->task) ?:
	       layout_put_process(to, m->task.pid, &told) ?:
	       layout_put_inherited(to, m->task.pid, &m->inherited) ?:
	       layout_put(to, m->task.pid, &m->known, &src->shared, last ? &m->gone : NULL);
}

static int send_images(struct phaul_channel *ch, uint32_t kind, const struct image_set *images, uint64_t *ret_bytes,
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

static int send_layout(struct phaul_source *src, struct phaul_channel *ch, bool last, struct phaul_error *err)
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
	if (code)
		phaul_fail(err, code, "source", "packing the mappings below pid %d", src->pid);
	else if (src->cgroups.count > src->cgroups_told)
		code = cgroup_sets_dump(&src->cgroups, &src->cgroup_options, images, err);
	src->cgroups_told = src->cgroups.count;
	if (!code)
		code = send_images(ch, PHAUL_NOTE_LAYOUT, images, &bytes, err);
	free(tree.tasks);
	image_set_free(images);
	return code;
}

static int send_pages(struct phaul_source *src, struct phaul_channel *ch, bool last, struct phaul_round *ret,
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

static int scan_all(struct phaul_source *src, uint64_t *ret_stopped_ns, struct phaul_error *err)
{
	int64_t shared;

	for (size_t i = 0; i < src->count; i++) {
		struct member *m = &src->members[i];
		uint64_t stopped_ns = m->tracker.stopped_ns;
		int code;

		if (!m->tracked)
			continue;
		range_list_reset(&m->dirty);
		code = m->tracker.kind->cover(&m->tracker, &m->known, err) ?:
		       m->tracker.kind->scan(&m->tracker, &m->known, true, &m->dirty, err);
		*ret_stopped_ns += m->tracker.stopped_ns - stopped_ns;
		/* The next look sees what has become of it. */
		if (code && (!i || !is_transient(m, code)))
			return code;
		for (size_t n = 0; n < m->known.count; n++)
			m->known.at[n].flags &= ~VMA_FRESH;
	}
	shared = shared_track_scan(&src->shared, err);
	return shared < 0 ? shared : 0;
}

/* Of those whose husks are forked in this round: all have been armed by now, or are frozen. */
static int find_inherited(struct phaul_source *src, bool last, uint64_t *ret_pages, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 1; i < src->count && !code; i++) {
		struct member *m = &src->members[i], *parent = find(src->members, i, m->task.ppid);
		struct range_list *dirty = last ? &m->gone.dirty : &m->dirty, *parents = last ? &parent->gone.dirty : &parent->dirty;
		struct inherit_from from = { &parent->told, parents, parent->tracker.pagemap, last };

		range_list_reset(&m->inherited);
		if (!can_tell_shared(src) || !m->tracked || m->told.count || !parent->told.count)
			continue;
		range_list_order(dirty);
		range_list_order(parents);
		code = inherit_find(&from, &m->known, m->tracker.pagemap, dirty, &m->inherited);
		*ret_pages += m->inherited.pages;
	}
	return code ? phaul_fail(err, code, "source", "looking for what processes below pid %d share", src->pid) : 0;
}

/* The husks have it all when the next round begins. */
static int note_told(struct phaul_source *src, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < src->count && !code; i++) {
		struct member *m = &src->members[i];

		range_list_free(&m->inherited);
		memory_map_free(&m->told);
		code = memory_map_copy(&m->known, &m->told);
	}
	return code ? phaul_fail(err, code, "source", "remembering the mappings below pid %d", src->pid) : 0;
}

int phaul_source_round(struct phaul_source *src, struct phaul_channel *ch, struct phaul_round *ret,
		       struct phaul_error *err)
{
	uint64_t start = phaul_now_ns();
	/* The first look was that of arming. */
	int code = src->round++ ? look(src, err) : 0;

	memset(ret, 0, sizeof(*ret));
	code = code ?: scan_all(src, &ret->stopped_ns, err) ?: find_inherited(src, false, &ret->pages_inherited, err);
	ret->held_back = src->held_back;
	ret->scan_ns = phaul_now_ns() - start;
	return code ?: send_layout(src, ch, false, err) ?: send_pages(src, ch, false, ret, err) ?: note_told(src, err);
}

int64_t phaul_source_dirty(struct phaul_source *src, struct phaul_error *err)
{
	int64_t pages = shared_track_scan(&src->shared, err);

	for (size_t i = 0; i < src->count && pages >= 0; i++) {
		struct member *m = &src->members[i];
		int code;

		if (!m->tracked)
			continue;
		range_list_reset(&m->dirty);
		code = m->tracker.kind->scan(&m->tracker, &m->known, false, &m->dirty, err);
		if (code && (!i || !is_transient(m, code)))
			return code;
		pages += m->dirty.pages;
	}
	return pages;
}

/* ---- the freeze ---- */

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

static int leave_vdso(struct task *task, struct phaul_error *err)
{
	const struct vma *vdso;
	struct memory_map map;
	int code = memory_map_read(task->pid, false, &map, err);

	if (code)
		return code;
	vdso = memory_map_named(&map, "[vdso]");
	code = vdso ? leave_code(&task->frozen, vdso->start, vdso->end, err) : 0;
	memory_map_free(&map);
	return code;
}

/* The target's kernel has other code there, into which the functions of this one lead from their beginning. */
static int leave_vdsos(struct phaul_source *src, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < src->tree.count && src->flags & PHAUL_OTHER_KERNEL && !code; i++)
		if (src->tree.tasks[i].state != TASK_DEAD)
			code = leave_vdso(&src->tree.tasks[i], err);
	return code;
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
	code = take_tree(src, &src->tree);
	ret->processes = src->count;
	for (size_t i = 0; i < src->count; i++) {
		const struct member *m = &src->members[i];

		ret->threads += src->tree.tasks[i].frozen.count;
		if (m->is_new && m->task.state != TASK_DEAD)
			add_fresh(m, find(src->members, i, m->task.ppid) ?: m, ret);
	}
	if (code == -EAGAIN)
		ret->fresh_pages = ret->fresh_own_pages = ~0ull;
	else if (code)
		return phaul_fail(err, code, "source", "listing the processes below pid %d", src->pid);
	/* Before anybody compares memory. What can't be done now is tried again by phaul_source_final(). */
	code = leave_vdsos(src, err);
	return code == -EAGAIN ? 0 : code;
}

/* Those that no round knew. Their threads make system calls for it, and the kernel may write to their rseq areas when they
 * do: afterwards their memory stays as it is. */
static int track_new(struct phaul_source *src, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < src->count && !code; i++) {
		struct member *m = &src->members[i];
		const struct frozen *frozen = &src->tree.tasks[i].frozen;
		struct remote leader;

		if (m->task.state == TASK_DEAD || m->tracked)
			continue;
		code = prepare(src, m, err);
		remote_begin_with(&leader, m->task.pid, m->syscall_at, &frozen->threads[0].regs, frozen->threads[0].mask);
		code = code ?: track(src, m, &leader, err);
	}
	return code;
}

static int final_scan(struct phaul_source *src, struct member *m, struct phaul_error *err)
{
	int code = look_at(src, m, true, err) ?: m->tracker.kind->final(&m->tracker, &m->known, &m->gone, err);

	/* The kernel writes to rings by ways that no tracker sees. */
	for (size_t i = 0; i < m->known.count && !code; i++)
		if (m->known.at[i].kind == VMA_AIO && range_list_add(&m->gone.dirty, m->known.at[i].start, m->known.at[i].end))
			code = phaul_fail(err, -ENOMEM, "source", "listing pages of pid %d", m->task.pid);
	return code;
}

static void close_caught(struct phaul_source *src)
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

	return send_images(sink->channel, PHAUL_NOTE_THREADS, images, &sink->bytes, err);
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
	code = code ?: tree_state_put_queued(s) ?: send_images(ch, PHAUL_NOTE_STATE, s->images, &ret->state_bytes, err);
	ret->state_bytes += threads.bytes;
	return code;
}

int phaul_source_final(struct phaul_source *src, struct phaul_channel *ch, struct phaul_freeze *ret,
		       struct phaul_error *err)
{
	uint64_t at = phaul_now_ns();
	int64_t shared;
	int code = leave_vdsos(src, err);

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
		close_caught(src);
	src->caught_new = false;
	if (src->caught < 0)
		src->caught = packets_catch(&src->addresses);
	shmem_free(&src->dumped, false);
	ghost_set_free(&src->ghosts, true);
	src->ghosts = (struct ghost_set){ .directory = -1, .sent = &src->shared };
	code = src->state.images ? tree_state_read(&src->state) : phaul_fail(err, -ENOMEM, "source", "collecting the state");
	code = code ?: track_new(src, err);
	for (size_t i = 0; i < src->count && !code; i++)
		code = aio_settle(src->members[i].task.pid, &src->members[i].known, SETTLE_LIMIT_MS, err);
	for (size_t i = 0; i < src->count && !code; i++)
		if (src->members[i].task.state != TASK_DEAD)
			code = final_scan(src, &src->members[i], err);
	shared = code ? code : shared_track_scan(&src->shared, err);
	code = shared < 0 ? shared : find_inherited(src, true, &ret->last.pages_inherited, err);
	ret->scan_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	code = code ?: send_layout(src, ch, true, err) ?: send_pages(src, ch, true, &ret->last, err);
	ret->send_ns = phaul_now_ns() - at;
	at = phaul_now_ns();
	code = code ?: send_state(src, ch, ret, err);
	ret->dump_ns = phaul_now_ns() - at;
	return code;
}

/* ---- the end ---- */

/* They are for this host after all. */
static void deliver_caught(struct phaul_source *src)
{
	struct packets packets = {0};

	if (src->caught >= 0 && !packets_take(src->caught, &packets))
		packets_deliver(&src->addresses, packets.at, packets.size);
	packets_free(&packets);
	close_caught(src);
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

	if (!is_frozen(src))
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

	if (!is_frozen(src))
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
	close_caught(src);
	shared_track_leave(&src->shared);
	return 0;
}

static void stop_tracking(struct phaul_source *src)
{
	for (size_t i = 0; i < src->count; i++)
		forget_memory(&src->members[i]);
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
	stop_tracking(src);
	/* It has been there before; what speaks against it now is not worth a process. */
	if (!stopped && !addresses_add(&src->addresses, NULL))
		addresses_announce(&src->addresses);
	tree_state_free(&src->state, true);
	if (!stopped)
		deliver_caught(src);
	close_caught(src);
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
	deliver_caught(src);
	code = tree_thaw(&src->tree);
	return code ? phaul_fail(err, code, "source", "letting pid %d go on", src->pid) : 0;
}

void phaul_source_close(struct phaul_source *src)
{
	if (!src)
		return;
	if (is_frozen(src) && !src->committed)
		(void)phaul_source_thaw(src, NULL);
	tree_state_free(&src->state, false);
	network_let_go(&src->hold);
	if (!src->committed)
		deliver_caught(src);
	close_caught(src);
	free(src->stdio);
	addresses_free(&src->addresses);
	cgroup_options_free(&src->cgroup_options);
	cgroup_sets_free(&src->cgroups);
	tree_free(&src->tree);
	tree_free(&src->seen);
	stop_tracking(src);
	free(src->members);
	free(src->origin);
	shared_track_free(&src->shared);
	shmem_free(&src->dumped, false);
	ghost_set_free(&src->ghosts, true);
	free(src);
}

int phaul_source_checksum(struct phaul_source *src, char *ret_text, size_t size, struct phaul_error *err)
{
	struct shared_view *views;
	size_t used = 0, count = 0;
	int code = track_new(src, err);

	for (size_t i = 0; i < src->count && !code; i++) {
		struct memory_map map;
		pid_t pid = src->members[i].task.pid;
		int mem;
		char path[32];

		if (src->members[i].task.state == TASK_DEAD)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/mem", pid);
		mem = open(path, O_RDONLY | O_CLOEXEC);
		code = mem < 0 ? phaul_fail(err, -errno, "source", "opening %s", path) : memory_map_read(pid, false, &map, err);
		if (!code) {
			code = checksum(mem, &map, ret_text + used, size - used, err);
			used += strlen(ret_text + used);
			memory_map_free(&map);
		}
		if (mem >= 0)
			close(mem);
	}
	views = calloc(src->shared.count + 1, sizeof(*views));
	for (size_t i = 0; views && i < src->shared.count; i++)
		if (src->shared.at[i].at)
			views[count++] = (struct shared_view){ src->shared.at[i].id, src->shared.at[i].at, src->shared.at[i].size };
	code = code ?: views ? checksum_shared(views, count, ret_text + used, size - used, err) :
			       phaul_fail(err, -ENOMEM, "source", "comparing shared memory");
	free(views);
	return code;
}
