/* check_process.c - what a process is, and is tied to, that keeps it from moving or will be different. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "ghost.h"
#include "layout.h"
#include "tree.h"

#define ANCESTORS_MAX 1000	/* a process tree that changes meanwhile could be walked for ever */

static const char *name_of(pid_t pid, char name[32])
{
	char path[32];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (!f || !fgets(name, 32, f))
		strcpy(name, "?");
	name[strcspn(name, "\n")] = 0;
	if (f)
		fclose(f);
	return name;
}

static char state_of(const struct proc_status *s)
{
	const char *state = proc_status_field(s, "State");

	return state ? *state : '?';
}

/* A leader that has ended stays a zombie until its last thread has. */
static bool any_thread_lives(pid_t pid, const pid_t *tids, size_t count)
{
	struct proc_status s;

	for (size_t i = 0; i < count; i++)
		if (tids[i] != pid && proc_status_read(pid, tids[i], &s) == 0 && state_of(&s) != 'Z' &&
		    state_of(&s) != 'X')
			return true;
	return false;
}

static bool check_life(struct check *c, const struct proc_status *s, const pid_t *tids, size_t count)
{
	char subject[32], state = state_of(s);

	snprintf(subject, sizeof(subject), "pid %d", c->pid);
	if (state != 'Z' && state != 'X')
		return true;
	if (any_thread_lives(c->pid, tids, count))
		obstacle(c, "PROCESS_LEADER_ENDED", subject, "the main thread of pid %d has ended while others go on: "
			 "such a process can't be moved yet; restart it", c->pid);
	else
		obstacle(c, "PROCESS_ZOMBIE", subject, "pid %d has ended and waits for its parent, pid %lld, to take "
			 "note: there is nothing to move", c->pid, proc_status_number(s, "PPid"));
	return false;
}

static bool can_read_filters(void)
{
	struct proc_status own;

	return !proc_status_read(getpid(), getpid(), &own) && proc_status_number(&own, "Seccomp") == 0 &&
	       proc_status_set(&own, "CapEff") & 1ull << CAP_SYS_ADMIN;
}

/* A tracer or a filter may have some of the threads only; one of each is told. */
static void check_each_thread(struct check *c, const pid_t *tids, size_t count)
{
	bool traced = false, filtered = false, shadowed = false;

	for (size_t i = 0; i < count; i++) {
		struct proc_status s;
		char subject[32], name[32];
		const char *features;
		long long tracer;

		if (proc_status_read(c->pid, tids[i], &s))
			continue;
		snprintf(subject, sizeof(subject), "%s %d", tids[i] == c->pid ? "pid" : "thread", tids[i]);
		tracer = proc_status_number(&s, "TracerPid");
		if (tracer > 0 && !traced)
			obstacle(c, "PROCESS_TRACED", subject, "%s is traced by pid %lld (%s), and only one can trace "
				 "it: end that first", subject, tracer, name_of(tracer, name));
		traced |= tracer > 0;
		if (proc_status_number(&s, "Seccomp") > 0 && !filtered && !can_read_filters())
			obstacle(c, "PROCESS_SECCOMP", subject, "%s runs under seccomp, whose filters only root can read "
				 "that is under none itself: run phaul so, or start the process without (systemd: "
				 "SystemCallFilter= and what implies it)", subject);
		filtered |= proc_status_number(&s, "Seccomp") > 0;
		features = proc_status_field(&s, "x86_Thread_features");
		features = features ? memmem(features, strcspn(features, "\n"), "shstk", 5) : NULL;
		if (features && !shadowed)
			obstacle(c, "PROCESS_SHADOW_STACK", subject, "%s has a shadow stack, which can't be moved yet: "
				 "start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off", subject);
		shadowed |= features != NULL;
	}
}

static void check_ancestry(struct check *c)
{
	pid_t pid = getpid();
	char subject[32], name[32];

	snprintf(subject, sizeof(subject), "pid %d", c->pid);
	if (c->pid == pid) {
		obstacle(c, "PROCESS_SELF", subject, "pid %d is phaul itself, which can't stop itself and go on: name "
			 "another process", pid);
		return;
	}
	for (int i = 0; pid > 0 && i < ANCESTORS_MAX; i++) {
		struct proc_status s;

		if (proc_status_read(pid, pid, &s))
			return;
		pid = proc_status_number(&s, "PPid");
		if (pid == c->pid) {
			obstacle(c, "PROCESS_SELF", subject, "phaul runs below pid %d (%s), which waits for it or is "
				 "its way to you: run phaul from elsewhere, or name another process", pid,
				 name_of(pid, name));
			return;
		}
	}
}

static const struct {
	const char *name, *what, *parent;
} namespaces[] = {
	{ "pid", "pid", NULL }, { "pid_for_children", "pid", "pid" }, { "mnt", "mount", NULL },
	{ "net", "network", NULL }, { "uts", "UTS", NULL }, { "ipc", "IPC", NULL }, { "user", "user", NULL },
};

/* Do two processes have the same? -errno if that can't be told. */
static int same_of_two(pid_t pid, const char *name, pid_t other_pid, const char *other_name)
{
	char path[64], one[64], other[64];
	ssize_t n, m;

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	n = readlink(path, one, sizeof(one));
	if (n < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", other_pid, other_name);
	m = readlink(path, other, sizeof(other));
	return m < 0 ? -errno : n == m && !memcmp(one, other, n);
}

/* As we have it? */
static int same_namespace(pid_t pid, const char *name)
{
	return same_of_two(pid, name, getpid(), name);
}

/* One of the process's own is nothing but other clocks, which go on; that all of the tree must have. */
static void check_clocks(struct check *c)
{
	pid_t root = c->tree->tasks[0].pid;

	if (!same_of_two(c->pid, "time", root, "time"))
		obstacle(c, "NAMESPACE", "namespace time", "pid %d has other clocks than pid %d (a time namespace), which can't be moved together yet: "
			 "move it alone", c->pid, root);
	else if (!same_of_two(c->pid, "time", c->pid, "time_for_children"))
		obstacle(c, "NAMESPACE", "namespace time_for_children", "pid %d has made a time namespace for its children "
			 "(unshare), which can't be moved yet: leave it here", c->pid);
}

static void check_namespaces(struct check *c)
{
	for (size_t i = 0; i < sizeof(namespaces) / sizeof(*namespaces); i++) {
		const char *name = namespaces[i].name, *parent = namespaces[i].parent;
		int same = same_namespace(c->pid, name);
		char subject[48];

		snprintf(subject, sizeof(subject), "namespace %s", name);
		/* Kernels without time namespaces have no such link; one for children leads nowhere until the
		 * first process is in it. */
		if (same > 0 || (same == -ENOENT && !parent))
			continue;
		if (same == -EACCES || same == -EPERM) {
			obstacle(c, "NAMESPACE", subject, "the namespaces of pid %d can't be looked at: phaul needs "
				 "CAP_SYS_PTRACE; run it as root", c->pid);
			return;
		}
		if (!parent)
			obstacle(c, "NAMESPACE", subject, "pid %d is in another %s namespace than phaul (a "
				 "container?), and would leave it: run phaul inside of it (nsenter -t %d -a)", c->pid,
				 namespaces[i].what, c->pid);
		else if (same_namespace(c->pid, parent) > 0)
			obstacle(c, "NAMESPACE", subject, "pid %d has made a %s namespace for its children "
				 "(unshare), which can't be moved yet: leave it here", c->pid, namespaces[i].what);
	}
	check_clocks(c);
}

static void check_link(struct check *c, const char *name, const char *what)
{
	char path[64], link[4096];
	struct stat st;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", c->pid, name);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return;
	link[n] = 0;
	if (!strncmp(link, "(unreachable)", 13))
		obstacle(c, "FILE_UNREACHABLE", name, "the %s of pid %d, %s, lies where no name leads to (a mount "
			 "that is gone), so that the target could not open it: restart the process", what, c->pid, link + 13);
	else if (!stat(path, &st) && S_ISREG(st.st_mode) && st.st_nlink && !ghost_find_name(link, &st))
		obstacle(c, "FILE_DELETED", name, "the %s of pid %d, %s, was deleted or replaced, and has another name (a hard link) that "
			 "can't be told from here: give it one beside the old one, on the target too: ln -L %s %s.moved", what, c->pid,
			 link, path, link);
}

static void check_program(struct check *c)
{
	unsigned char head[5] = {0};
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/exe", c->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	/* x32 programs are of the 32-bit class, too. */
	if (read(fd, head, sizeof(head)) == sizeof(head) && head[4] == 1)
		obstacle(c, "PROCESS_32BIT", "process", "pid %d is a 32-bit or x32 program, which can't be moved: "
			 "start the 64-bit build of it", c->pid);
	close(fd);
}

static const struct {
	int type;
	const char *code, *what;
} shareable[] = {
	{ KCMP_VM, "PROCESS_VM", "memory (vfork, CLONE_VM)" },
	{ KCMP_FILES, "PROCESS_FILES", "table of descriptors (CLONE_FILES)" },
	{ KCMP_FS, "PROCESS_FS", "current directory and umask (CLONE_FS)" },
	{ KCMP_SIGHAND, "PROCESS_SIGHAND", "signal handlers (CLONE_SIGHAND)" },
};

static const struct task *task_of(const struct tree *tree, pid_t pid)
{
	for (size_t i = 0; i < tree->count; i++)
		if (tree->tasks[i].pid == pid)
			return &tree->tasks[i];
	return NULL;
}

/* Shared with the parent, with which other children may share it: made again as it was made. */
static bool comes_by_birth(const struct check *c, size_t other, int type)
{
	const struct task *own = task_of(c->tree, c->pid), *its = &c->tree->tasks[other];

	if (type != KCMP_FILES && type != KCMP_FS)
		return false;
	for (; own && own->pid != its->pid; own = task_of(c->tree, own->ppid))
		if (!(type == KCMP_FILES ? own->shares_files : own->shares_fs))
			break;
	for (; own && its && own->pid != its->pid; its = task_of(c->tree, its->ppid))
		if (!(type == KCMP_FILES ? its->shares_files : its->shares_fs))
			break;
	return own == its;
}

/* What is shared by threads only, as a rule. */
static void check_kin(struct check *c)
{
	char subject[32];
	pid_t session = getsid(c->pid), group = getpgid(c->pid);

	snprintf(subject, sizeof(subject), "pid %d", c->pid);
	if (session > 0 && session != c->tree->outer_sid && !tree_has(c->tree, session))
		obstacle(c, "SESSION", subject, "pid %d belongs to the session of pid %d, which has ended or is not below pid "
			 "%d: that can't be made again yet", c->pid, session, c->tree->tasks[0].pid);
	else if (group > 0 && group != c->tree->outer_pgid && !tree_has(c->tree, group))
		obstacle(c, "PROCESS_GROUP", subject, "pid %d belongs to the process group of pid %d, which has ended or is "
			 "not below pid %d: that can't be made again yet", c->pid, group, c->tree->tasks[0].pid);
	for (size_t i = 0; i < c->tree->count && c->tree->tasks[i].pid != c->pid; i++)
		for (size_t n = 0; n < sizeof(shareable) / sizeof(*shareable); n++)
			if (c->tree->tasks[i].state != TASK_DEAD && !comes_by_birth(c, i, shareable[n].type) &&
			    task_shares(c->pid, c->tree->tasks[i].pid, shareable[n].type))
				obstacle(c, shareable[n].code, subject, "pid %d and pid %d share one %s: such pairs can't be moved "
					 "yet", c->tree->tasks[i].pid, c->pid, shareable[n].what);
}

static void check_sharing(struct check *c, const pid_t *tids, size_t count)
{
	char subject[32];

	for (size_t i = 0; i < count; i++) {
		if (tids[i] == c->pid)
			continue;
		snprintf(subject, sizeof(subject), "thread %d", tids[i]);
		if (syscall(SYS_kcmp, c->pid, tids[i], KCMP_FILES, 0, 0) > 0)
			obstacle(c, "THREAD_FILES", subject, "thread %d has descriptors of its own (CLONE_FILES is "
				 "missing, or unshare), which can't be moved yet", tids[i]);
		if (syscall(SYS_kcmp, c->pid, tids[i], KCMP_FS, 0, 0) > 0)
			obstacle(c, "THREAD_FS", subject, "thread %d has a current directory and umask of its own "
				 "(CLONE_FS is missing, or unshare), which can't be moved yet", tids[i]);
	}
}

static void notice_kin(struct check *c, const struct proc_status *s)
{
	pid_t sid = getsid(c->pid), parent = proc_status_number(s, "PPid");
	char name[32];

	if (sid > 0 && sid != c->pid)
		notice(c, "SESSION", "session", "pid %d belongs to the session of pid %d, which stays here: on the "
		       "target it leads a session of its own", c->pid, sid);
	if (parent > 1)
		notice(c, "PARENT", "parent", "pid %d is a child of pid %d (%s), which will see it killed: on the "
		       "target it is a child of init", c->pid, parent, name_of(parent, name));
}

static void read_line(pid_t pid, const char *name, const char *start, char *to, size_t size)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	f = fopen(path, "re");
	*to = 0;
	while (f && fgets(to, size, f) && strncmp(to, start, strlen(start)))
		*to = 0;
	if (f)
		fclose(f);
	to[strcspn(to, "\n")] = 0;
}

static const char *read_groups(pid_t pid, pid_t tid, char *to, size_t size)
{
	char path[64];
	int fd;
	ssize_t got = -1;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/cgroup", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		got = read(fd, to, size - 1);
		close(fd);
	}
	to[got < 0 ? 0 : got] = 0;
	return to;
}

/* The first hierarchy in which it is elsewhere than we are speaks for all. */
static void notice_control_group(struct check *c)
{
	char theirs[16384], ours[16384], *unit, *end, *path = NULL;

	read_groups(getpid(), getpid(), ours, sizeof(ours));
	read_groups(c->pid, c->pid, theirs, sizeof(theirs));
	for (char *line = theirs, *rest = theirs; !path && (line = strsep(&rest, "\n")) && *line; )
		path = strstr(ours, line) && strstr(ours, line)[strlen(line)] == '\n' ? NULL : strchr(strchr(line, ':') + 1, ':');
	if (!path++ || c->flags & PHAUL_TO_DIRECTORY)
		return;
	end = strstr(path, ".service");
	unit = end ? memrchr(path, '/', end - path) : NULL;
	if (unit)
		notice(c, "CGROUP", "control group", "pid %d belongs to the unit %.*s of systemd, which will take it "
		       "for dead and may start it once more (Restart=): see to that first. On the target it is in the control group of that "
		       "name if the unit runs there, and in that of phaul's agent if not", c->pid, (int)(end + 8 - unit - 1), unit + 1);
	else
		notice(c, "CGROUP", "control group", "pid %d is in the control group %s: on the target it is put into the one of that name, with "
		       "its limits there; if there is none, it is in that of phaul's agent", c->pid, path);
}

/* Rounds tell of processes alone. */
static void notice_threads_apart(struct check *c, const pid_t *tids, size_t count)
{
	char leader[16384], own[16384], subject[32];

	if (c->flags & PHAUL_TO_DIRECTORY)
		return;
	read_groups(c->pid, c->pid, leader, sizeof(leader));
	for (size_t i = 0; i < count; i++) {
		if (!*read_groups(c->pid, tids[i], own, sizeof(own)) || !strcmp(own, leader))
			continue;
		snprintf(subject, sizeof(subject), "thread %d", tids[i]);
		notice(c, "CGROUP_THREAD", subject, "thread %d is in another control group than its process: on the target it is in that of "
		       "the process", tids[i]);
		return;
	}
}

static void notice_security(struct check *c, const struct proc_status *s)
{
	char profile[256];
	const char *store = proc_status_field(s, "Speculation_Store_Bypass");

	read_line(c->pid, "attr/current", "", profile, sizeof(profile));
	if (*profile && strncmp(profile, "unconfined", 10) && strcmp(profile, "kernel"))
		notice(c, "LSM", "security module", "pid %d is confined by the profile %s of a security module "
		       "(AppArmor, SELinux): on the target it has that of phaul's agent", c->pid, profile);
	if (store && (!strncmp(store, "thread mitigated", 16) || !strncmp(store, "thread force mitigated", 22)))
		notice(c, "SPECULATION", "process", "pid %d has switched speculative store bypass off for itself: on "
		       "the target it is as phaul's agent has it", c->pid);
}

bool process_check(struct check *c, const struct proc_status *s)
{
	pid_t *tids = NULL;
	size_t count = 0;
	bool lives;

	if (threads_list(c->pid, &tids, &count) < 0)
		count = 0;
	lives = check_life(c, s, tids, count);
	if (lives) {
		check_each_thread(c, tids, count);
		check_ancestry(c);
		check_namespaces(c);
		if (!(c->flags & PHAUL_TO_DIRECTORY)) {
			check_link(c, "root", "root directory");
			check_link(c, "exe", "executable");
			check_link(c, "cwd", "current directory");
		}
		check_program(c);
		check_kin(c);
		check_sharing(c, tids, count);
		if (c->pid == c->tree->tasks[0].pid)
			notice_kin(c, s);
		notice_control_group(c);
		notice_threads_apart(c, tids, count);
		notice_security(c, s);
	}
	free(tids);
	return lives;
}
