/* signals.c - handlers, and signals that wait to be delivered. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "parts.h"

#define SIGNALS 64
#define PEEK_AT_ONCE 32

/* As the kernel has it; glibc's struct sigaction is another. */
struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

struct answers {
	struct kernel_action *action[SIGNALS + 1];
};

static bool has_action(int signal)
{
	return signal != SIGKILL && signal != SIGSTOP;
}

static int ask(struct dump *d, struct batch *b, void **ret)
{
	struct answers *a = *ret = dump_alloc(d, sizeof(*a));

	if (!a)
		return -ENOMEM;
	for (int signal = 1; signal <= SIGNALS; signal++)
		if (has_action(signal))
			batch_call(b, "tell how it handles a signal", SYS_rt_sigaction, signal, 0,
				   batch_space(b, sizeof(*a->action[0]), (void **)&a->action[signal]), 8);
	return b->error;
}

static int add(struct dump *d, SignalQueueEntry **queue, const siginfo_t *info)
{
	SignalQueueEntry *q = *queue;
	SiginfoEntry *entry = dump_alloc(d, sizeof(*entry)), **entries;
	siginfo_t *copy = dump_alloc(d, sizeof(*copy));

	if (!q) {
		q = *queue = dump_alloc(d, sizeof(*q));
		if (q)
			signal_queue_entry__init(q);
	}
	entries = q ? dump_alloc(d, (q->n_signals + 1) * sizeof(*entries)) : NULL;
	if (!entry || !copy || !entries)
		return -ENOMEM;
	*copy = *info;
	siginfo_entry__init(entry);
	entry->siginfo = (ProtobufCBinaryData){ sizeof(*copy), (uint8_t *)copy };
	if (q->n_signals)
		memcpy(entries, q->signals, q->n_signals * sizeof(*entries));
	entries[q->n_signals++] = entry;
	q->signals = entries;
	return 0;
}

static int peek(struct dump *d, pid_t tid, bool shared, SignalQueueEntry **ret)
{
	struct __ptrace_peeksiginfo_args args = {
		.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0, .nr = PEEK_AT_ONCE,
	};
	siginfo_t infos[PEEK_AT_ONCE];
	long n;

	*ret = NULL;
	while ((n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, infos)) > 0) {
		for (long i = 0; i < n; i++) {
			int err = add(d, ret, &infos[i]);

			if (err)
				return err;
		}
		args.off += n;
	}
	return n < 0 ? -errno : 0;
}

static int dump(struct dump *d, struct batch *b, void *answers, CoreEntry *core)
{
	struct answers *a = answers;
	SaEntry *entries = dump_alloc(d, SIGNALS * sizeof(*entries));
	SaEntry **pointers = dump_alloc(d, SIGNALS * sizeof(*pointers));
	size_t n = 0;

	(void)b;
	if (!entries || !pointers)
		return -ENOMEM;
	for (int signal = 1; signal <= SIGNALS; signal++) {
		if (!has_action(signal))
			continue;
		sa_entry__init(&entries[n]);
		entries[n].sigaction = a->action[signal]->handler;
		entries[n].flags = a->action[signal]->flags;
		entries[n].restorer = a->action[signal]->restorer;
		entries[n].mask = a->action[signal]->mask;
		pointers[n] = &entries[n];
		n++;
	}
	core->tc->n_sigactions = n;
	core->tc->sigactions = pointers;
	return peek(d, d->pid, true, &core->tc->signals_s);
}

/* While it is borrowed all are blocked but one that isn't pending, so that all that are pending are told: of the
 * thread and of the process. Hardly ever there is one. */
int signals_ask_thread(struct batch *b, uint64_t **ret)
{
	batch_call(b, "tell its pending signals", SYS_rt_sigpending, batch_space(b, 8, (void **)ret), 8);
	return b->error;
}

int signals_dump_thread(struct dump *d, pid_t tid, const uint64_t *answer, ThreadCoreEntry *to)
{
	return *answer ? peek(d, tid, false, &to->signals_p) : 0;
}

static uint64_t signals_of(const SignalQueueEntry *queue)
{
	uint64_t set = 0;

	for (size_t i = 0; queue && i < queue->n_signals; i++) {
		int signal = 0;

		if (queue->signals[i]->siginfo.len >= sizeof(signal))
			memcpy(&signal, queue->signals[i]->siginfo.data, sizeof(signal));
		if (signal >= 1 && signal <= SIGNALS)
			set |= 1ull << (signal - 1);
	}
	return set;
}

uint64_t signals_pending(const CoreEntry *core)
{
	return signals_of(core->thread_core->signals_p) | (core->tc ? signals_of(core->tc->signals_s) : 0);
}

static int queue(struct batch *batch, const SignalQueueEntry *from, pid_t pid, pid_t tid)
{
	for (size_t i = 0; from && i < from->n_signals; i++) {
		const ProtobufCBinaryData *bytes = &from->signals[i]->siginfo;
		siginfo_t info;

		if (bytes->len != sizeof(info))
			return -EPROTO;
		memcpy(&info, bytes->data, sizeof(info));
		if (tid)
			batch_call(batch, "queue a pending signal", SYS_rt_tgsigqueueinfo, pid, tid,
				   info.si_signo, batch_bytes(batch, &info, sizeof(info)));
		else
			batch_call(batch, "queue a pending signal", SYS_rt_sigqueueinfo, pid, info.si_signo,
				   batch_bytes(batch, &info, sizeof(info)));
	}
	return batch->error;
}

/* All signals are blocked while batches run but one that isn't among these: those queued stay pending. */
static int build(struct build *b, struct batch *batch, const CoreEntry *core)
{
	const TaskCoreEntry *tc = core->tc;
	struct kernel_action ignore = { (uint64_t)SIG_IGN, 0, 0, 0 };
	size_t n = 0;

	/* Forgets that children ended while they were made; those that wait for the process stay. */
	batch_call(batch, "forget the signals of children", SYS_rt_sigaction, SIGCHLD,
		   batch_bytes(batch, &ignore, sizeof(ignore)), 0, 8);
	for (int signal = 1; signal <= SIGNALS && n < tc->n_sigactions; signal++) {
		const SaEntry *sa = tc->sigactions[n];
		struct kernel_action action = { sa->sigaction, sa->flags, sa->restorer, sa->mask };

		if (!has_action(signal))
			continue;
		batch_call(batch, "set the handler of a signal", SYS_rt_sigaction, signal,
			   batch_bytes(batch, &action, sizeof(action)), 0, 8);
		n++;
	}
	return queue(batch, tc->signals_s, b->pid, 0);
}

int signals_build_thread(struct batch *batch, pid_t pid, pid_t tid, const ThreadCoreEntry *from)
{
	return queue(batch, from->signals_p, pid, tid);
}

const struct process_part signals_part = {
	.name = "signals", .ask = ask, .dump = dump, .build = build,
};
