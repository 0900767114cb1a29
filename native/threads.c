#include "threads.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "arch/x86_64.h"
#include "objects/cgroup.h"
#include "objects/parts.h"
#include "rseq.h"
#include "thread_fit.h"
#include "xstate.h"
#include "xstate_criu.h"

#define TLS_FIRST 12		/* GDT_ENTRY_TLS_MIN */
#define TLS_ENTRIES 3
#define AT_ONCE 64		/* threads that are dumped side by side and sent together */
#define CALLS_OF_QUESTIONS (6 + SIGNALS_CALLS + SCHEDULING_CALLS + CREDS_CALLS)
#define BYTES_OF_QUESTIONS (BATCH_BYTES + 256 + SCHEDULING_BYTES)	/* of answers, beside those about credentials */
#define CALLS_A_THREAD 12
#define CALLS_OF_CREDS 140	/* two for each capability, if credentials change at all */
#define BYTES_A_THREAD (BATCH_BYTES + 320)	/* for what calls point to */

#define IOVECS 1024		/* the kernel takes no more at once */

size_t threads_area_size(size_t count)
{
	return count * (sizeof(*((struct creds_answers *)0)->told) + CALLS_OF_QUESTIONS * 64 + BYTES_OF_QUESTIONS);
}

/* ---- dump ---- */

struct questions {
	struct batch *batch;
	uint64_t *altstack;		/* stack_t: sp, flags, size */
	uint64_t *clear_tid, *robust_list;	/* an address and a size */
	uint64_t *pending;
	struct sched_answers sched;
	char *comm;
	int *parent_death;		/* signal */
	int seccomp;			/* call */
	struct creds_answers creds;
};

static int ask(struct questions *q, struct remote_area *area, struct batch *b, struct remote *r)
{
	int code = batch_begin(b, area, r, CALLS_OF_QUESTIONS);
	remote_addr at;

	if (code)
		return code;
	q->batch = b;
	q->creds.batch = b;
	batch_call(b, "tell its signal stack", SYS_sigaltstack, 0, batch_space(b, 24, (void **)&q->altstack));
	batch_call(b, "tell its clear_child_tid address", SYS_prctl, PR_GET_TID_ADDRESS,
		   batch_space(b, 8, (void **)&q->clear_tid));
	at = batch_space(b, 16, (void **)&q->robust_list);
	batch_call(b, "tell its robust futex list", SYS_get_robust_list, 0, at, at + 8);
	batch_call(b, "tell its name", SYS_prctl, PR_GET_NAME, batch_space(b, 16, (void **)&q->comm));
	batch_call(b, "tell what it gets when its parent dies", SYS_prctl, PR_GET_PDEATHSIG,
		   batch_space(b, sizeof(int), (void **)&q->parent_death));
	q->seccomp = seccomp_ask_thread(b);
	return signals_ask_thread(b, &q->pending) ?: scheduling_ask_thread(b, &q->sched) ?:
	       credentials_ask_thread(b, &q->creds);
}

static void fill_registers(UserX86RegsEntry *to, const struct user_regs_struct *from)
{
	to->r15 = from->r15;
	to->r14 = from->r14;
	to->r13 = from->r13;
	to->r12 = from->r12;
	to->bp = from->rbp;
	to->bx = from->rbx;
	to->r11 = from->r11;
	to->r10 = from->r10;
	to->r9 = from->r9;
	to->r8 = from->r8;
	to->ax = from->rax;
	to->cx = from->rcx;
	to->dx = from->rdx;
	to->si = from->rsi;
	to->di = from->rdi;
	to->orig_ax = from->orig_rax;
	to->ip = from->rip;
	to->cs = from->cs;
	to->flags = from->eflags;
	to->sp = from->rsp;
	to->ss = from->ss;
	to->fs_base = from->fs_base;
	to->gs_base = from->gs_base;
	to->ds = from->ds;
	to->es = from->es;
	to->fs = from->fs;
	to->gs = from->gs;
}

/* The scalars of the legacy region; the whole state travels as phaul_xstate. */
static void fill_fpregs(UserX86FpregsEntry *to, const uint8_t *xstate, size_t size)
{
	uint16_t word[4];
	uint64_t pointer[2];

	if (size < 512)
		return;
	memcpy(word, xstate, sizeof(word));
	memcpy(pointer, xstate + 8, sizeof(pointer));
	to->cwd = word[0];
	to->swd = word[1];
	to->twd = word[2];
	to->fop = word[3];
	to->rip = pointer[0];
	to->rdp = pointer[1];
	memcpy(&to->mxcsr, xstate + 24, 4);
	memcpy(&to->mxcsr_mask, xstate + 28, 4);
}

/* As CRIU has a thread in a call that goes on: right before it. */
static void point_at_call(struct user_regs_struct *regs, ThreadInfoX86 *info)
{
	freeze_fix_restart(regs, true);
	if (!arch_is_restarting(regs))
		return;
	info->has_phaul_ax = true;
	info->phaul_ax = arch_result(regs);
	arch_point_at_call(regs);
}

/* Segments of 32-bit programs, of which there are none. */
static void fill_tls(UserDescT *tls, UserDescT **all, ThreadInfoX86 *info)
{
	for (int i = 0; i < TLS_ENTRIES; i++) {
		user_desc_t__init(&tls[i]);
		tls[i].entry_number = TLS_FIRST + i;
		all[i] = &tls[i];
	}
	info->tls = all;
	info->n_tls = TLS_ENTRIES;
}

static int read_rseq(pid_t tid, RseqEntry *to, bool *ret_has)
{
	struct rseq_configuration rseq;
	int err = rseq_read(tid, &rseq);

	to->rseq_abi_pointer = rseq.abi_pointer;
	to->rseq_abi_size = rseq.abi_size;
	to->signature = rseq.signature;
	*ret_has = rseq.abi_pointer;
	return err;
}

static int put_cgroups(struct dump *d, pid_t tid, CoreEntry *core, ThreadCoreEntry *thread)
{
	int err = d->cgroups ? cgroup_set_of(d->cgroups, d->pid, tid, &thread->cg_set) : 0;

	thread->has_cg_set = d->cgroups != NULL;
	if (core->tc) {
		core->tc->has_cg_set = thread->has_cg_set;
		core->tc->cg_set = thread->cg_set;
	}
	return err;
}

static int read_xstate(struct dump *d, pid_t tid, uint8_t ret[XSTATE_MAX], size_t *ret_size)
{
	int err = xstate_get(tid, ret, ret_size);

	if (!err && xstate_has_tiles(ret, *ret_size))
		return phaul_fail(d->err, -EBUSY, "threads", "thread %d of pid %d is computing with AMX tiles, which can't be given to another "
				  "thread: try again when it has released them", tid, d->pid);
	return err;
}

static int put_thread(struct dump *d, const struct frozen_thread *t, const struct questions *q,
		      struct image_set *to, CoreEntry *core)
{
	ThreadInfoX86 info = THREAD_INFO_X86__INIT;
	UserX86RegsEntry regs = USER_X86_REGS_ENTRY__INIT;
	UserX86FpregsEntry fpregs = USER_X86_FPREGS_ENTRY__INIT;
	struct user_regs_struct named = t->regs;
	ThreadCoreEntry thread = THREAD_CORE_ENTRY__INIT;
	struct xstate_criu components;
	UserDescT tls[TLS_ENTRIES], *all_tls[TLS_ENTRIES];
	ThreadSasEntry sas = THREAD_SAS_ENTRY__INIT;
	RseqEntry rseq = RSEQ_ENTRY__INIT;
	uint8_t xstate[XSTATE_MAX], packed[XSTATE_PACKED_MAX];
	size_t xstate_size;
	bool has_rseq;
	int err;

	err = read_xstate(d, t->tid, xstate, &xstate_size) ?: read_rseq(t->tid, &rseq, &has_rseq);
	if (err)
		return err;
	freeze_name_restart(t->tid, &named);
	/* What else CRIU needs costs time that a migration hasn't got. */
	if (d->flags & PHAUL_TO_DIRECTORY) {
		point_at_call(&named, &info);
		xstate_to_criu(xstate, xstate_size, &components, &fpregs);
		fill_tls(tls, all_tls, &info);
	}
	fill_registers(&regs, &named);
	fill_fpregs(&fpregs, xstate, xstate_size);
	info.clear_tid_addr = *q->clear_tid;
	info.gpregs = &regs;
	info.fpregs = &fpregs;
	info.has_phaul_xstate = true;
	info.phaul_xstate = (ProtobufCBinaryData){ xstate_pack(xstate, xstate_size, packed), packed };
	sas.ss_sp = q->altstack[0];
	sas.ss_flags = q->altstack[1] & 0xffffffff;
	sas.ss_size = q->altstack[2];
	thread.futex_rla = q->robust_list[0];
	thread.futex_rla_len = q->robust_list[1];
	thread.has_blk_sigset = true;
	thread.blk_sigset = t->mask;
	thread.sas = &sas;
	q->comm[15] = 0;
	thread.comm = q->comm;
	if (core->tc)
		core->tc->comm = q->comm;
	thread.has_pdeath_sig = *q->parent_death != 0;
	thread.pdeath_sig = *q->parent_death;
	thread.rseq_entry = has_rseq ? &rseq : NULL;
	core->mtype = CORE_ENTRY__MARCH__X86_64;
	core->thread_info = &info;
	core->thread_core = &thread;
	scheduling_dump_thread(&q->sched, &thread);
	err = put_cgroups(d, t->tid, core, &thread) ?: signals_dump_thread(d, t->tid, q->pending, &thread) ?:
	      seccomp_dump_thread(d, t->tid, batch_result(q->batch, q->seccomp), &thread) ?:
	      credentials_dump_thread(d, t->tid, &q->creds, &thread);
	if (!err)
		err = image_put(to, "core", t->tid, &core->base);
	core->thread_info = NULL;
	core->thread_core = NULL;
	return err;
}

/* All threads of a process, in groups that follow each other: one is asked, one answers, one is sent. */
struct asked {
	struct dump *dump;
	const struct frozen *frozen;
	struct remote *leader, *others;		/* `others` has an unused first one */
	struct batch *batches;
	struct questions *questions;
	CoreEntry *leader_core;
};

static struct remote *remote_of(struct asked *a, size_t i)
{
	return i ? &a->others[i] : a->leader;
}

static int ask_group(struct asked *a, size_t at, size_t n)
{
	int code = 0;

	for (size_t i = at; i < at + n && !code; i++) {
		const struct frozen_thread *t = &a->frozen->threads[i];

		if (i) {
			remote_begin_with(&a->others[i], t->tid, a->leader->syscall_at, &t->regs, t->mask);
			a->others[i].end_signal = a->leader->end_signal;
		}
		code = ask(&a->questions[i], a->dump->area, &a->batches[i], remote_of(a, i));
		if (code)
			return phaul_fail(a->dump->err, code, "threads", "preparing questions to thread %d", t->tid);
	}
	return batch_start(a->batches + at, n, a->dump->err);
}

/* Threads are given back as soon as they have answered: should phaul be killed meanwhile, the fewer are astray
 * the better. The leader stays borrowed, as its owner wants it. */
static int read_group(struct asked *a, size_t at, size_t n, const struct thread_sink *sink)
{
	struct image_set *set = image_set_new();
	int code = batch_wait(a->batches + at, n, a->dump->err);

	if (!code && !set)
		code = phaul_fail(a->dump->err, -ENOMEM, "threads", "collecting the threads");
	for (size_t i = at; i < at + n && !code; i++) {
		const struct frozen_thread *t = &a->frozen->threads[i];
		CoreEntry other = CORE_ENTRY__INIT;

		code = i ? remote_end(&a->others[i]) : 0;
		code = code ? code : batch_check(&a->batches[i], a->dump->err);
		if (!code)
			code = i ? put_thread(a->dump, t, &a->questions[i], set, &other) :
			       put_thread(a->dump, t, &a->questions[i], a->dump->images, a->leader_core);
		if (code && a->dump->err && a->dump->err->code != code)
			phaul_fail(a->dump->err, code, "threads", "reading the state of thread %d", t->tid);
	}
	if (!code && at + n > 1)
		code = sink->put(sink->ctx, set, a->dump->err);
	image_set_free(set);
	return code;
}

static int dump_groups(struct asked *a, const struct thread_sink *sink)
{
	size_t count = a->frozen->count, asked = 0, read = 0;
	int code = 0;

	while (read < count && !code) {
		size_t n = count - asked < AT_ONCE ? count - asked : AT_ONCE;

		if (n)
			code = ask_group(a, asked, n);
		if (!code && asked > read) {
			code = read_group(a, read, asked - read, sink);
			read = asked;
		}
		asked += n;
	}
	return code;
}

int threads_dump(struct dump *d, const struct frozen *f, struct remote *leader, CoreEntry *leader_core,
		 const struct thread_sink *sink)
{
	struct asked a = {
		.dump = d, .frozen = f, .leader = leader, .leader_core = leader_core,
		.others = calloc(f->count, sizeof(*a.others)),
		.batches = calloc(f->count, sizeof(*a.batches)),
		.questions = calloc(f->count, sizeof(*a.questions)),
	};
	int code;

	d->filters_shared = seccomp_shared(d, f);
	code = a.others && a.batches && a.questions ? dump_groups(&a, sink) :
	       phaul_fail(d->err, -ENOMEM, "threads", "asking %zu threads", f->count);

	for (size_t i = 0; a.batches && i < f->count; i++)
		batch_free(&a.batches[i]);	/* waits for those that still run */
	for (size_t i = 0; a.others && i < f->count; i++)
		(void)remote_end(&a.others[i]);
	free(a.others);
	free(a.batches);
	free(a.questions);
	return code;
}

/* ---- build ---- */

/* The kernel refuses to register an rseq area that names a critical section, which hardly ever one does: it is
 * cleared first and put back afterwards, and the kernel deals with it when the thread first runs. */
static int read_rseq_cs(pid_t pid, const struct thread_image *threads, size_t count, uint64_t *ret)
{
	struct iovec local = { ret, 0 }, remote[IOVECS];
	size_t n = 0;

	for (size_t i = 0; i < count; i++) {
		const RseqEntry *rseq = threads[i].core->thread_core->rseq_entry;

		if (rseq)
			remote[n++] = (struct iovec){ (void *)(rseq->rseq_abi_pointer + RSEQ_CS_OFFSET), 8 };
		if (!n || (n < IOVECS && i + 1 < count))
			continue;
		local.iov_len = n * 8;
		if (process_vm_readv(pid, &local, 1, remote, n, 0) != (ssize_t)local.iov_len)
			return -EFAULT;
		local.iov_base = (uint64_t *)local.iov_base + n;
		n = 0;
	}
	return 0;
}

/* `values` are of those threads that have an area. */
static int write_rseq_cs(pid_t pid, const struct thread_image *threads, size_t count, const uint64_t *values,
			 bool back)
{
	for (size_t i = 0; i < count; i++) {
		const RseqEntry *rseq = threads[i].core->thread_core->rseq_entry;
		uint64_t value = rseq ? *values++ : 0, written = back ? value : 0;
		struct iovec local = { &written, 8 };
		struct iovec remote = { rseq ? (void *)(rseq->rseq_abi_pointer + RSEQ_CS_OFFSET) : NULL, 8 };

		if (value && process_vm_writev(pid, &local, 1, &remote, 1, 0) != 8)
			return -EFAULT;
	}
	return 0;
}

static int tell(struct build *b, struct husk *h, struct batch *batch, pid_t tid, const CoreEntry *core)
{
	const ThreadCoreEntry *thread = core->thread_core;
	const ThreadSasEntry *sas = thread->sas;
	uint32_t restorable = sas ? sas->ss_flags & ~1u /* SS_ONSTACK */ : 0;
	int err;

	if (sas && !(sas->ss_flags & 2) /* SS_DISABLE */) {
		uint64_t stack[3] = { sas->ss_sp, restorable, sas->ss_size };

		batch_call(batch, "set its signal stack", SYS_sigaltstack,
			   batch_bytes(batch, stack, sizeof(stack)), 0);
	}
	if (thread->futex_rla)
		batch_call(batch, "set its robust futex list", SYS_set_robust_list, thread->futex_rla,
			   thread->futex_rla_len);
	batch_call(batch, NULL, SYS_set_tid_address, core->thread_info->clear_tid_addr);
	if (thread->comm)
		batch_call(batch, "set its name", SYS_prctl, PR_SET_NAME,
			   batch_bytes(batch, thread->comm, strlen(thread->comm) + 1));
	if (thread->rseq_entry)
		batch_call(batch, "register its rseq area", SYS_rseq, thread->rseq_entry->rseq_abi_pointer,
			   thread->rseq_entry->rseq_abi_size, 0, thread->rseq_entry->signature);
	err = scheduling_build_thread(b, tid, batch, thread) ?:
	      signals_build_thread(batch, b->pid, tid, thread) ?:
	      seccomp_build_thread(batch, thread, &h->filters_shared) ?:
	      credentials_build_thread(b, batch, thread);
	/* A change of credentials forgets it. */
	if (thread->pdeath_sig)
		batch_call(batch, "set what it gets when its parent dies", SYS_prctl, PR_SET_PDEATHSIG, thread->pdeath_sig);
	return err ? err : batch->error;
}

static int tell_some(struct build *b, struct husk *h, const struct thread_image *threads, size_t count,
		     size_t capacity, struct batch *batches)
{
	remote_area_reset(&h->area);
	for (size_t i = 0; i < count; i++) {
		pid_t tid = threads[i].tid;
		struct remote *r = husk_thread(h, tid);
		int code = r && r->begun ? batch_begin(&batches[i], &h->area, r, capacity) : -ESRCH;

		if (!code)
			remote_choose_signal(r, 0, signals_pending(threads[i].core));
		if (!code)
			code = tell(b, h, &batches[i], tid, threads[i].core);
		if (code)
			return b->err && b->err->code == code ? code :
			       code == -EPROTO ? image_wrong("core", tid, b->err, "thread_core: signals_p, phaul_filters or creds are malformed") :
			       phaul_fail(b->err, code, "threads", "preparing thread %d", tid);
	}
	return batch_start(batches, count, b->err) ?: batch_wait(batches, count, b->err);
}

/* As many threads at once as the batch area has room for. */
static int build_some(struct build *b, struct husk *h, const struct thread_image *threads, size_t count,
		      size_t capacity)
{
	struct batch *batches = calloc(count, sizeof(*batches));
	uint64_t *rseq_cs = calloc(count, sizeof(*rseq_cs));
	int code = batches && rseq_cs ? read_rseq_cs(b->pid, threads, count, rseq_cs) : -ENOMEM;

	code = code ? code : write_rseq_cs(b->pid, threads, count, rseq_cs, false);
	if (code)
		phaul_fail(b->err, code, "threads", "preparing %zu threads", count);
	else
		code = tell_some(b, h, threads, count, capacity, batches);
	for (size_t i = 0; i < count && !code; i++)
		code = batch_check(&batches[i], b->err);
	if (!code) {
		code = write_rseq_cs(b->pid, threads, count, rseq_cs, true);
		if (code)
			phaul_fail(b->err, code, "threads", "putting back the rseq critical sections of %zu threads",
				   count);
	}
	for (size_t i = 0; batches && i < count; i++)
		batch_free(&batches[i]);
	free(batches);
	free(rseq_cs);
	return code;
}

static size_t calls_needed(const ThreadCoreEntry *thread)
{
	return CALLS_A_THREAD + (thread->signals_p ? thread->signals_p->n_signals : 0) + thread->n_phaul_filters;
}

/* Threads are told side by side, as many as the batch area has room for. */
int threads_build(struct build *b, struct husk *h, const struct thread_image *threads, size_t count)
{
	size_t capacity = CALLS_A_THREAD, bytes = BYTES_A_THREAD, filters = 0, at_once;
	int code = 0, changes = 0;
	struct thread_needs needs;

	thread_needs_read(h->origin, &needs);
	for (size_t i = 0; i < count && !code; i++)
		code = thread_fit_check(&needs, threads[i].tid, threads[i].core->thread_core, b->err);
	if (code)
		return code;
	for (size_t i = 0; i < count; i++) {
		const ThreadCoreEntry *thread = threads[i].core->thread_core;
		int change = credentials_change(b, thread->creds);

		if (change == -EPROTO)
			return image_wrong("core", threads[i].tid, b->err, "thread_core.creds.groups are more than any thread has");
		if (change < 0)
			return phaul_fail(b->err, change, "threads", "looking at the credentials of pid %d",
					  b->pid);
		changes = change > changes ? change : changes;
		capacity = calls_needed(thread) > capacity ? calls_needed(thread) : capacity;
		filters = seccomp_bytes(thread) > filters ? seccomp_bytes(thread) : filters;
	}
	capacity += changes ? CALLS_OF_CREDS : 0;
	bytes += filters + (capacity - CALLS_A_THREAD) * sizeof(siginfo_t) + (changes ? changes * 4 : 0);
	at_once = (h->area.size - 8192) / (capacity * 64 + bytes);
	if (!at_once)
		return phaul_fail(b->err, -ENOSPC, "threads", "a thread of pid %d has too many pending signals, or seccomp filters",
				  b->pid);
	for (size_t done = 0, n; done < count && !code; done += n) {
		/* Filters of all are installed by one, before others add theirs. */
		n = !h->filters_shared && filters ? 1 : count - done < at_once ? count - done : at_once;
		code = build_some(b, h, threads + done, n, capacity);
	}
	return code;
}

static void restore_registers(struct user_regs_struct *to, const UserX86RegsEntry *from)
{
	to->r15 = from->r15;
	to->r14 = from->r14;
	to->r13 = from->r13;
	to->r12 = from->r12;
	to->rbp = from->bp;
	to->rbx = from->bx;
	to->r11 = from->r11;
	to->r10 = from->r10;
	to->r9 = from->r9;
	to->r8 = from->r8;
	to->rax = from->ax;
	to->rcx = from->cx;
	to->rdx = from->dx;
	to->rsi = from->si;
	to->rdi = from->di;
	to->orig_rax = from->orig_ax;
	to->rip = from->ip;
	to->cs = from->cs;
	to->eflags = from->flags;
	to->rsp = from->sp;
	to->ss = from->ss;
	to->fs_base = from->fs_base;
	to->gs_base = from->gs_base;
	to->ds = from->ds;
	to->es = from->es;
	to->fs = from->fs;
	to->gs = from->gs;
}

/* As this host's kernel and CPU have it: a thread that is asked shows how that is. */
static int fit_xstate(pid_t tid, const struct origin *origin, uint8_t state[XSTATE_MAX], size_t *size, struct phaul_error *err)
{
	uint8_t here[XSTATE_MAX];
	size_t here_size;
	unsigned int component = 0;
	int code;

	if (!origin || !origin->other_xstate)
		return 0;
	code = xstate_get(tid, here, &here_size) ?: xstate_convert(&origin->xstate, state, *size, here, here_size, &component);
	if (code == -EXDEV)
		return phaul_fail(err, code, "threads", "thread %d has values in registers of %s, which this host's CPU hasn't got: move it "
				  "to a host that has", tid, xstate_component_name(component));
	if (code)
		return code;
	memcpy(state, here, here_size);
	*size = here_size;
	return 0;
}

static int arm(pid_t tid, const CoreEntry *core, const struct origin *origin, struct phaul_error *err)
{
	const ThreadInfoX86 *info = core->thread_info;
	uint64_t mask = core->thread_core->blk_sigset;
	uint8_t xstate[XSTATE_MAX];
	size_t size = 0;
	struct user_regs_struct regs;
	int code = info->has_phaul_xstate ? xstate_unpack(info->phaul_xstate.data, info->phaul_xstate.len, xstate, &size) :
		  xstate_from_criu(info->fpregs, xstate, &size);

	if (info->has_phaul_xstate)
		code = code ?: fit_xstate(tid, origin, xstate, &size, err);
	if (code)
		return code;
	memset(&regs, 0, sizeof(regs));
	restore_registers(&regs, info->gpregs);
	if (info->has_phaul_ax)
		arch_point_behind_call(&regs, info->phaul_ax);
	freeze_fix_restart(&regs, true);
	code = xstate_set(tid, xstate, size);
	if (!code && (ptrace(PTRACE_SETREGS, tid, 0, &regs) < 0 || ptrace(PTRACE_SETSIGMASK, tid, 8, &mask) < 0))
		code = -errno;
	return code;
}

int threads_arm(struct husk *h, const struct thread_image *threads, size_t count, struct phaul_error *err)
{
	for (size_t i = 0; i < count; i++) {
		struct remote *r = husk_thread(h, threads[i].tid);
		int code = r ? arm(threads[i].tid, threads[i].core, h->origin, err) : -ESRCH;

		if (code == -EPROTO)
			return image_wrong("core", threads[i].tid, err, "thread_info: phaul_xstate or fpregs is nothing that this CPU has");
		if (code)
			return code == -EXDEV ? code : phaul_fail(err, code, "threads", "setting the registers of thread %d",
								  threads[i].tid);
		r->begun = false;
		if (threads[i].tid == h->pid)
			husk_unbind(h, h->pid);
		code = scheduling_arm_thread(threads[i].tid, threads[i].core->thread_core, err);
		if (code)
			return code;
	}
	return 0;
}
