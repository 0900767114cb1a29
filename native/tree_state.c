#include "tree_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "network_lock.h"

/* The first that has it: the nearest ancestor that shares it with none. */
static pid_t first_of(const struct tree *tree, const struct task *task, bool files)
{
	while (task && (files ? task->shares_files : task->shares_fs)) {
		const struct task *parent = NULL;

		for (size_t i = 0; i < tree->count && !parent; i++)
			parent = tree->tasks[i].pid == task->ppid ? &tree->tasks[i] : NULL;
		task = parent;
	}
	return task ? task->pid : 0;
}

void tree_ids_of(const struct tree *tree, const struct task *task, TaskKobjIdsEntry *ids)
{
	ids->vm_id = ids->sighand_id = task->pid;
	ids->files_id = first_of(tree, task, true);
	ids->fs_id = first_of(tree, task, false);
	ids->has_pid_ns_id = ids->has_net_ns_id = ids->has_ipc_ns_id = ids->has_uts_ns_id = ids->has_mnt_ns_id = true;
	ids->has_user_ns_id = ids->has_cgroup_ns_id = ids->has_time_ns_id = true;
	ids->pid_ns_id = NAMESPACE_PID;
	ids->net_ns_id = NAMESPACE_NET;
	ids->ipc_ns_id = NAMESPACE_IPC;
	ids->uts_ns_id = NAMESPACE_UTS;
	ids->mnt_ns_id = NAMESPACE_MNT;
	ids->user_ns_id = NAMESPACE_USER;
	ids->cgroup_ns_id = NAMESPACE_CGROUP;
	ids->time_ns_id = NAMESPACE_TIME;
}

int tree_put_ids(struct image_set *to, const struct tree *tree, const struct task *task)
{
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;

	tree_ids_of(tree, task, &ids);
	return image_put(to, "ids", task->pid, &ids.base);
}

int tree_put_dead(struct image_set *to, const struct task *task)
{
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;

	tc.task_state = task->state;
	tc.exit_code = task->exit_code;
	tc.comm = "";
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.tc = &tc;
	return image_put(to, "core", task->pid, &core.base) ?:
	       state_put_tree(to, task, &(pid_t){ task->pid }, 1);
}

static int read_descriptors(struct tree_state *s)
{
	int code = 0;

	s->descriptors = calloc(s->tree->count + 1, sizeof(*s->descriptors));
	if (!s->descriptors)
		return phaul_fail(s->err, -ENOMEM, "state", "listing descriptors");
	for (size_t i = 0; i < s->tree->count && !code; i++) {
		const struct task *task = &s->tree->tasks[i];

		if (task->state == TASK_DEAD)
			continue;
		code = descriptors_read(task->pid, true, &s->descriptors[s->descriptor_count], s->err);
		s->descriptor_count += !code;
	}
	code = code ?: unix_queues_collect(&s->queues, s->descriptors, &s->descriptor_count, s->err);
	if (!code && s->descriptor_count > 1 && descriptors_group(s->descriptors, s->descriptor_count))
		code = phaul_fail(s->err, -ENOMEM, "state", "comparing descriptors");
	if (!code && s->stdio && stdio_replace(s->descriptors, s->descriptor_count, s->stdio))
		code = phaul_fail(s->err, -ENOMEM, "state", "leaving stdio behind");
	s->next_file_id = 1;
	for (size_t i = 0; i < s->descriptor_count; i++)
		s->next_file_id += s->descriptors[i].count;	/* at least as many as there are ids */
	return code;
}

static int hold_connections(struct tree_state *s)
{
	pid_t pid = s->tree->tasks[0].pid;
	size_t waiting = 0;
	int code = 0;

	/* First, so that no connection comes after the list. */
	if (s->addresses->count)
		code = network_hold(s->hold, pid, NULL, 0, s->addresses, s->err);
	if (code)
		return code;
	if (s->flags & PHAUL_TCP_ESTABLISHED)
		code = inet_connections(s->descriptors, s->descriptor_count, &s->pairs, &s->pair_count, &waiting);
	if (code)
		phaul_fail(s->err, code, "state", "listing TCP connections");
	else if (s->pair_count)
		code = network_hold(s->hold, pid, s->pairs, s->pair_count, s->addresses, s->err);
	/* No more come now. In a directory they are left out, if they may. */
	if (!code && waiting && !s->pages)
		code = phaul_fail(s->err, -EAGAIN, "state", "connections wait to be accepted by processes below pid %d, and would be lost: "
				  "try again, or run with --tcp close to reset them", pid);
	return code;
}

int tree_state_lock(struct tree_state *s)
{
	int code = s->pair_count ? network_lock(s->tree->tasks[0].pid, s->pairs, s->pair_count, s->err) : 0;

	if (!code)
		paused_set_pause(&s->paused);
	return code;
}

int tree_state_read(struct tree_state *s)
{
	return read_descriptors(s) ?: hold_connections(s);
}

int tree_state_put_dead(struct tree_state *s, const struct task *task)
{
	int code = tree_put_dead(s->images, task);

	return code ? phaul_fail(s->err, code, "state", "writing the end of pid %d", task->pid) : 0;
}

int tree_state_put(struct tree_state *s, const struct task *task, remote_addr syscall_at, remote_addr area_hint,
		   const struct memory_map *map, const struct thread_sink *sink)
{
	struct state_of_tree place = {
		.task = task, .descriptors = &s->descriptors[s->put_count++], .next_file_id = s->next_file_id,
		.ghosts = s->ghosts, .mapped = &s->mapped, .queues = &s->queues, .paused = &s->paused, .shmem = s->shmem, .pages = s->pages,
		.cgroups = s->cgroups,
	};
	int code = tree_put_ids(s->images, s->tree, task);

	if (code)
		return phaul_fail(s->err, code, "state", "writing who shares what with pid %d", task->pid);
	code = state_dump(&task->frozen, syscall_at, area_hint, s->flags, map, &place, s->images, sink, s->err);
	s->next_file_id = place.next_file_id;
	return code;
}

int tree_state_put_queued(struct tree_state *s)
{
	struct dump of_ours = {
		.flags = s->flags, .images = s->images, .ghosts = s->ghosts, .queues = &s->queues, .paused = &s->paused,
		.shmem = s->shmem, .pages = s->pages, .next_file_id = s->next_file_id, .err = s->err,
	};
	int code = s->queues.fd_count ? descriptors_dump_queued(&of_ours, &s->descriptors[s->put_count]) : 0;

	dump_free(&of_ours);
	return code;
}

void tree_state_free(struct tree_state *s, bool stays)
{
	for (size_t i = 0; i < s->descriptor_count; i++)
		descriptors_free(&s->descriptors[i]);
	free(s->descriptors);
	s->descriptors = NULL;
	s->descriptor_count = s->put_count = 0;
	image_set_free(s->images);
	s->images = NULL;
	unix_queues_free(&s->queues);
	mapped_files_free(&s->mapped);
	if (stays && s->hold)
		network_let_go(s->hold);
	paused_set_free(&s->paused);
	free(s->pairs);
	s->pairs = NULL;
	s->pair_count = 0;
}
