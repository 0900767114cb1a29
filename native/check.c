/* check.c - may this process move? All that stands in the way, in one list, before anything is touched. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "layout.h"
#include "objects/descriptors.h"
#include "objects/object.h"
#include "objects/proc_status.h"

static void add_line(struct check *c, const char *mark, const char *code, const char *subject,
		     const char *format, va_list args)
{
	char *at = c->text + c->size;
	size_t room = c->capacity - c->size;
	int n = snprintf(at, room, "%s%s\t%s\t", mark, code, subject), m;

	if (n < 0 || (size_t)n >= room) {
		c->size = c->capacity;
		return;
	}
	m = vsnprintf(at + n, room - n, format, args);
	if (m < 0 || (size_t)(n + m) + 1 >= room) {
		c->size = c->capacity;
		return;
	}
	for (char *p = at + n; p < at + n + m; p++)
		if (*p == '\n' || *p == '\t')
			*p = ' ';
	at[n + m] = '\n';
	at[n + m + 1] = 0;
	c->size += n + m + 1;
}

void obstacle(struct check *c, const char *code, const char *subject, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	add_line(c, "", code, subject, format, args);
	va_end(args);
	c->count++;
}

void notice(struct check *c, const char *code, const char *subject, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	add_line(c, "~", code, subject, format, args);
	va_end(args);
}

static long number(const struct proc_status *s, const char *name)
{
	const char *at = proc_status_field(s, name);

	return at ? strtol(at, NULL, 10) : -1;
}

static void name_of(pid_t pid, char name[32])
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
}

static void check_state(struct check *c, const struct proc_status *s)
{
	const char *state = proc_status_field(s, "State");
	long tracer = number(s, "TracerPid"), seccomp = number(s, "Seccomp");
	char subject[32], name[32];

	snprintf(subject, sizeof(subject), "pid %d", c->pid);
	if (state && *state == 'Z')
		obstacle(c, "PROCESS_ZOMBIE", subject, "pid %d has ended and waits for its parent: there is nothing "
			 "to move (or only its main thread has ended, which can't be moved yet)", c->pid);
	if (state && (*state == 'T' || *state == 't') && tracer <= 0)
		obstacle(c, "PROCESS_STOPPED", subject, "pid %d is stopped; continue it first (kill -CONT %d)",
			 c->pid, c->pid);
	if (tracer > 0) {
		name_of(tracer, name);
		obstacle(c, "PROCESS_TRACED", subject, "pid %d is traced by pid %ld (%s), and only one can trace: "
			 "end that first", c->pid, tracer, name);
	}
	if (seccomp > 0)
		obstacle(c, "PROCESS_SECCOMP", subject, "pid %d runs under seccomp, whose filters can't be moved "
			 "yet: start it without (systemd: SystemCallFilter=)", c->pid);
	if (c->pid == getpid() || c->pid == getppid())
		obstacle(c, "PROCESS_SELF", subject, "pid %d is phaul itself or the shell that runs it", c->pid);
}

static const struct {
	const char *name, *what;
} namespaces[] = {
	{ "pid", "pid" }, { "pid_for_children", "pid (for its children)" }, { "mnt", "mount" },
	{ "net", "network" }, { "uts", "UTS" }, { "ipc", "IPC" }, { "user", "user" }, { "time", "time" },
};

static void check_namespaces(struct check *c)
{
	for (size_t i = 0; i < sizeof(namespaces) / sizeof(*namespaces); i++) {
		char path[64], theirs[64] = "", ours[64] = "", subject[48];

		snprintf(path, sizeof(path), "/proc/%d/ns/%s", c->pid, namespaces[i].name);
		(void)!readlink(path, theirs, sizeof(theirs) - 1);
		snprintf(path, sizeof(path), "/proc/self/ns/%s", namespaces[i].name);
		(void)!readlink(path, ours, sizeof(ours) - 1);
		if (!strcmp(theirs, ours))
			continue;
		snprintf(subject, sizeof(subject), "namespace %s", namespaces[i].name);
		obstacle(c, "NAMESPACE", subject, "pid %d is in another %s namespace than phaul (a container?); "
			 "run phaul inside of it (nsenter -t %d -a)", c->pid, namespaces[i].what, c->pid);
	}
}

static void check_links(struct check *c)
{
	static const char *const names[] = { "exe", "cwd" };
	char path[64], link[4096], subject[32];
	struct stat root, own;

	for (size_t i = 0; i < 2; i++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/%d/%s", c->pid, names[i]);
		n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = 0;
		snprintf(subject, sizeof(subject), "%s", names[i]);
		if (n > 10 && !strcmp(link + n - 10, " (deleted)"))
			obstacle(c, "FILE_DELETED", subject, "the %s of pid %d, %s, was deleted or replaced: the "
				 "target could not open it. Restart the process", i ? "current directory" :
				 "executable", c->pid, link);
	}
	snprintf(path, sizeof(path), "/proc/%d/root/", c->pid);
	if (stat(path, &root) == 0 && stat("/", &own) == 0 &&
	    (root.st_dev != own.st_dev || root.st_ino != own.st_ino))
		obstacle(c, "ROOT", "root", "pid %d has another root directory (chroot), which can't be moved yet",
			 c->pid);
}

static void check_children(struct check *c, const pid_t *tids, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char path[64], text[4096], name[32], subject[32];
		char *at = text, *end;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", c->pid, tids[i]);
		f = fopen(path, "re");
		if (!f)
			continue;
		text[0] = 0;
		(void)!fgets(text, sizeof(text), f);
		fclose(f);
		for (long child; (child = strtol(at, &end, 10)) > 0; at = end) {
			name_of(child, name);
			snprintf(subject, sizeof(subject), "pid %ld", child);
			obstacle(c, "PROCESS_CHILD", subject, "pid %d has a child, pid %ld (%s): process trees can't be "
				 "moved yet; end it, or wait until it ends", c->pid, child, name);
		}
	}
}

static void check_threads(struct check *c, const pid_t *tids, size_t count)
{
	char subject[32];

	for (size_t i = 1; i < count; i++) {
		snprintf(subject, sizeof(subject), "thread %d", tids[i]);
		if (syscall(SYS_kcmp, c->pid, tids[i], KCMP_FILES, 0, 0) > 0)
			obstacle(c, "THREAD_FILES", subject, "thread %d has descriptors of its own (unshare), which "
				 "can't be moved yet", tids[i]);
		if (syscall(SYS_kcmp, c->pid, tids[i], KCMP_FS, 0, 0) > 0)
			obstacle(c, "THREAD_FS", subject, "thread %d has a current directory of its own (unshare), "
				 "which can't be moved yet", tids[i]);
	}
}

static void check_session(struct check *c)
{
	pid_t sid = getsid(c->pid);

	if (sid > 0 && sid != c->pid)
		notice(c, "SESSION", "session", "pid %d belongs to the session of pid %d, which stays here: on the "
		       "target it leads a session of its own", c->pid, sid);
}

static bool is_64_bit(pid_t pid)
{
	unsigned char head[5] = {0};
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return true;
	(void)!read(fd, head, sizeof(head));
	close(fd);
	return head[4] != 1;
}

static void check_process(struct check *c, const struct proc_status *s)
{
	pid_t *tids;
	size_t count;

	check_state(c, s);
	check_namespaces(c);
	check_links(c);
	if (!is_64_bit(c->pid))
		obstacle(c, "PROCESS_32BIT", "process", "pid %d is a 32-bit program, which can't be moved", c->pid);
	if (threads_list(c->pid, &tids, &count) == 0) {
		check_children(c, tids, count);
		check_threads(c, tids, count);
		free(tids);
	}
	check_session(c);
}

int phaul_check(int pid, uint32_t flags, char *ret_text, size_t size, struct phaul_error *err)
{
	struct check c = { .pid = pid, .flags = flags, .proc = -1, .text = ret_text, .capacity = size };
	struct descriptor_table descriptors;
	struct proc_status status;
	int code = proc_status_read(pid, pid, &status);

	if (!size)
		return phaul_fail(err, -EINVAL, "check", "no room for the answer");
	ret_text[0] = 0;
	if (code == -ENOENT || number(&status, "Tgid") != pid)
		return phaul_fail(err, -ESRCH, "check", "there is no process %d here", pid);
	if (code)
		return phaul_fail(err, code, "check", "looking at pid %d", pid);
	if (!proc_status_field(&status, "VmSize") && proc_status_field(&status, "State")[0] != 'Z') {
		obstacle(&c, "PROCESS_KERNEL", "process", "pid %d is a kernel thread, which belongs to this host", pid);
		return c.count;
	}
	check_process(&c, &status);
	if (proc_status_field(&status, "State")[0] != 'Z') {
		memory_check(&c);
		code = descriptors_read(pid, &descriptors, err);
		if (code)
			return code;
		c.descriptors = &descriptors;
		descriptors_check(&c);
		descriptors_free(&descriptors);
	}
	for (size_t i = 0; process_parts[i]; i++)
		if (process_parts[i]->check)
			process_parts[i]->check(&c);
	if (c.size >= c.capacity)
		return phaul_fail(err, -ENOBUFS, "check", "there is more in the way of pid %d than fits", pid);
	return c.count;
}
