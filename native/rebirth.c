#include "rebirth.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "error.h"
#include "inherit.h"
#include "objects/aio.h"
#include "objects/inet_connection.h"
#include "objects/tty.h"
#include "state.h"

#define PID_LIMIT (1u << 22)	/* the kernel's PID_MAX_LIMIT */
#define TASKS_MAX (1u << 16)

/* ---- reading ---- */

static int find_parent(struct rebirth *r, struct reborn *task)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->tasks[i]->entry->pid == task->entry->ppid && r->tasks[i]->state != TASK_DEAD) {
			task->parent = i;
			return 0;
		}
	task->parent = r->count;
	return r->count ? -EPROTO : 0;
}

static int read_ids(struct rebirth *r, const struct image_set *images, struct reborn *task)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;

	if (image_read(images, "ids", reborn_pid(task), &reader) ||
	    image_next(&reader, &task_kobj_ids_entry__descriptor, &msg) != 1)
		return image_malformed("ids", reborn_pid(task), r->err);
	task->files_id = ((TaskKobjIdsEntry *)msg)->files_id;
	task->fs_id = ((TaskKobjIdsEntry *)msg)->fs_id;
	protobuf_c_message_free_unpacked(msg, NULL);
	for (size_t i = 0; i < r->table_count; i++)
		if (r->tables[i] == (pid_t)task->files_id)
			return 0;
	r->tables[r->table_count++] = task->files_id;
	return 0;
}

/* Older images of CRIU's have it of the process alone. */
static uint32_t cgroup_set_in(const CoreEntry *core)
{
	return core->thread_core && core->thread_core->has_cg_set ? core->thread_core->cg_set :
	       core->tc && core->tc->has_cg_set ? core->tc->cg_set : 0;
}

static int read_core(struct rebirth *r, const struct image_set *images, struct reborn *task, bool needed)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	const CoreEntry *core;
	int code = image_read(images, "core", reborn_pid(task), &reader);

	task->state = TASK_ALIVE;
	if (code == -ENOENT && !needed)
		return 0;
	if (code || image_next(&reader, &core_entry__descriptor, &msg) != 1)
		return image_malformed("core", reborn_pid(task), r->err);
	core = (CoreEntry *)msg;
	task->state = core->tc ? core->tc->task_state : 0;
	task->exit_code = core->tc ? core->tc->exit_code : 0;
	task->stop_signal = core->tc && core->tc->has_stop_signo ? core->tc->stop_signo : SIGSTOP;
	task->cgroup_set = cgroup_set_in(core) ?: task->cgroup_set;
	protobuf_c_message_free_unpacked(msg, NULL);
	if (task->state != TASK_DEAD && task->state != TASK_ALIVE && task->state != TASK_STOPPED)
		return image_wrong("core", reborn_pid(task), r->err, "tc.task_state says neither alive nor dead nor stopped");
	return 0;
}

static void reborn_free(struct reborn *task)
{
	if (task->staged)
		stage_close(&task->stage);
	husk_close(&task->husk);
	layout_free(&task->layout);
	if (task->entry)
		pstree_entry__free_unpacked(task->entry, NULL);
	free(task);
}

static bool is_pid(uint32_t number)
{
	return number && number <= PID_LIMIT;
}

/* Nothing else is ever signalled, waited for or asked for. */
static int check_entry(struct rebirth *r, PstreeEntry *entry)
{
	if (!is_pid(entry->pid) || !is_pid(entry->pgid) || !is_pid(entry->sid))
		return image_wrong("pstree", -1, r->err, "pid %u, pgid %u, sid %u: these are numbers from 1 to %u", entry->pid, entry->pgid,
				   entry->sid, PID_LIMIT);
	/* CRIU knows none of a process that has ended. */
	if (entry->n_threads == 1 && !is_pid(entry->threads[0]))
		entry->threads[0] = entry->pid;
	if (!entry->n_threads || entry->threads[0] != entry->pid)
		return image_wrong("pstree", -1, r->err, "threads of process %u do not begin with it", entry->pid);
	for (size_t i = 1; i < entry->n_threads; i++)
		if (!is_pid(entry->threads[i]))
			return image_wrong("pstree", -1, r->err, "threads of process %u: %u is no number of a thread", entry->pid,
					   entry->threads[i]);
	for (size_t i = 0; i < r->count; i++)
		if (r->tasks[i]->entry->pid == entry->pid)
			return image_wrong("pstree", -1, r->err, "pid %u is there twice", entry->pid);
	return 0;
}

static int add_task(struct rebirth *r, const struct image_set *images, PstreeEntry *entry)
{
	struct reborn **tasks = reallocarray(r->tasks, r->count + 1, sizeof(*tasks));
	pid_t *tables = reallocarray(r->tables, r->count + 1, sizeof(*tables));
	struct reborn *task = calloc(1, sizeof(*task));
	struct layout_process told;

	r->tasks = tasks ? tasks : r->tasks;
	r->tables = tables ? tables : r->tables;
	if (!tasks || !tables || !task || r->count == TASKS_MAX) {
		pstree_entry__free_unpacked(entry, NULL);
		free(task);
		return phaul_fail(r->err, -ENOMEM, "restore", "listing the processes");
	}
	task->entry = entry;
	if (check_entry(r, entry) || (find_parent(r, task) &&
				      image_wrong("pstree", -1, r->err, "ppid %u of process %u: there is none before it that could "
						  "have a child", entry->ppid, entry->pid))) {
		reborn_free(task);
		return -EPROTO;
	}
	r->tasks[r->count++] = task;
	if (layout_read_process(images, reborn_pid(task), &told))
		return image_malformed("phaul-process", reborn_pid(task), r->err);
	task->birth = told.birth;
	task->descriptor_room = told.descriptor_room;
	task->cgroup_set = told.cgroup_set;
	return read_core(r, images, task, false) ?: task->state == TASK_DEAD ? 0 : read_ids(r, images, task);
}

int rebirth_read(struct rebirth *r, const struct image_set *images)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	int more = 0, code = image_read(images, "pstree", -1, &reader) ? image_malformed("pstree", -1, r->err) : 0;

	while (!code && (more = image_next(&reader, &pstree_entry__descriptor, &msg)) > 0)
		code = add_task(r, images, (PstreeEntry *)msg);
	if (!code && (more < 0 || !r->count))
		code = image_malformed("pstree", -1, r->err);
	if (!code && r->tasks[0]->state == TASK_DEAD)
		code = image_wrong("core", reborn_pid(r->tasks[0]), r->err, "tc.task_state says that the first process has ended");
	return code;
}

int rebirth_read_states(struct rebirth *r, const struct image_set *images)
{
	int code = 0;

	for (size_t i = 0; i < r->count && !code; i++)
		code = read_core(r, images, r->tasks[i], true);
	return code;
}

/* ---- one round after the other ---- */

static struct reborn **find(const struct rebirth *r, const struct reborn *task)
{
	for (size_t i = 0; i < r->count; i++)
		if (reborn_pid(r->tasks[i]) == reborn_pid(task) && r->tasks[i]->birth == task->birth)
			return &r->tasks[i];
	return NULL;
}

/* What its tracer has seen the end of is its parent's to take note of; only then the pid is free. */
static void end_child(struct rebirth *r, struct reborn *task)
{
	struct reborn *parent = r->tasks[task->parent];
	pid_t pid = task->husk.pid;

	husk_close(&task->husk);
	if (pid && parent != task && parent->husk.pid)
		(void)remote_call(&parent->husk.leader, SYS_wait4, pid, 0, __WALL, 0);
}

void rebirth_become(struct rebirth *r, struct rebirth *next)
{
	/* Children before their parents. */
	for (size_t i = r->count; i-- > 0; )
		if (!find(next, r->tasks[i]))
			end_child(r, r->tasks[i]);
	for (size_t i = 0; i < next->count; i++) {
		struct reborn *told = next->tasks[i], **kept = find(r, told);
		PstreeEntry *entry = told->entry;

		if (!kept || !(*kept)->husk.pid)
			continue;
		told->entry = (*kept)->entry;
		next->tasks[i] = *kept;
		*kept = told;
		next->tasks[i]->entry = entry;
		next->tasks[i]->parent = told->parent;
		next->tasks[i]->state = told->state;
		next->tasks[i]->files_id = told->files_id;
		next->tasks[i]->fs_id = told->fs_id;
		next->tasks[i]->exit_code = told->exit_code;
		next->tasks[i]->descriptor_room = told->descriptor_room;
		next->tasks[i]->cgroup_set = told->cgroup_set;
	}
	for (size_t i = 0; i < r->count; i++)
		reborn_free(r->tasks[i]);
	free(r->tasks);
	free(r->tables);
	r->tasks = next->tasks;
	r->count = next->count;
	r->tables = next->tables;
	r->table_count = next->table_count;
	next->tasks = NULL;
	next->tables = NULL;
	next->count = next->table_count = 0;
}

/* ---- husks ---- */

static int make(struct rebirth *r, const struct image_set *images, size_t i);

/* Children that are no part of a session that their parent began were born before it did. */
static int make_children(struct rebirth *r, const struct image_set *images, size_t of, bool elder)
{
	const struct reborn *parent = r->tasks[of];
	int code = 0;

	for (size_t i = 1; i < r->count && !code; i++) {
		const PstreeEntry *entry = r->tasks[i]->entry;
		bool older = entry->sid != entry->pid && entry->sid != parent->entry->sid;

		if (r->tasks[i]->parent == of && older == elder)
			code = make(r, images, i);
	}
	return code;
}

static uint64_t shared_by_birth(const struct rebirth *r, const struct reborn *task)
{
	const struct reborn *parent = r->tasks[task->parent];

	return (task->files_id && task->files_id == parent->files_id ? CLONE_FILES : 0) |
	       (task->fs_id && task->fs_id == parent->fs_id ? CLONE_FS : 0);
}

/* A parent that has memory already keeps it for itself, but for what is `given`. */
static int fork_husk(struct reborn *parent, pid_t pid, uint64_t flags, const struct range_list *given, struct husk *ret,
		     struct phaul_error *err)
{
	int code = parent->staged ? stage_spare(&parent->stage, true, given, err) : 0;

	code = code ?: husk_fork(&parent->husk, pid, flags, ret, err);
	return code ?: parent->staged ? stage_spare(&parent->stage, false, given, err) : 0;
}

/* Is there all that it shall have from its parent? */
static int check_inherited(struct rebirth *r, const struct reborn *task)
{
	const struct reborn *parent = r->tasks[task->parent];
	struct range_list there = {0}, missing = {0};
	int code = parent->staged ? inherit_candidates(&parent->stage.layout, &task->layout.map, &there) : 0;

	code = code ?: range_list_without(&task->layout.inherited, &there, &missing);
	if (code)
		phaul_fail(r->err, code, "restore", "comparing the mappings of pid %d with its parent's", reborn_pid(task));
	else if (missing.count)
		code = phaul_fail(r->err, -EPROTO, "restore", "pid %d is said to have %llu pages at %llx from its parent, which has "
				  "nothing there that it could give", reborn_pid(task), (unsigned long long)missing.at[0].pages,
				  (unsigned long long)missing.at[0].address);
	range_list_free(&there);
	range_list_free(&missing);
	return code;
}

static int beget_child(struct rebirth *r, struct reborn *task)
{
	struct reborn *parent = r->tasks[task->parent];
	const struct range_list *given = &task->layout.inherited;
	int code = given->count ? check_inherited(r, task) : 0;

	code = code ?: fork_husk(parent, reborn_pid(task), shared_by_birth(r, task), given, &task->husk, r->err);
	if (code || !given->count)
		return code;
	code = stage_inherit(&task->stage, &task->husk, &parent->stage, given, r->err);
	task->stage.shmem = &r->shmem;
	task->staged = !code;
	return code;
}

/* Before it has memory, which is counted as that of the group that it is in. */
static int put_in_groups(struct rebirth *r, struct reborn *task)
{
	uint32_t from = task->placed_set;

	if (task->state == TASK_DEAD || !task->cgroup_set || task->cgroup_set == from)
		return 0;
	task->placed_set = task->cgroup_set;
	return cgroups_place(&r->cgroups, reborn_pid(task), from, task->cgroup_set, r->err);
}

static int beget(struct rebirth *r, const struct image_set *images, size_t i)
{
	struct reborn *task = r->tasks[i];
	pid_t pid = reborn_pid(task);
	int64_t session = 0;
	int code = i ? beget_child(r, task) : husk_open(pid, r->clock_offsets, &task->husk, r->err);

	task->placed_set = i ? r->tasks[task->parent]->placed_set : 0;
	code = code ?: put_in_groups(r, task);
	if (!code && r->populate)
		code = r->populate(r->ctx, task);
	if (!code)
		code = make_children(r, images, i, true);
	/* The root leads a session from the start. */
	if (!code && i && task->entry->sid == task->entry->pid)
		session = remote_call(&task->husk.leader, SYS_setsid);
	if (session < 0)
		return phaul_fail(r->err, session, "restore", "beginning session %d", pid);
	return code ?: ttys_take(&r->files, images, &task->husk, false, r->err);
}

static int make(struct rebirth *r, const struct image_set *images, size_t i)
{
	int code = r->tasks[i]->husk.pid ? put_in_groups(r, r->tasks[i]) : beget(r, images, i);

	return code ?: make_children(r, images, i, false);
}

static int check_session(struct rebirth *r, const struct reborn *task)
{
	pid_t session = getsid(reborn_pid(task));

	if (session == (pid_t)task->entry->sid)
		return 0;
	return phaul_fail(r->err, -EOPNOTSUPP, "restore", "process %d belongs to session %u, whose leader is not among those "
			  "that come with it", reborn_pid(task), task->entry->sid);
}

int rebirth_make(struct rebirth *r, const struct image_set *images)
{
	int code = make(r, images, 0);

	for (size_t i = 0; i < r->count && !code; i++)
		code = check_session(r, r->tasks[i]);
	return code;
}

int rebirth_stage(struct rebirth *r, struct reborn *task)
{
	int code = task->staged ? 0 : stage_open(&task->stage, &task->husk, r->err);

	task->staged = task->staged || !code;
	task->stage.shmem = &r->shmem;
	return code;
}

static int place_thread(struct rebirth *r, const struct image_set *images, const struct reborn *task, pid_t tid)
{
	struct image_reader reader;
	ProtobufCMessage *msg = NULL;
	uint32_t set;

	if (image_read(images, "core", tid, &reader) || image_next(&reader, &core_entry__descriptor, &msg) != 1)
		return image_malformed("core", tid, r->err);
	set = cgroup_set_in((CoreEntry *)msg);
	protobuf_c_message_free_unpacked(msg, NULL);
	return set && set != task->placed_set ? cgroups_place_thread(&r->cgroups, tid, task->placed_set, set, r->err) : 0;
}

int rebirth_place_threads(struct rebirth *r, const struct image_set *images)
{
	int code = 0;

	for (size_t i = 0; r->cgroups.image && i < r->count && !code; i++)
		for (size_t n = 1; r->tasks[i]->state != TASK_DEAD && n < r->tasks[i]->entry->n_threads && !code; n++)
			code = place_thread(r, images, r->tasks[i], r->tasks[i]->entry->threads[n]);
	return code;
}

int rebirth_lead_vdso(struct rebirth *r, struct reborn *task)
{
	const struct vma *old = memory_map_named(&task->stage.layout, "[vdso]"), *vdso;
	struct memory_map own;
	struct vdso there, here;
	int code;

	if (!old || !r->origin || !r->origin->other_vdso ||
	    (task->vdso_at == old->start && task->vdso_leads_to == task->husk.leader.syscall_at))
		return 0;
	there = r->origin->vdso;
	if (old->end - old->start != there.size)
		return phaul_fail(r->err, -EPROTO, "restore", "the vdso of pid %d is not as large as the source said", reborn_pid(task));
	code = memory_map_read(reborn_pid(task), false, &own, r->err);
	if (code)
		return code;
	vdso = memory_map_named(&own, "[vdso]");
	code = vdso ? vdso_read(reborn_pid(task), &own, &here) : -ENOENT;
	code = code ?: vdso_redirect(&there, &here, vdso->start);
	memory_map_free(&own);
	if (code)
		return phaul_fail(r->err, code, "restore", "leading the vdso that pid %d has from the source's kernel into this "
				  "kernel's", reborn_pid(task));
	task->vdso_at = old->start;
	task->vdso_leads_to = task->husk.leader.syscall_at;
	return stage_write(&task->stage, old->start, there.bytes, there.size, r->err);
}

/* ---- what they are to each other ---- */

static int join_group(struct rebirth *r, struct reborn *task)
{
	uint32_t group = task->entry->pgid;
	int64_t code = getpgid(reborn_pid(task)) == (pid_t)group ? 0 :
		       remote_call(&task->husk.leader, SYS_setpgid, 0, group);

	return code < 0 ? phaul_fail(r->err, code, "restore", "making process %d a member of process group %u, whose "
				     "leader may have ended before", reborn_pid(task), group) : 0;
}

/* A group whose leader has ended, and was waited for, begins with one that stands in for it for a moment. */
static int make_group(struct rebirth *r, struct reborn *member)
{
	uint32_t group = member->entry->pgid;
	struct husk leader;
	int64_t code;

	for (size_t i = 0; i < r->count; i++)
		if (r->tasks[i]->entry->pid == group)
			return 0;
	if (getpgid(reborn_pid(member)) == (pid_t)group)
		return 0;
	code = fork_husk(member, group, 0, NULL, &leader, r->err);
	if (code)
		return code;
	code = remote_call(&leader.leader, SYS_setpgid, 0, 0);
	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i]->entry->pgid == group)
			code = remote_call(&r->tasks[i]->husk.leader, SYS_setpgid, 0, group);
	if (code)
		phaul_fail(r->err, code, "restore", "beginning process group %u, whose leader had ended", group);
	code = code ?: husk_end(&leader, SIGKILL);
	husk_close(&leader);
	/* It is its parent's to take note of the end. */
	return code ? code : remote_call(&member->husk.leader, SYS_wait4, group, 0, __WALL, 0) == group ? 0 :
	       phaul_fail(r->err, -ECHILD, "restore", "ending the leader of process group %u", group);
}

static int end(struct rebirth *r, struct reborn *task)
{
	int code = husk_end(&task->husk, task->exit_code);

	return code ? phaul_fail(r->err, code, "restore", "ending process %d, which shall be a zombie", reborn_pid(task)) : 0;
}

int rebirth_settle(struct rebirth *r, const struct image_set *images)
{
	int code = 0;

	for (int leaders = 1; leaders >= 0; leaders--)
		for (size_t i = 0; i < r->count && !code; i++)
			if ((r->tasks[i]->entry->pgid == r->tasks[i]->entry->pid) == leaders)
				code = leaders ? join_group(r, r->tasks[i]) : make_group(r, r->tasks[i]) ?:
				       join_group(r, r->tasks[i]);
	for (size_t i = 0; i < r->count && !code; i++)
		code = ttys_take(&r->files, images, &r->tasks[i]->husk, true, r->err);
	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i]->state == TASK_DEAD)
			code = end(r, r->tasks[i]);
	return code;
}

/* ---- all else ---- */

/* The first that has a table makes it for all. */
static int64_t table_of(const struct rebirth *r, size_t i)
{
	for (size_t n = 0; n < i; n++)
		if (r->tasks[n]->state != TASK_DEAD && r->tasks[n]->files_id == r->tasks[i]->files_id)
			return -1;
	return r->tasks[i]->files_id;
}

/* It is the source that says when: its state must not come before its memory. */
static int check_staged(struct rebirth *r)
{
	for (size_t i = 0; i < r->count; i++)
		if (r->tasks[i]->state != TASK_DEAD && !r->tasks[i]->stage.layout.count)
			return phaul_fail(r->err, -EPROTO, "restore", "the state of process %d came before its memory", reborn_pid(r->tasks[i]));
	return 0;
}

int rebirth_build_threads(struct rebirth *r, const struct image_set *images)
{
	int code = check_staged(r);

	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i]->state != TASK_DEAD)
			code = state_build_threads(&r->tasks[i]->husk, images, r->err);
	return code;
}

int rebirth_build(struct rebirth *r, const struct image_set *images, struct phaul_built *ret)
{
	int code = check_staged(r) ?: inet_make_connections(&r->files, images, r->err);

	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i]->state != TASK_DEAD)
			code = state_build_first(&r->tasks[i]->husk, images, &r->files, r->err) ?:
			       aio_build(&r->tasks[i]->husk, &r->tasks[i]->stage.layout, r->err);
	code = code ?: rebirth_build_threads(r, images);
	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i]->state != TASK_DEAD)
			code = state_build(&r->tasks[i]->husk, images, &r->files, table_of(r, i), ret, r->err);
	return code;
}

/* A tree must not be let go by halves: from here on our end lets all of it go, while nothing of it runs yet. */
static int outlive_us(struct rebirth *r)
{
	int code = 0;

	for (size_t i = 0; i < r->count && r->count > 1 && !code; i++)
		if (r->tasks[i]->state != TASK_DEAD)
			code = husk_outlives_us(&r->tasks[i]->husk, r->err);
	return code;
}

/* Those that run already may end the others, which are then what they should be. */
int rebirth_release(struct rebirth *r)
{
	int code = 0;

	for (size_t i = 0; i < r->count; i++)
		if (r->tasks[i]->state == TASK_STOPPED)
			(void)kill(reborn_pid(r->tasks[i]), r->tasks[i]->stop_signal);
	code = outlive_us(r);
	for (size_t i = 0; i < r->count && !code; i++)
		if (r->tasks[i]->state != TASK_DEAD)
			code = husk_release(&r->tasks[i]->husk, i > 0, r->err);
	r->released = !code;
	return code;
}

void rebirth_free(struct rebirth *r)
{
	for (size_t i = r->count; i-- > 0; ) {
		/* Nobody's any more. */
		if (r->released)
			r->tasks[i]->husk.pid = 0;
		reborn_free(r->tasks[i]);
	}
	free(r->tasks);
	free(r->tables);
	free(r->origin);
	shmem_free(&r->shmem, r->released);
	built_files_free(&r->files);
	cgroups_free(&r->cgroups);
	memset(r, 0, sizeof(*r));
}
