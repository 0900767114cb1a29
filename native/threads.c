#include "threads.h"

#include <elf.h>
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

#include "objects/parts.h"

#define XSTATE_MAX 16384	/* AMX tiles included; the kernel tells how much there is */
#define CALLS_A_THREAD 10
#define CALLS_OF_CREDS 140	/* two for each capability, if credentials change at all */
#define BYTES_A_THREAD 320	/* for what calls point to */

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define RSEQ_CS_OFFSET 8

struct rseq_configuration {
	uint64_t abi_pointer;
	uint32_t abi_size, signature, flags, pad;
};

int threads_borrow(const struct frozen *f, remote_addr syscall_at, struct borrowed *ret,
		   struct phaul_error *err)
{
	int code = 0;

	ret->frozen = f;
	ret->remotes = calloc(f->count, sizeof(*ret->remotes));
	if (!ret->remotes)
		return phaul_fail(err, -ENOMEM, "threads", "borrowing %zu threads", f->count);
	for (size_t i = 0; i < f->count && !code; i++) {
		code = remote_begin(&ret->remotes[i], f->threads[i].tid, syscall_at);
		if (code)
			phaul_fail(err, code, "threads", "borrowing thread %d", f->threads[i].tid);
	}
	if (code)
		threads_give_back(ret);
	return code;
}

void threads_give_back(struct borrowed *b)
{
	for (size_t i = 0; b->remotes && i < b->frozen->count; i++)
		(void)remote_end(&b->remotes[i]);
	free(b->remotes);
	memset(b, 0, sizeof(*b));
}

size_t threads_area_size(size_t count)
{
	return count * (sizeof(*((struct creds_answers *)0)->told) + (3 + CREDS_CALLS) * 64 + 128);
}

/* ---- dump ---- */

struct questions {
	struct batch batch;
	uint64_t *altstack;		/* stack_t: sp, flags, size */
	uint64_t *clear_tid;
	char *comm;
	struct creds_answers creds;
};

static int ask(struct questions *q, struct remote_area *area, struct remote *r)
{
	int code = batch_begin(&q->batch, area, r, 3 + CREDS_CALLS);

	if (code)
		return code;
	batch_call(&q->batch, "tell its signal stack", SYS_sigaltstack, 0,
		   batch_space(&q->batch, 24, (void **)&q->altstack));
	batch_call(&q->batch, "tell its clear_child_tid address", SYS_prctl, PR_GET_TID_ADDRESS,
		   batch_space(&q->batch, 8, (void **)&q->clear_tid));
	batch_call(&q->batch, "tell its name", SYS_prctl, PR_GET_NAME,
		   batch_space(&q->batch, 16, (void **)&q->comm));
	return credentials_ask_thread(&q->batch, &q->creds);
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

static int read_rseq(pid_t tid, RseqEntry *to, bool *ret_has)
{
	struct rseq_configuration rseq = {0};

	*ret_has = false;
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, sizeof(rseq), &rseq) < 0)
		return errno == EIO || errno == EINVAL ? 0 : -errno;
	if (!rseq.abi_pointer)
		return 0;
	to->rseq_abi_pointer = rseq.abi_pointer;
	to->rseq_abi_size = rseq.abi_size;
	to->signature = rseq.signature;
	*ret_has = true;
	return 0;
}

static int put_thread(struct dump *d, const struct frozen_thread *t, const struct remote *r,
		      const struct questions *q, CoreEntry *core)
{
	ThreadInfoX86 info = THREAD_INFO_X86__INIT;
	UserX86RegsEntry regs = USER_X86_REGS_ENTRY__INIT;
	UserX86FpregsEntry fpregs = USER_X86_FPREGS_ENTRY__INIT;
	ThreadCoreEntry thread = THREAD_CORE_ENTRY__INIT;
	ThreadSasEntry sas = THREAD_SAS_ENTRY__INIT;
	RseqEntry rseq = RSEQ_ENTRY__INIT;
	uint8_t xstate[XSTATE_MAX];
	struct iovec io = { xstate, sizeof(xstate) };
	uint64_t list = 0;
	size_t list_size = 0;
	bool has_rseq;
	int err;

	if (ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &io) < 0)
		return -errno;
	if (syscall(SYS_get_robust_list, t->tid, &list, &list_size) < 0)
		return -errno;
	err = read_rseq(t->tid, &rseq, &has_rseq);
	if (err)
		return err;
	fill_registers(&regs, &t->regs);
	fill_fpregs(&fpregs, xstate, io.iov_len);
	info.clear_tid_addr = *q->clear_tid;
	info.gpregs = &regs;
	info.fpregs = &fpregs;
	info.has_phaul_xstate = true;
	info.phaul_xstate = (ProtobufCBinaryData){ io.iov_len, xstate };
	sas.ss_sp = q->altstack[0];
	sas.ss_flags = q->altstack[1] & 0xffffffff;
	sas.ss_size = q->altstack[2];
	thread.futex_rla = list;
	thread.futex_rla_len = list_size;
	thread.has_blk_sigset = true;
	thread.blk_sigset = r->saved_mask;
	thread.sas = &sas;
	q->comm[15] = 0;
	thread.comm = q->comm;
	thread.rseq_entry = has_rseq ? &rseq : NULL;
	core->mtype = CORE_ENTRY__MARCH__X86_64;
	core->thread_info = &info;
	core->thread_core = &thread;
	err = signals_dump_thread(d, t->tid, &thread) ?: scheduling_dump_thread(d, t->tid, &thread) ?:
	      credentials_dump_thread(d, t->tid, &q->creds, &thread);
	if (!err)
		err = image_put(d->images, "core", t->tid, &core->base);
	core->thread_info = NULL;
	core->thread_core = NULL;
	return err;
}

int threads_dump(struct dump *d, struct borrowed *b, CoreEntry *leader_core)
{
	size_t count = b->frozen->count;
	struct questions *questions = calloc(count, sizeof(*questions));
	struct batch *batches = calloc(count, sizeof(*batches));
	int code = questions && batches ? 0 : -ENOMEM;

	for (size_t i = 0; i < count && !code; i++) {
		code = ask(&questions[i], d->area, &b->remotes[i]);
		batches[i] = questions[i].batch;
		questions[i].creds.batch = &batches[i];
	}
	if (code)
		phaul_fail(d->err, code, "threads", "preparing questions to %zu threads", count);
	else
		code = batch_run(batches, count, d->err);
	for (size_t i = 0; i < count && !code; i++) {
		CoreEntry other = CORE_ENTRY__INIT;

		code = batch_check(&batches[i], d->err);
		if (code)
			break;
		code = put_thread(d, &b->frozen->threads[i], &b->remotes[i], &questions[i],
				  i ? &other : leader_core);
		if (code)
			phaul_fail(d->err, code, "threads", "reading the state of thread %d",
				   b->frozen->threads[i].tid);
	}
	for (size_t i = 0; batches && i < count; i++)
		batch_free(&batches[i]);
	free(batches);
	free(questions);
	return code;
}

/* ---- build ---- */

/* The kernel refuses to register an rseq area that names a critical section; it is put back afterwards, and
 * the kernel deals with it when the thread first runs. */
static int swap_rseq_cs(pid_t pid, const RseqEntry *rseq, uint64_t *value, bool back)
{
	uint64_t zero = 0;
	struct iovec remote = { (void *)(rseq->rseq_abi_pointer + RSEQ_CS_OFFSET), 8 };
	struct iovec local = { value, 8 }, cleared = { &zero, 8 };

	if (back)
		return *value && process_vm_writev(pid, &local, 1, &remote, 1, 0) != 8 ? -EFAULT : 0;
	if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != 8)
		return -EFAULT;
	return *value && process_vm_writev(pid, &cleared, 1, &remote, 1, 0) != 8 ? -EFAULT : 0;
}

static int tell(struct build *b, struct batch *batch, pid_t tid, const CoreEntry *core)
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
	err = scheduling_build_thread(b, tid, thread) ?:
	      signals_build_thread(batch, b->pid, tid, thread) ?:
	      credentials_build_thread(b, batch, thread);
	return err ? err : batch->error;
}

/* As many threads at once as the batch area has room for. */
static int build_some(struct build *b, struct husk *h, const struct thread_image *threads, size_t count,
		      size_t capacity)
{
	struct batch *batches = calloc(count, sizeof(*batches));
	uint64_t *rseq_cs = calloc(count, sizeof(*rseq_cs));
	int code = batches && rseq_cs ? 0 : -ENOMEM;

	remote_area_reset(&h->area);
	for (size_t i = 0; i < count && !code; i++) {
		pid_t tid = threads[i].tid;
		struct remote *r = husk_thread(h, tid);
		const RseqEntry *rseq = threads[i].core->thread_core->rseq_entry;

		code = r ? batch_begin(&batches[i], &h->area, r, capacity) : -ESRCH;
		if (!code)
			code = tell(b, &batches[i], tid, threads[i].core);
		if (!code && rseq)
			code = swap_rseq_cs(b->pid, rseq, &rseq_cs[i], false);
		if (code)
			phaul_fail(b->err, code, "threads", "preparing thread %d", tid);
	}
	if (!code)
		code = batch_run(batches, count, b->err);
	for (size_t i = 0; i < count && !code; i++) {
		const RseqEntry *rseq = threads[i].core->thread_core->rseq_entry;

		code = batch_check(&batches[i], b->err);
		if (!code && rseq)
			code = swap_rseq_cs(b->pid, rseq, &rseq_cs[i], true);
	}
	for (size_t i = 0; batches && i < count; i++)
		batch_free(&batches[i]);
	free(batches);
	free(rseq_cs);
	return code;
}

static size_t calls_needed(const ThreadCoreEntry *thread)
{
	return CALLS_A_THREAD + (thread->signals_p ? thread->signals_p->n_signals : 0);
}

/* Threads are told side by side, as many as the batch area has room for. */
int threads_build(struct build *b, struct husk *h, const struct thread_image *threads, size_t count)
{
	size_t capacity = CALLS_A_THREAD, bytes = BYTES_A_THREAD, at_once;
	int code = 0, changes = 0;

	for (size_t i = 0; i < count; i++) {
		const ThreadCoreEntry *thread = threads[i].core->thread_core;
		int change = credentials_change(b, thread->creds);

		if (change < 0)
			return phaul_fail(b->err, change, "threads", "looking at the credentials of pid %d",
					  b->pid);
		changes = change > changes ? change : changes;
		capacity = calls_needed(thread) > capacity ? calls_needed(thread) : capacity;
	}
	capacity += changes ? CALLS_OF_CREDS : 0;
	bytes += (capacity - CALLS_A_THREAD) * sizeof(siginfo_t) + (changes ? changes * 4 : 0);
	at_once = (h->area.size - 8192) / (capacity * 64 + bytes);
	if (!at_once)
		return phaul_fail(b->err, -ENOSPC, "threads", "a thread of pid %d has too many pending signals",
				  b->pid);
	for (size_t done = 0; done < count && !code; done += at_once)
		code = build_some(b, h, threads + done, count - done < at_once ? count - done : at_once,
				  capacity);
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

static int arm(pid_t tid, const CoreEntry *core)
{
	const ThreadInfoX86 *info = core->thread_info;
	uint64_t mask = core->thread_core->blk_sigset;
	struct iovec io = { info->phaul_xstate.data, info->phaul_xstate.len };
	struct user_regs_struct regs;

	memset(&regs, 0, sizeof(regs));
	restore_registers(&regs, info->gpregs);
	freeze_fix_restart(&regs, true);
	if (ptrace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, &io) < 0 ||
	    ptrace(PTRACE_SETREGS, tid, 0, &regs) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, tid, 8, &mask) < 0)
		return -errno;
	return 0;
}

int threads_arm(const struct thread_image *threads, size_t count, struct phaul_error *err)
{
	for (size_t i = 0; i < count; i++) {
		int code = arm(threads[i].tid, threads[i].core);

		if (code)
			return phaul_fail(err, code, "threads", "setting the registers of thread %d",
					  threads[i].tid);
	}
	return 0;
}
