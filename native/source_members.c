/* source_members.c - which processes belong to a tree that leaves, from round to round. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "source.h"

void member_forget(struct member *m)
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

bool member_has_memory(const struct member *m)
{
	const struct vma *vdso = memory_map_named(&m->known, "[vdso]");
	char byte;

	return m->tracked && vdso && pread(m->mem, &byte, 1, vdso->start) == 1;
}

struct member *member_find(struct member *members, size_t count, pid_t pid)
{
	for (size_t i = 0; i < count; i++)
		if (members[i].task.pid == pid)
			return &members[i];
	return NULL;
}

bool member_born_before_session(const struct task *task, const struct task *parent)
{
	return task->sid != task->pid && task->sid != parent->sid && parent->sid == parent->pid;
}

/* Can the husk that it has on the target still become what it is now? */
static bool is_same(const struct member *m, const struct task *now)
{
	return m->task.started == now->started && m->task.ppid == now->ppid && m->task.sid == now->sid && m->task.tty == now->tty &&
	       (now->state == TASK_DEAD || (m->task.shares_files == now->shares_files && m->task.shares_fs == now->shares_fs &&
					    member_has_memory(m)));
}

/* Takes the tree as it is for that of the next round. */
int source_take_tree(struct phaul_source *src, const struct tree *tree)
{
	struct member *members = calloc(tree->count, sizeof(*members));
	int code = 0;

	if (!members)
		return -ENOMEM;
	for (size_t i = 0; i < tree->count; i++) {
		const struct task *now = &tree->tasks[i];
		struct member *old = member_find(src->members, src->count, now->pid);

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
		member_forget(&src->members[i]);
	free(src->members);
	src->members = members;
	src->count = tree->count;
	/* Children go on growing below the husk of their parent only, and come later than that here. The root's stays. */
	for (size_t i = src->count; i-- > 1; ) {
		struct member *parent = member_find(members, i, members[i].task.ppid);

		if (parent && members[i].is_new && member_born_before_session(&members[i].task, &parent->task))
			parent->is_new = true;
	}
	for (size_t i = 0; i < src->count; i++) {
		struct member *m = &members[i], *parent = member_find(members, i, m->task.ppid);

		if ((i && !parent) || m->task.shares_memory)
			code = -EAGAIN;
		m->is_new = m->is_new || (parent && parent != members && parent->is_new);
		if (m->is_new || m->task.state == TASK_DEAD)
			member_forget(m);
		if (m->is_new)
			m->birth = i ? ++src->births : ROOT_BIRTH;
	}
	return code;
}

void source_stop_tracking(struct phaul_source *src)
{
	for (size_t i = 0; i < src->count; i++)
		member_forget(&src->members[i]);
}
