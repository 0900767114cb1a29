#include "remote.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/x86_64.h"
#include "error.h"
#include "memory_map.h"

#define PAGE 4096ul
#define SYSCALL_STOP (SIGTRAP | 0x80)	/* PTRACE_O_TRACESYSGOOD */
#define BIT(signal) (1ull << ((signal) - 1))
#define ALL (~0ull)

extern const uint8_t remote_batch_code[], remote_batch_code_end[];

_Static_assert(offsetof(struct arch_tail, rip) == 144 && sizeof(struct arch_tail) <= BATCH_BYTES - 32,
	       "blob/batch.S and remote.h know them");

struct entry {
	uint64_t nr;
	uint64_t args[6];
	uint64_t result;
};

static long trace(int request, pid_t tid, unsigned long addr, void *data)
{
	long ret = ptrace(request, tid, addr, data);

	return ret < 0 ? -errno : ret;
}

/* Waits for the stop that a request leads to. A SIGSTOP that comes meanwhile can't be blocked: it is
 * swallowed and sent again by remote_end. */
static int wait_for(struct remote *r, int request, int signal)
{
	for (;;) {
		int status;
		pid_t got = waitpid(r->tid, &status, __WALL);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || !WIFSTOPPED(status))
			return -ESRCH;
		if (!(status >> 16) && WSTOPSIG(status) == signal)
			return 0;
		if (!(status >> 16) && WSTOPSIG(status) == SIGSTOP)
			r->saw_sigstop = true;
		else if (!(status >> 16))
			return -EFAULT;
		if (trace(request, r->tid, 0, NULL) < 0)
			return -ESRCH;
	}
}

int remote_find_syscall(pid_t tid, const struct memory_map *map, remote_addr *ret)
{
	const struct vma *vdso = memory_map_named(map, "[vdso]");
	size_t size = vdso ? vdso->end - vdso->start : 0;
	uint8_t text[4 * PAGE];
	struct iovec local = { text, size < sizeof(text) ? size : sizeof(text) };
	struct iovec remote = { vdso ? (void *)vdso->start : NULL, local.iov_len };
	ssize_t got = vdso ? process_vm_readv(tid, &local, 1, &remote, 1, 0) : 0;
	uint8_t *found;

	if (got < 0)
		return -errno;
	found = memmem(text, got, ARCH_SYSCALL_BYTES, ARCH_SYSCALL_LENGTH);
	if (!found)
		return -ENOENT;
	*ret = vdso->start + (found - text);
	return 0;
}

void remote_begin_with(struct remote *r, pid_t tid, remote_addr syscall_at, const struct user_regs_struct *regs,
		       uint64_t mask)
{
	*r = (struct remote){
		.tid = tid, .syscall_at = syscall_at, .saved = *regs, .saved_mask = mask, .mask = mask,
		.end_signal = SIGURG, .begun = true,
	};
}

void remote_choose_signal(struct remote *r, uint64_t caught, uint64_t pending)
{
	static const int signals[] = { SIGURG, SIGWINCH, SIGCHLD };
	const size_t count = sizeof(signals) / sizeof(*signals);

	for (size_t i = 0; i < 2 * count; i++) {
		r->end_signal = signals[i % count];
		if (!(BIT(r->end_signal) & (i < count ? caught | pending : pending)))
			return;
	}
	/* All three are pending, and would be lost: one that would end the thread, should we be killed, is not as bad. */
	for (r->end_signal = SIGRTMAX; r->end_signal > SIGRTMIN && BIT(r->end_signal) & pending; r->end_signal--)
		;
}

int remote_begin(struct remote *r, pid_t tid, remote_addr syscall_at)
{
	struct user_regs_struct regs;
	uint64_t mask;
	int err = trace(PTRACE_GETREGS, tid, 0, &regs);

	memset(r, 0, sizeof(*r));
	if (!err)
		err = trace(PTRACE_GETSIGMASK, tid, 8, &mask);
	if (!err)
		remote_begin_with(r, tid, syscall_at, &regs, mask);
	return err;
}

static int set_mask(struct remote *r, uint64_t mask)
{
	int err = r->mask == mask ? 0 : trace(PTRACE_SETSIGMASK, r->tid, 8, &mask);

	if (!err)
		r->mask = mask;
	return err;
}

int remote_end(struct remote *r)
{
	int err;

	if (!r->begun)
		return 0;
	r->begun = false;
	/* In this order: behind a batch it finds its registers by itself, should we be killed in between. */
	err = set_mask(r, r->saved_mask);
	if (!err)
		err = trace(PTRACE_SETREGS, r->tid, 0, &r->saved);
	if (!err && r->saw_end_signal)
		(void)kill(r->tid, r->end_signal);
	if (!err && r->saw_sigstop)
		(void)kill(r->tid, SIGSTOP);
	return err;
}

int64_t remote_call6(struct remote *r, long nr, const uint64_t args[6])
{
	struct user_regs_struct regs = r->saved;
	int err = set_mask(r, ALL), back;

	arch_set_call(&regs, r->syscall_at, nr, args);
	if (!err)
		err = trace(PTRACE_SETREGS, r->tid, 0, &regs);
	/* Two stops, before and after the call. */
	for (int stop = 0; !err && stop < 2; stop++) {
		err = trace(PTRACE_SYSCALL, r->tid, 0, NULL);
		if (!err)
			err = wait_for(r, PTRACE_SYSCALL, SYSCALL_STOP);
	}
	if (!err)
		err = trace(PTRACE_GETREGS, r->tid, 0, &regs);
	/* At once, and not only by remote_end: the shorter the time in which our death is the thread's. */
	back = trace(PTRACE_SETREGS, r->tid, 0, &r->saved) ?: set_mask(r, r->saved_mask);
	return err ? err : back ? back : arch_result(&regs);
}

static int write_forced(pid_t pid, remote_addr at, const void *bytes, size_t size)
{
	char path[32];
	ssize_t put;
	int fd, err;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	put = pwrite(fd, bytes, size, at);
	err = put < 0 ? -errno : put == (ssize_t)size ? 0 : -EIO;
	close(fd);
	return err;
}

/* It returns to the `syscall` of the vdso, where it is stopped before the kernel has looked at which. A crash finds its
 * signals unblocked: one that is blocked would have its handler taken away. */
int remote_run(struct remote *r, remote_addr code, remote_addr stack, uint64_t argument, uint64_t *ret)
{
	const uint64_t own = BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGILL) | BIT(SIGFPE) | BIT(SIGTRAP);
	struct user_regs_struct regs = r->saved;
	remote_addr frame = (stack & ~15ul) - 8;
	bool entering = true, returned = false;
	int err = write_forced(r->tid, frame, &r->syscall_at, sizeof(r->syscall_at)) ?: set_mask(r, ALL & ~own), back;

	arch_set_run(&regs, code, frame, argument);
	if (!err)
		err = trace(PTRACE_SETREGS, r->tid, 0, &regs);
	for (; !err && !returned; entering = !entering) {
		err = trace(PTRACE_SYSCALL, r->tid, 0, NULL);
		err = err ?: wait_for(r, PTRACE_SYSCALL, SYSCALL_STOP) ?: trace(PTRACE_GETREGS, r->tid, 0, &regs);
		returned = !err && entering && arch_has_returned(&regs, r->syscall_at, frame);
	}
	if (returned) {
		*ret = arch_returned(&regs);
		arch_skip_call(&regs);
		err = trace(PTRACE_SETREGS, r->tid, 0, &regs) ?: trace(PTRACE_SYSCALL, r->tid, 0, NULL) ?:
		      wait_for(r, PTRACE_SYSCALL, SYSCALL_STOP);
	}
	back = trace(PTRACE_SETREGS, r->tid, 0, &r->saved) ?: set_mask(r, r->saved_mask);
	return err ? err : back;
}

int remote_area_adopt(pid_t pid, remote_addr at, size_t size, struct remote_area *ret)
{
	*ret = (struct remote_area){ .at = at, .size = size, .pid = pid };
	ret->mirror = calloc(1, size - PAGE);
	if (!ret->mirror)
		return -ENOMEM;
	return write_forced(pid, at, remote_batch_code, remote_batch_code_end - remote_batch_code);
}

int remote_area_map(struct remote *r, remote_addr hint, size_t size, struct remote_area *ret)
{
	int64_t at, code;
	int err;

	memset(ret, 0, sizeof(*ret));
	at = remote_call(r, SYS_mmap, hint, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | (hint ? MAP_FIXED_NOREPLACE : 0), -1, 0);
	if (at < 0)
		return at;
	code = remote_call(r, SYS_mmap, at, PAGE, PROT_READ | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	err = code < 0 ? code : remote_area_adopt(r->tid, at, size, ret);
	if (err < 0) {
		free(ret->mirror);
		memset(ret, 0, sizeof(*ret));
		(void)remote_call(r, SYS_munmap, at, size);
	}
	return err;
}

int remote_area_unmap(struct remote *r, struct remote_area *area)
{
	int err;

	if (!area->at)
		return 0;
	err = remote_call(r, SYS_munmap, area->at, area->size);
	free(area->mirror);
	memset(area, 0, sizeof(*area));
	return err;
}

void remote_area_reset(struct remote_area *area)
{
	area->used = 0;
}

static void *take(struct remote_area *area, size_t size, size_t *ret_offset)
{
	size_t offset = (area->used + 15) & ~15ul;

	if (size > area->size - PAGE || offset > area->size - PAGE - size)
		return NULL;
	area->used = offset + size;
	*ret_offset = offset;
	return memset(area->mirror + offset, 0, size);
}

int batch_begin(struct batch *b, struct remote_area *area, struct remote *r, size_t capacity)
{
	memset(b, 0, sizeof(*b));
	b->area = area;
	b->remote = r;
	b->capacity = capacity;
	b->names = calloc(capacity, sizeof(*b->names));
	if (!b->names)
		b->error = -ENOMEM;
	else if (!take(area, sizeof(struct arch_tail), &b->tail) ||
		 !take(area, capacity * sizeof(struct entry), &b->first))
		b->error = -ENOSPC;
	b->end = area->used;
	return b->error;
}

static struct entry *entry(const struct batch *b, size_t index)
{
	return (struct entry *)(b->area->mirror + b->first) + index;
}

int batch_call6(struct batch *b, const char *name, long nr, const uint64_t args[6])
{
	struct entry *e;

	if (!b->error && b->count == b->capacity)
		b->error = -ENOSPC;
	if (b->error)
		return b->error;
	e = entry(b, b->count);
	e->nr = nr;
	memcpy(e->args, args, sizeof(e->args));
	e->result = -ENOSYS;
	b->names[b->count] = name;
	return b->count++;
}

remote_addr batch_space(struct batch *b, size_t size, void **ret_local)
{
	size_t offset;
	void *local = b->error ? NULL : take(b->area, size, &offset);

	*ret_local = local;
	b->end = b->area->used;
	if (local)
		return b->area->at + PAGE + offset;
	if (!b->error)
		b->error = -ENOSPC;
	return 0;
}

remote_addr batch_bytes(struct batch *b, const void *bytes, size_t size)
{
	void *local;
	remote_addr at = batch_space(b, size, &local);

	if (at && size)
		memcpy(local, bytes, size);
	return at;
}

int64_t batch_result(const struct batch *b, int index)
{
	return index < 0 ? index : (int64_t)entry(b, index)->result;
}

static int copy_area(struct remote_area *area, size_t first, size_t end, bool out)
{
	struct iovec local = { area->mirror + first, end - first };
	struct iovec remote = { (void *)(area->at + PAGE + first), end - first };
	ssize_t done = out ? process_vm_writev(area->pid, &local, 1, &remote, 1, 0)
			   : process_vm_readv(area->pid, &local, 1, &remote, 1, 0);

	return done < 0 ? -errno : done == (ssize_t)(end - first) ? 0 : -EFAULT;
}

static struct arch_tail *tail(const struct batch *b)
{
	return (struct arch_tail *)(b->area->mirror + b->tail);
}

/* Should we be killed between any two of these, the thread makes the calls and goes on as its own. */
static int start(struct batch *b)
{
	struct user_regs_struct regs = b->remote->saved;
	remote_addr data = b->area->at + PAGE;
	int err;

	arch_set_batch(&regs, b->area->at, data + b->tail, data + b->first, b->count);
	err = trace(PTRACE_SETREGS, b->remote->tid, 0, &regs);
	if (!err)
		err = set_mask(b->remote, ~BIT(b->remote->end_signal));
	return err ? err : trace(PTRACE_CONT, b->remote->tid, 0, NULL);
}

/* Of n batches that lie side by side: one copy for all. */
static int copy_batches(struct batch *batches, size_t n, bool out)
{
	return copy_area(batches[0].area, batches[0].tail, batches[n - 1].end, out);
}

/* What stopped the thread before its batch was done was the same signal from someone else. */
static int wait_done(struct batch *b)
{
	int err;

	while (!(err = wait_for(b->remote, PTRACE_CONT, b->remote->end_signal)) &&
	       !(err = copy_batches(b, 1, false)) && !tail(b)->done) {
		b->remote->saw_end_signal = true;
		if (trace(PTRACE_CONT, b->remote->tid, 0, NULL) < 0)
			return -ESRCH;
	}
	return err;
}

void batch_free(struct batch *b)
{
	if (b->running)
		(void)wait_done(b);
	free(b->names);
	memset(b, 0, sizeof(*b));
}

/* The answers of all, one copy; hardly ever one of them isn't done. */
static int read_answers(struct batch *batches, size_t n)
{
	int err = copy_batches(batches, n, false);

	for (size_t i = 0; i < n && !err; i++) {
		if (tail(&batches[i])->done)
			continue;
		batches[i].remote->saw_end_signal = true;
		err = trace(PTRACE_CONT, batches[i].remote->tid, 0, NULL) ?: wait_done(&batches[i]);
	}
	return err;
}

/* The last one first: when it has run most others have, and each wait that sleeps costs a wake-up. */
static int await(struct batch *batches, size_t n, struct phaul_error *err)
{
	int ret = 0;

	for (size_t i = n; i-- > 0; ) {
		struct batch *b = &batches[i];
		int code = b->running ? wait_for(b->remote, PTRACE_CONT, b->remote->end_signal) : 0;

		b->running = false;
		if (code && !ret)
			ret = phaul_fail(err, code, "remote", "thread %d did not come back from a batch that "
					 "begins with: %s", b->remote->tid,
					 b->count && b->names[0] ? b->names[0] : "?");
	}
	return ret;
}

int batch_wait(struct batch *batches, size_t n, struct phaul_error *err)
{
	int code = await(batches, n, err);

	if (code || !n)
		return code;
	code = read_answers(batches, n);
	return code ? phaul_fail(err, code, "remote", "reading the answers of %zu batches", n) : 0;
}

/* All are started before the first is waited for: waking a thread on another CPU takes far longer than
 * what it has to do. */
int batch_start(struct batch *batches, size_t n, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < n && !code; i++) {
		struct batch *b = &batches[i];

		code = b->error;
		if (!code)
			arch_fill_tail(tail(b), &b->remote->saved, b->remote->saved_mask, b->remote->end_signal);
	}
	if (!code && n)
		code = copy_batches(batches, n, true);
	if (code)
		return phaul_fail(err, code, "remote", "preparing %zu batches of system calls", n);
	for (size_t i = 0; i < n; i++) {
		code = start(&batches[i]);
		batches[i].running = !code;
		if (code) {
			phaul_fail(err, code, "remote", "starting a batch in thread %d", batches[i].remote->tid);
			(void)await(batches, n, NULL);
			return code;
		}
	}
	return 0;
}

int batch_run(struct batch *batches, size_t n, struct phaul_error *err)
{
	return batch_start(batches, n, err) ?: batch_wait(batches, n, err);
}

int batch_check(const struct batch *b, struct phaul_error *err)
{
	for (size_t i = 0; i < b->count; i++) {
		int64_t result = entry(b, i)->result;

		if (b->names[i] && result < 0 && result >= -4095)
			return phaul_fail(err, result, "remote", "thread %d could not %s", b->remote->tid,
					  b->names[i]);
	}
	return 0;
}
