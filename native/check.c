/* check.c - may this process move? All that stands in the way, in one list, before anything is touched. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "memory_map.h"
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

int phaul_check(int pid, uint32_t flags, char *ret_text, size_t size, struct phaul_error *err)
{
	struct check c = { .pid = pid, .flags = flags, .proc = -1, .text = ret_text, .capacity = size };
	struct descriptor_table descriptors;
	struct proc_status status;
	int code = proc_status_read(pid, pid, &status);

	if (!size)
		return phaul_fail(err, -EINVAL, "check", "no room for the answer");
	ret_text[0] = 0;
	if (code == -ENOENT || proc_status_number(&status, "Tgid") != pid)
		return phaul_fail(err, -ESRCH, "check", "there is no process %d here", pid);
	if (code)
		return phaul_fail(err, code, "check", "looking at pid %d", pid);
	if (!proc_status_field(&status, "VmSize") && proc_status_field(&status, "State")[0] != 'Z') {
		obstacle(&c, "PROCESS_KERNEL", "process", "pid %d is a kernel thread, which belongs to this host", pid);
		return c.count;
	}
	if (!process_check(&c, &status))
		return c.count;
	memory_check(&c);
	code = descriptors_read(pid, &descriptors, err);
	if (code)
		return code;
	c.descriptors = &descriptors;
	descriptors_check(&c);
	descriptors_free(&descriptors);
	for (size_t i = 0; process_parts[i]; i++)
		if (process_parts[i]->check)
			process_parts[i]->check(&c);
	if (c.size >= c.capacity)
		return phaul_fail(err, -ENOBUFS, "check", "there is more in the way of pid %d than fits", pid);
	return c.count;
}
