/* checkpoint.c - a process tree in a directory: CRIU's images, with the pages in pages-N.img. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"
#include "ghost.h"
#include "inventory.h"
#include "leave.h"
#include "memory_dump.h"
#include "objects/aio.h"
#include "objects/cgroup.h"
#include "objects/clocks.h"
#include "objects/descriptors.h"
#include "origin.h"
#include "tree_state.h"

#define SETTLE_LIMIT_MS 5000	/* for requests to disks */
#define FREEZE_TRIES 15
#define ANSWER_US 3000		/* for a program to read what the kernel has answered */

struct phaul_checkpoint {
	struct tree tree;		/* frozen */
	uint64_t since_ns;
	struct chain chain;
	struct tree_state state;
	struct page_writer pages;
	struct shmem_set shmem;
	struct ghost_set ghosts;
	struct image_sink here, there;	/* the directory, and that of another host, if there is one */
	struct pages_elsewhere before;
	struct cgroup_options cgroup_options;
	struct cgroup_sets cgroups;
	struct network_hold hold;
	struct moved_addresses no_addresses;
};

static int take_threads(void *ctx, const struct image_set *threads, struct phaul_error *err)
{
	int code = image_set_merge(ctx, threads);

	return code ? phaul_fail(err, code, "checkpoint", "collecting threads") : 0;
}

/* What came after the check, when the process still ran. */
static int check_mappings(struct phaul_checkpoint *c, pid_t pid, const struct memory_map *map)
{
	for (size_t i = 0; i < map->count; i++)
		if (map->at[i].kind == VMA_OTHER)
			return phaul_fail(c->state.err, -EOPNOTSUPP, "checkpoint", "pid %d has just mapped %s at %llx, which can't be "
					  "written to a directory", pid, map->at[i].path,
					  (unsigned long long)map->at[i].start);
	return 0;
}

static int put_memory(struct phaul_checkpoint *c, pid_t pid, const struct memory_map *map)
{
	int code = memory_dump(pid, map, false, &c->shmem, &c->pages);

	return !code || c->state.err->code == code ? code :
	       phaul_fail(c->state.err, code, "checkpoint", "writing the memory of pid %d", pid);
}

static int put_living(struct phaul_checkpoint *c, const struct task *task)
{
	struct thread_sink sink = { c->state.images, take_threads };
	struct memory_map map;
	remote_addr syscall_at;
	int code = memory_map_read(task->pid, true, &map, c->state.err);

	if (code)
		return code;
	code = remote_find_syscall(task->pid, &map, &syscall_at);
	if (code)
		phaul_fail(c->state.err, code, "checkpoint", "finding the vdso of pid %d, through which it is asked for its state",
			   task->pid);
	else
		code = check_mappings(c, task->pid, &map) ?: aio_settle(task->pid, &map, SETTLE_LIMIT_MS, c->state.err) ?:
		       tree_state_put(&c->state, task, syscall_at, memory_map_gap(&map), &map, &sink) ?:
		       put_memory(c, task->pid, &map);
	memory_map_free(&map);
	return code;
}

static int put_tree(struct phaul_checkpoint *c)
{
	const struct tree *tree = c->state.tree;
	int code = 0;

	for (size_t i = 0; i < tree->count && !code; i++)
		code = tree->tasks[i].state == TASK_DEAD ? tree_state_put_dead(&c->state, &tree->tasks[i]) :
							   put_living(c, &tree->tasks[i]);
	return code ?: tree_state_put_queued(&c->state);
}

/* ---- one step after the other ---- */

static void checkpoint_free(struct phaul_checkpoint *c, int outcome)
{
	tree_state_free(&c->state, outcome == PHAUL_ABANDON || outcome == PHAUL_RUN);
	network_let_go(&c->hold);
	shmem_free(&c->shmem, false);
	ghost_set_free(&c->ghosts, outcome != PHAUL_ABANDON);
	page_writer_close(&c->pages);
	pages_elsewhere_free(&c->before);
	chain_close(&c->chain);
	cgroup_options_free(&c->cgroup_options);
	cgroup_sets_free(&c->cgroups);
	free(c);
}

/* What was dumped before, here or there: looked at before anything is touched. */
static int find_before(struct phaul_checkpoint *c, pid_t pid, struct phaul_error *err)
{
	return chain_open(c->here.directory, c->state.images, &c->chain, err) ?: chain_check_pid(&c->chain, pid, err) ?:
	       c->there.ch ? pages_hear(&c->before, c->there.ch, err) ?: pages_elsewhere_check_pid(&c->before, pid, err) : 0;
}

static bool process_awaits_answer(pid_t pid)
{
	struct phaul_error unwanted;
	struct descriptor_table t;
	bool found = false;

	if (descriptors_read(pid, false, &t, &unwanted))
		return false;
	for (size_t i = 0; i < t.count && !found; i++) {
		struct descriptor *d = &t.at[i];

		found = S_ISSOCK(d->st.st_mode) && !descriptor_own(&t, d, 0) && netlink_has_answer(d);
		descriptor_disown(d);
	}
	descriptors_free(&t);
	return found;
}

static bool any_awaits_answer(const struct tree *tree)
{
	bool found = false;

	for (size_t i = 0; i < tree->count && !found; i++)
		found = tree->tasks[i].state != TASK_DEAD && process_awaits_answer(tree->tasks[i].pid);
	return found;
}

/* Who has asked the kernel something by netlink, and never reads the answer, is frozen all the same. */
static int freeze_between_questions(struct phaul_checkpoint *c, pid_t pid, int timeout_ms, struct phaul_error *err)
{
	int code = 0;

	for (int tries = 1; !code; tries++) {
		c->since_ns = phaul_now_ns();
		code = tree_freeze(pid, NULL, timeout_ms, &c->tree, err);
		if (code || tries == FREEZE_TRIES || !any_awaits_answer(&c->tree))
			return code;
		code = tree_thaw(&c->tree);
		if (code)
			phaul_fail(err, code, "checkpoint", "letting pid %d go on for a moment", pid);
		usleep(ANSWER_US);
	}
	return code;
}

int phaul_checkpoint_open(int pid, int directory, struct phaul_channel *server, uint32_t flags, const char *cgroups, int timeout_ms,
			  struct phaul_checkpoint **ret, struct phaul_error *err)
{
	struct phaul_checkpoint *c = calloc(1, sizeof(*c));
	int code;

	*ret = NULL;
	if (!c)
		return phaul_fail(err, -ENOMEM, "checkpoint", "preparing for pid %d", pid);
	memset(err, 0, sizeof(*err));
	c->ghosts.directory = directory;
	c->here = (struct image_sink){ .directory = directory, .file = -1 };
	c->there = (struct image_sink){ .ch = server, .file = -1 };
	c->state = (struct tree_state){
		.tree = &c->tree, .flags = flags, .images = image_set_new(), .shmem = &c->shmem, .pages = &c->pages, .ghosts = &c->ghosts,
		.cgroups = &c->cgroups, .hold = &c->hold, .addresses = &c->no_addresses,
	};
	code = c->state.images ? cgroup_options_parse(cgroups, &c->cgroup_options, err) :
	       phaul_fail(err, -ENOMEM, "checkpoint", "preparing for pid %d", pid);
	code = code ?: find_before(c, pid, err);
	code = code ?: freeze_between_questions(c, pid, timeout_ms, err);
	if (code)
		checkpoint_free(c, PHAUL_ABANDON);
	else
		*ret = c;
	return code;
}

static int put_clocks(struct phaul_checkpoint *c, struct phaul_error *err)
{
	pid_t pid = c->tree.tasks[0].pid;

	return clocks_put(c->state.images, pid) ? phaul_fail(err, -EIO, "checkpoint", "reading the clocks of pid %d", pid) : 0;
}

/* Another kernel may go on with it. One that can't be led out of this one's code is refused there, if it comes to that. */
static int put_origin(struct phaul_checkpoint *c, struct phaul_error *err)
{
	int code = leave_vdsos(&c->tree, err);

	if (code && code != -EAGAIN)
		return code;
	return origin_put_checkpoint(c->state.images) ? phaul_fail(err, -ENOMEM, "checkpoint", "noting how this CPU lays out registers") : 0;
}

int phaul_checkpoint_write(struct phaul_checkpoint *c, struct phaul_dumped *ret, struct phaul_error *err)
{
	int code;

	memset(err, 0, sizeof(*err));
	c->state.err = c->here.err = c->there.err = err;
	code = page_writer_open(&c->chain, c->there.ch ? &c->before : NULL, c->state.images, c->there.ch ? &c->there : &c->here, &c->pages);
	code = code ?: put_origin(c, err) ?: tree_state_read(&c->state) ?: put_tree(c) ?:
	       cgroup_sets_dump(&c->cgroups, &c->cgroup_options, c->state.images, err) ?: put_clocks(c, err) ?:
	       inventory_put(c->state.images, c->ghosts.directory, &c->tree, err) ?:
	       image_set_save(c->state.images, &c->here);
	if (!code && c->there.ch)
		code = ghost_set_send(&c->ghosts, &c->there) ?: image_set_save(c->state.images, &c->there);
	*ret = (struct phaul_dumped){ .pages = c->pages.pages, .written = c->pages.written, .processes = c->tree.count };
	for (size_t i = 0; i < c->tree.count; i++)
		ret->threads += c->tree.tasks[i].frozen.count;
	return code;
}

/* From the first line on they end if we do: the images are complete. */
static int part_with(struct phaul_checkpoint *c, int outcome, struct phaul_error *err)
{
	int code = outcome == PHAUL_KILL ? tree_bind(&c->tree, true, err) : 0;

	c->state.err = err;
	code = code ?: outcome == PHAUL_KILL || outcome == PHAUL_STOP ? tree_state_lock(&c->state) : 0;
	if (!code && outcome == PHAUL_STOP)
		code = tree_stop(&c->tree, err);
	if (code && outcome == PHAUL_KILL)
		(void)tree_bind(&c->tree, false, NULL);
	return code;
}

int phaul_checkpoint_close(struct phaul_checkpoint *c, int outcome, uint64_t *ret_frozen_ns, struct phaul_error *err)
{
	pid_t pid = c->tree.tasks[0].pid;
	int code = part_with(c, outcome, err), thawed = 0;

	outcome = code ? PHAUL_ABANDON : outcome;
	if (outcome == PHAUL_KILL) {
		tree_kill(&c->tree);
	} else {
		network_let_go(&c->hold);
		thawed = tree_thaw(&c->tree);
	}
	*ret_frozen_ns = phaul_now_ns() - c->since_ns;
	checkpoint_free(c, outcome);
	return code ?: thawed ? phaul_fail(err, thawed, "checkpoint", "letting pid %d go on", pid) : 0;
}
