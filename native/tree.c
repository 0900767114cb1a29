#include "tree.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "error.h"
#include "layout.h"
#include "objects/proc_stat.h"

#define GENERATIONS_MAX 1000
#define TASKS_MAX 100000	/* a process that forks for ever is not followed for ever */
#define PIDS_MAX 1000		/* given since, to look at: about as long as listing the children of as many threads */

int task_read(pid_t pid, struct task *ret)
{
	struct proc_stat stat;

	memset(ret, 0, sizeof(*ret));
	if (proc_stat_read(pid, &stat))
		return -ESRCH;
	ret->pid = pid;
	ret->state = stat.state == 'Z' || stat.state == 'X' ? TASK_DEAD : stat.state == 'T' ? TASK_STOPPED : TASK_ALIVE;
	ret->ppid = stat.field[STAT_PPID];
	ret->pgid = stat.field[STAT_PGID];
	ret->sid = stat.field[STAT_SID];
	ret->tty = stat.field[STAT_TTY];
	ret->exit_code = stat.field[STAT_EXIT_CODE];
	ret->started = stat.field[STAT_STARTED];
	return 0;
}

bool task_shares(pid_t a, pid_t b, int what)
{
	return !syscall(SYS_kcmp, a, b, what, 0, 0);
}

bool task_descends(pid_t pid, pid_t root)
{
	struct task task = { .ppid = pid };

	/* Bounded, as a tree that changes meanwhile could be walked for ever. */
	for (int i = 0; i < GENERATIONS_MAX && task.ppid != root; i++)
		if (task.ppid <= 1 || task_read(task.ppid, &task))
			return false;
	return task.ppid == root;
}

static int add_children(pid_t pid, pid_t tid, pid_t **children, size_t *count)
{
	char path[64], *line = NULL, *at, *end;
	size_t capacity = 0;
	int err = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, tid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	at = getline(&line, &capacity, f) > 0 ? line : "";
	for (long child; !err && (child = strtol(at, &end, 10)) > 0; at = end) {
		pid_t *larger = reallocarray(*children, *count + 1, sizeof(*larger));

		if (larger) {
			*children = larger;
			(*children)[(*count)++] = child;
		} else {
			err = -ENOMEM;
		}
	}
	free(line);
	fclose(f);
	return err;
}

int task_children(pid_t pid, pid_t **ret, size_t *ret_count)
{
	pid_t *tids = NULL;
	size_t count = 0;
	int err = threads_list(pid, &tids, &count);

	*ret = NULL;
	*ret_count = 0;
	for (size_t i = 0; i < count && !err; i++)
		err = add_children(pid, tids[i], ret, ret_count);
	free(tids);
	if (err) {
		free(*ret);
		*ret = NULL;
	}
	return err;
}

bool tree_has(const struct tree *t, pid_t pid)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->tasks[i].pid == pid)
			return true;
	return false;
}

static int add(struct tree *t, const struct task *task)
{
	struct task *larger = t->count < TASKS_MAX ? reallocarray(t->tasks, t->count + 1, sizeof(*larger)) : NULL;

	if (!larger)
		return -ENOMEM;
	t->tasks = larger;
	t->tasks[t->count++] = *task;
	return 0;
}

static void settle(struct tree *t, struct task *task)
{
	pid_t root = t->count ? t->tasks[0].pid : task->pid;

	if (!t->count) {
		task->ppid = 0;
		t->outer_sid = task->sid == root ? 0 : task->sid;
		t->outer_pgid = task->pgid == root ? 0 : task->pgid;
	}
	if (task->sid == t->outer_sid)
		task->sid = root;
	if (task->pgid == t->outer_pgid)
		task->pgid = root;
}

/* What has ended between two looks is looked at again, as what it has become. */
static int take(struct tree *t, pid_t pid, int timeout_ms, bool stop, struct phaul_error *err)
{
	struct task task;
	int code = task_read(pid, &task);

	if (!code && stop && task.state != TASK_DEAD) {
		code = freeze(pid, timeout_ms, &task.frozen, err);
		if (code == -ESRCH || (code == -EPERM && !task_read(pid, &task) && task.state == TASK_DEAD))
			code = task_read(pid, &task);
		else if (code)
			return code;
	}
	/* A root that has ended is nothing to freeze; what it is otherwise is for the checks to say. */
	if (!code && stop && !t->count && task.state == TASK_DEAD)
		code = -ESRCH;
	if (code)
		return t->count ? 0 : phaul_fail(err, -ESRCH, "tree", "pid %d has ended", pid);
	settle(t, &task);
	task.shares_files = task.ppid && task.state != TASK_DEAD && task_shares(pid, task.ppid, KCMP_FILES);
	task.shares_fs = task.ppid && task.state != TASK_DEAD && task_shares(pid, task.ppid, KCMP_FS);
	task.shares_memory = task.ppid && task.state != TASK_DEAD && task_shares(pid, task.ppid, KCMP_VM);
	code = add(t, &task);
	if (!code)
		return 1;
	(void)thaw(&task.frozen);
	return phaul_fail(err, code, "tree", "listing more than %zu processes below pid %d", t->count, t->tasks[0].pid);
}

/* Returns how many were new. */
static int take_children(struct tree *t, size_t of, int timeout_ms, bool stop, struct phaul_error *err)
{
	pid_t *children;
	size_t count;
	int code = t->tasks[of].state == TASK_DEAD ? 0 : task_children(t->tasks[of].pid, &children, &count), new = 0;

	if (t->tasks[of].state == TASK_DEAD)
		return 0;
	if (code)
		return code == -ESRCH ? 0 : phaul_fail(err, code, "tree", "listing the children of pid %d", t->tasks[of].pid);
	for (size_t i = 0; i < count && code >= 0; i++) {
		code = tree_has(t, children[i]) ? 0 : take(t, children[i], timeout_ms, stop, err);
		new += code > 0;
	}
	free(children);
	return code < 0 ? code : new;
}

static int take_all_children(struct tree *t, int timeout_ms, bool stop, struct phaul_error *err)
{
	int code = 0, new = 0;

	for (size_t i = 0; i < t->count && code >= 0; i++) {
		code = take_children(t, i, timeout_ms, stop, err);
		new += code > 0 ? code : 0;
	}
	return code < 0 ? code : new;
}

/* The kernel gives pids in order; 0 if it doesn't tell. One that is chosen (set_tid) isn't told. */
static pid_t last_pid(void)
{
	FILE *f = fopen("/proc/loadavg", "re");
	int pid = 0;

	if (f && fscanf(f, "%*s %*s %*s %*s %d", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return pid;
}

static bool is_thread(pid_t pid)
{
	int fd = syscall(SYS_pidfd_open, pid, 0);

	if (fd >= 0)
		close(fd);
	return fd < 0 && (errno == EINVAL || errno == ENOENT);
}

static int take_if_child(struct tree *t, pid_t pid, int timeout_ms, struct phaul_error *err)
{
	struct task task;

	if (tree_has(t, pid) || task_read(pid, &task) || !tree_has(t, task.ppid) || is_thread(pid))
		return 0;
	return take(t, pid, timeout_ms, true, err);
}

/* The kernel lists the children of a thread at a time, and a thousand threads take 10 ms. Who was in the tree, or has
 * got its pid since it was listed, is looked at instead. */
static int take_known(struct tree *t, const struct tree *known, int timeout_ms, struct phaul_error *err)
{
	pid_t last = last_pid();
	int code = 0, new = 0;

	if (last < known->last_pid || last - known->last_pid > PIDS_MAX)
		return take_all_children(t, timeout_ms, true, err);
	for (size_t i = 0; i < known->count && code >= 0; i++) {
		code = take_if_child(t, known->tasks[i].pid, timeout_ms, err);
		new += code > 0;
	}
	for (pid_t pid = known->last_pid + 1; pid <= last && code >= 0; pid++) {
		code = take_if_child(t, pid, timeout_ms, err);
		new += code > 0;
	}
	return code < 0 ? code : new;
}

/* Again until nothing is new: a process that was not yet frozen may have had a child and ended, which then became
 * the child of one that was (a subreaper). */
static int collect(struct tree *t, pid_t root, const struct tree *known, int timeout_ms, bool stop, struct phaul_error *err)
{
	int code;

	memset(t, 0, sizeof(*t));
	t->last_pid = last_pid();
	code = take(t, root, timeout_ms, stop, err);
	while (code > 0) {
		code = known && known->last_pid ? take_known(t, known, timeout_ms, err) :
						  take_all_children(t, timeout_ms, stop, err);
		code = stop ? code : code < 0 ? code : 0;
	}
	return code;
}

int tree_list(pid_t root, struct tree *ret, struct phaul_error *err)
{
	int code = collect(ret, root, NULL, 0, false, err);

	if (code)
		tree_free(ret);
	return code;
}

int tree_freeze(pid_t root, const struct tree *known, int timeout_ms, struct tree *ret, struct phaul_error *err)
{
	int code = collect(ret, root, known, timeout_ms, true, err);

	if (code)
		(void)tree_thaw(ret);
	return code;
}

int tree_thaw(struct tree *t)
{
	int ret = 0;

	for (size_t i = t->count; i-- > 0; ) {
		int err = t->tasks[i].state == TASK_DEAD ? 0 : thaw(&t->tasks[i].frozen);

		ret = ret ? ret : err;
	}
	tree_free(t);
	return ret;
}

int tree_bind(const struct tree *t, bool dies_with_us, struct phaul_error *err)
{
	unsigned long options = PTRACE_O_TRACESYSGOOD | (dies_with_us ? PTRACE_O_EXITKILL : 0);

	for (size_t i = 0; i < t->count; i++)
		for (size_t n = 0; n < t->tasks[i].frozen.count; n++)
			if (ptrace(PTRACE_SETOPTIONS, t->tasks[i].frozen.threads[n].tid, 0, options) < 0)
				return phaul_fail(err, -errno, "tree", "setting what becomes of thread %d when phaul ends",
						  t->tasks[i].frozen.threads[n].tid);
	return 0;
}

int tree_stop(const struct tree *t, struct phaul_error *err)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->tasks[i].state != TASK_DEAD && kill(t->tasks[i].pid, SIGSTOP) < 0)
			return phaul_fail(err, -errno, "tree", "stopping pid %d", t->tasks[i].pid);
	return 0;
}

void tree_continue(const struct tree *t)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->tasks[i].state == TASK_ALIVE)
			(void)kill(t->tasks[i].pid, SIGCONT);
}

void tree_kill(struct tree *t)
{
	/* All are told before the first is waited for, and no parent runs that could have another. */
	for (size_t i = 0; i < t->count; i++)
		(void)kill(t->tasks[i].pid, SIGKILL);
	for (size_t i = t->count; i-- > 0; )
		for (size_t n = t->tasks[i].frozen.count; n-- > 0; )
			while (waitpid(t->tasks[i].frozen.threads[n].tid, NULL, __WALL) < 0 && errno == EINTR)
				;
	tree_free(t);
}

void tree_free(struct tree *t)
{
	for (size_t i = 0; i < t->count; i++)
		frozen_free(&t->tasks[i].frozen);
	free(t->tasks);
	memset(t, 0, sizeof(*t));
}
