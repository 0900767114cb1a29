/* seccomp.c - system calls that a thread has forbidden itself: strict mode, or filters, the oldest first. While we trace a
 * thread they don't count.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "parts.h"

#ifndef PTRACE_SECCOMP_GET_FILTER
#define PTRACE_SECCOMP_GET_FILTER 0x420c
#endif
#define GET_METADATA 0x420d	/* PTRACE_SECCOMP_GET_METADATA, Linux 4.16; an enum where it is known */
#define FILTERS_MAX 1024

struct metadata {
	uint64_t at, flags;
};

static int read_filter(struct dump *d, pid_t tid, size_t i, PhaulSeccompFilter *ret)
{
	struct metadata about = { .at = i };
	long count = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, i, NULL);

	if (count < 0)
		return errno == ENOENT ? 0 : -errno;
	phaul_seccomp_filter__init(ret);
	ret->filter.len = count * sizeof(struct sock_filter);
	ret->filter.data = dump_alloc(d, ret->filter.len);
	if (!ret->filter.data)
		return -ENOMEM;
	if (ptrace(PTRACE_SECCOMP_GET_FILTER, tid, i, ret->filter.data) != count)
		return -errno;
	if (!ptrace(GET_METADATA, tid, sizeof(about), &about))
		ret->flags = about.flags;
	return 1;
}

static bool same_filter(struct dump *d, pid_t a, pid_t b, size_t i)
{
	PhaulSeccompFilter x, y;

	return read_filter(d, a, i, &x) > 0 && read_filter(d, b, i, &y) > 0 && x.flags == y.flags &&
	       x.filter.len == y.filter.len && !memcmp(x.filter.data, y.filter.data, x.filter.len);
}

size_t seccomp_shared(struct dump *d, const struct frozen *f)
{
	pid_t leader = f->threads[0].tid;
	size_t count = 0;

	while (count < FILTERS_MAX && ptrace(PTRACE_SECCOMP_GET_FILTER, leader, count, NULL) >= 0)
		count++;
	for (size_t i = 1; i < f->count && count; i++)
		for (size_t n = 0; n < count; n++)
			if (!same_filter(d, leader, f->threads[i].tid, n))
				count = n;
	return count;
}

int seccomp_ask_thread(struct batch *b)
{
	return batch_call(b, "tell its seccomp mode", SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0);
}

int seccomp_dump_thread(struct dump *d, pid_t tid, int64_t mode, ThreadCoreEntry *to)
{
	int more = 1;

	if (mode <= 0)
		return 0;
	to->has_seccomp_mode = true;
	to->seccomp_mode = mode;
	if (mode != SECCOMP_MODE_FILTER)
		return 0;
	to->phaul_filters = dump_alloc(d, FILTERS_MAX * sizeof(*to->phaul_filters));
	if (!to->phaul_filters)
		return -ENOMEM;
	to->has_phaul_filters_shared = true;
	to->phaul_filters_shared = d->filters_shared;
	while (more > 0 && to->n_phaul_filters < FILTERS_MAX) {
		PhaulSeccompFilter *filter = dump_alloc(d, sizeof(*filter));

		more = filter ? read_filter(d, tid, to->n_phaul_filters, filter) : -ENOMEM;
		if (more > 0)
			to->phaul_filters[to->n_phaul_filters++] = filter;
	}
	return more;
}

size_t seccomp_bytes(const ThreadCoreEntry *from)
{
	size_t bytes = 0;

	for (size_t i = 0; i < from->n_phaul_filters; i++)
		bytes += from->phaul_filters[i]->filter.len + sizeof(struct sock_fprog) + 64;
	return bytes;
}

/* Those that all share are installed once, for all: they are one to the kernel, which only then lets a thread install
 * another for all (SECCOMP_FILTER_FLAG_TSYNC). */
int seccomp_build_thread(struct batch *batch, const ThreadCoreEntry *from, bool *shared_done)
{
	size_t shared = from->phaul_filters_shared;

	if (from->has_seccomp_mode && from->seccomp_mode == SECCOMP_MODE__strict)
		batch_call(batch, "enter the strict mode of seccomp", SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
	for (size_t i = *shared_done ? shared : 0; i < from->n_phaul_filters; i++) {
		const ProtobufCBinaryData *code = &from->phaul_filters[i]->filter;
		unsigned int all = i < shared ? SECCOMP_FILTER_FLAG_TSYNC : 0;
		struct { uint16_t count; uint64_t at; } program = { code->len / sizeof(struct sock_filter), 0 };

		if (code->len > BPF_MAXINSNS * sizeof(struct sock_filter))
			return -EPROTO;
		program.at = batch_bytes(batch, code->data, code->len);
		batch_call(batch, "install a seccomp filter", SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			   (from->phaul_filters[i]->flags & SECCOMP_FILTER_FLAG_LOG) | all,
			   batch_bytes(batch, &program, sizeof(program)));
	}
	*shared_done = true;
	return batch->error;
}

/* In front of those that it has: a chain begins with the newest. Memory is the core's. */
static int add_older(ThreadCoreEntry *to, const SeccompFilter *from)
{
	PhaulSeccompFilter **larger = reallocarray(to->phaul_filters, to->n_phaul_filters + 1, sizeof(*larger));
	PhaulSeccompFilter *filter = calloc(1, sizeof(*filter));
	uint8_t *code = malloc(from->filter.len + 1);

	to->phaul_filters = larger ? larger : to->phaul_filters;
	if (!larger || !filter || !code) {
		free(filter);
		free(code);
		return -ENOMEM;
	}
	phaul_seccomp_filter__init(filter);
	memcpy(code, from->filter.data, from->filter.len);
	filter->filter = (ProtobufCBinaryData){ from->filter.len, code };
	filter->flags = from->flags;
	memmove(larger + 1, larger, to->n_phaul_filters++ * sizeof(*larger));
	larger[0] = filter;
	return 0;
}

int seccomp_from_criu(const struct image_set *images, CoreEntry *core)
{
	ThreadCoreEntry *thread = core->thread_core;
	ProtobufCMessage *msg = NULL;
	const SeccompEntry *all;
	struct image_reader r;
	uint32_t at = thread->seccomp_filter;
	int err;

	/* Where older CRIUs had it: a process without its filter would be worse than none. */
	if (core->tc && core->tc->has_old_seccomp_mode && core->tc->old_seccomp_mode && !thread->has_seccomp_mode)
		return -EOPNOTSUPP;
	if (!thread->has_seccomp_mode || thread->seccomp_mode != SECCOMP_MODE__filter || thread->n_phaul_filters)
		return 0;
	err = image_read(images, "seccomp", -1, &r) ?: image_next(&r, &seccomp_entry__descriptor, &msg) == 1 ? 0 : -EPROTO;
	all = (SeccompEntry *)msg;
	while (!err) {
		/* A filter that leads to itself would be copied for ever. */
		if (at >= all->n_seccomp_filters || thread->n_phaul_filters >= all->n_seccomp_filters ||
		    thread->n_phaul_filters == FILTERS_MAX || all->seccomp_filters[at]->filter.len > BPF_MAXINSNS * sizeof(struct sock_filter))
			err = -EPROTO;
		else
			err = add_older(thread, all->seccomp_filters[at]);
		if (err || !all->seccomp_filters[at]->has_prev)
			break;
		at = all->seccomp_filters[at]->prev;
	}
	if (msg)
		protobuf_c_message_free_unpacked(msg, NULL);
	return err;
}
