/* check.c - may this process move? All that stands in the way, in one list, before anything is touched. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "memory_map.h"
#include "objects/descriptors.h"
#include "objects/object.h"
#include "objects/proc_status.h"
#include "tree.h"

static void add_line(struct check *c, const char *mark, const char *code, const char *subject,
		     const char *format, va_list args)
{
	char *at = c->text + c->size;
	size_t room = c->capacity - c->size;
	char of[32] = "";
	int n, m;

	/* Sentences about a process or thread name it themselves. */
	if (c->tree && c->tree->count > 1 && strncmp(subject, "pid ", 4) && strncmp(subject, "thread ", 7))
		snprintf(of, sizeof(of), "in pid %d: ", c->pid);
	n = snprintf(at, room, "%s%s\t%s\t%s", mark, code, subject, of);

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

/* All but descriptors. Returns false if there is nothing else to look at. */
static bool check_process(struct check *c, const struct proc_status *status)
{
	const char *state;

	/* Also one that is about to end. */
	if (!proc_status_field(status, "VmSize") && c->tree && c->pid != c->tree->tasks[0].pid)
		return false;
	state = proc_status_field(status, "State");
	if (!proc_status_field(status, "VmSize") && (!state || *state != 'Z')) {
		obstacle(c, "PROCESS_KERNEL", "process", "pid %d is a kernel thread, which belongs to this host", c->pid);
		return false;
	}
	if (!process_check(c, status))
		return false;
	memory_check(c);
	for (size_t i = 0; process_parts[i]; i++)
		if (process_parts[i]->check)
			process_parts[i]->check(c);
	return true;
}

static int check_tree(struct check *c, const struct tree *tree, struct descriptor_table *tables, struct phaul_error *err)
{
	size_t count = 0;
	struct task now;
	int code = 0;

	for (size_t i = 0; i < tree->count && !code; i++) {
		struct proc_status status;

		size_t size = c->size;
		int found = c->count;

		c->pid = tree->tasks[i].pid;
		if (tree->tasks[i].state == TASK_DEAD && i)
			continue;
		code = proc_status_read(c->pid, c->pid, &status);
		if (code)
			phaul_fail(err, code, "check", "looking at pid %d", c->pid);
		else if (check_process(c, &status)) {
			code = descriptors_read(c->pid, false, &tables[count], err);
			count += !code;
		}
		/* A child that has ended since is in nobody's way, whatever it looked like at its end. */
		if (i && (task_read(c->pid, &now) || now.state == TASK_DEAD)) {
			code = 0;
			c->size = size;
			c->count = found;
			c->text[size] = 0;
		}
	}
	if (!code)
		code = descriptors_group(tables, count) ?:
		       c->flags & PHAUL_STDIO_ELSEWHERE ? stdio_replace(tables, count, "/dev/null") : 0;
	for (size_t i = 0; i < count && !code; i++) {
		c->pid = tables[i].pid;
		c->descriptors = &tables[i];
		descriptors_check(c);
	}
	for (size_t i = 0; i < count; i++)
		descriptors_free(&tables[i]);
	return code;
}

int phaul_check(int pid, uint32_t flags, char *ret_text, size_t size, struct phaul_error *err)
{
	struct check c = { .pid = pid, .flags = flags, .proc = -1, .text = ret_text, .capacity = size };
	struct tree tree;
	struct descriptor_table *tables;
	struct proc_status status;
	int code = proc_status_read(pid, pid, &status);

	if (!size)
		return phaul_fail(err, -EINVAL, "check", "no room for the answer");
	ret_text[0] = 0;
	if (code == -ENOENT || (!code && proc_status_number(&status, "Tgid") != pid))
		return phaul_fail(err, -ESRCH, "check", "there is no process %d here", pid);
	if (code)
		return phaul_fail(err, code, "check", "looking at pid %d", pid);
	code = tree_list(pid, &tree, err);
	if (code)
		return code;
	c.tree = &tree;
	tables = calloc(tree.count, sizeof(*tables));
	code = tables ? check_tree(&c, &tree, tables, err) : phaul_fail(err, -ENOMEM, "check", "looking at pid %d", pid);
	free(tables);
	free(c.connections);
	tree_free(&tree);
	if (!code && c.size >= c.capacity)
		return phaul_fail(err, -ENOBUFS, "check", "there is more in the way of pid %d than fits", pid);
	return code ? code : c.count;
}
