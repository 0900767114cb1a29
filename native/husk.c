#include "husk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/x86_64.h"
#include "error.h"
#include "freeze.h"
#include "kernel_mappings.h"

#define PAGE 4096ul
#define AREA_SIZE (1ul << 20)	/* some 10,000 calls, or the last words to 1,000 threads */
#define CLONES_AT_ONCE 512
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#define SCRATCH_BELOW_STACK 1024	/* its stack is larger than what it has on it */

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#endif

extern const uint8_t husk_program[], husk_program_end[];

/* Runs in a fork of ours, then in a vfork of that: nothing but system calls. */
static int become_husk(int program)
{
	uint64_t none = 0;

	setsid();
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
	syscall(SYS_close_range, 0, program - 1, 0);
	syscall(SYS_close_range, program + 1, ~0u, 0);
	syscall(SYS_execveat, program, "", (char *[]){ NULL }, (char *[]){ NULL }, AT_EMPTY_PATH);
	return errno;
}

/* Who is born from now on is in it. */
static int begin_time_namespace(const char *offsets)
{
	int fd, err;

	if (!*offsets)
		return 0;
	if (unshare(CLONE_NEWTIME) < 0)
		return errno;
	fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	err = fd < 0 || write(fd, offsets, strlen(offsets)) < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	return err;
}

/* The husk's parent ends at once, which makes it init's child. VFORK: when the parent goes on, the exec is
 * done or has failed. Its exit status is an errno. */
static int beget(pid_t pid, int program, const char *clock_offsets)
{
	struct clone_args args = {
		.flags = CLONE_VFORK | CLONE_CLEAR_SIGHAND,
		.exit_signal = SIGCHLD,
		.set_tid = (uintptr_t)&pid,
		.set_tid_size = 1,
	};
	int status, err = begin_time_namespace(clock_offsets);
	long child;

	if (err)
		return err;
	child = syscall(SYS_clone3, &args, sizeof(args));

	if (child == 0)
		_exit(become_husk(program));
	if (child < 0)
		return errno;
	return waitpid(child, &status, WNOHANG) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

static int spawn(pid_t pid, const char *clock_offsets)
{
	int program = memfd_create("phaul-husk", MFD_CLOEXEC);
	size_t size = husk_program_end - husk_program;
	int status, err = 0;
	pid_t parent;

	if (program < 0)
		return -errno;
	if (write(program, husk_program, size) != (ssize_t)size) {
		close(program);
		return -EIO;
	}
	/* exit_signal 0: no SIGCHLD for whoever else lives in this process, and no one else's wait. */
	parent = syscall(SYS_clone, 0, NULL, NULL, NULL, 0);
	if (parent == 0)
		_exit(beget(pid, program, clock_offsets));
	if (parent < 0)
		err = -errno;
	close(program);
	while (!err && waitpid(parent, &status, __WALL) < 0)
		if (errno != EINTR)
			err = -errno;
	if (err)
		return err;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

static int stop(pid_t pid)
{
	int status;

	if (ptrace_seize(pid, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) < 0)
		return -errno;
	if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0)
		return -errno;
	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFSTOPPED(status) ? 0 : -ESRCH;
}

static void choose_cpu(struct husk *h)
{
	cpu_set_t one;

	h->cpu = sched_getaffinity(0, sizeof(h->allowed), &h->allowed) < 0 ? -1 : sched_getcpu();
	if (h->cpu < 0)
		return;
	CPU_ZERO(&one);
	CPU_SET(h->cpu, &one);
	if (sched_setaffinity(h->pid, sizeof(one), &one) < 0)
		h->cpu = -1;
}

void husk_join(struct husk *h, bool join)
{
	cpu_set_t set = h->allowed;

	if (h->cpu < 0)
		return;
	if (join) {
		CPU_ZERO(&set);
		CPU_SET(h->cpu, &set);
	}
	(void)sched_setaffinity(0, sizeof(set), &set);
}

void husk_unbind(struct husk *h, pid_t tid)
{
	if (h->cpu >= 0)
		(void)sched_setaffinity(tid, sizeof(h->allowed), &h->allowed);
}

int husk_outlives_us(struct husk *h, struct phaul_error *err)
{
	pid_t tid = h->pid;
	int code = 0;

	for (size_t i = 0; i <= h->thread_count && !code; tid = i < h->thread_count ? h->threads[i].tid : 0, i++)
		if (ptrace(PTRACE_SETOPTIONS, tid, 0, PTRACE_O_TRACESYSGOOD) < 0)
			code = phaul_fail(err, -errno, "husk", "letting thread %d of pid %d go", tid, h->pid);
	return code;
}

/* Once a thread of it runs it may end the process at any time, and those that are still held with it. */
static int release(struct husk *h, pid_t tid, bool others_run, struct phaul_error *err)
{
	if (ptrace(PTRACE_DETACH, tid, 0, 0) == 0)
		return 0;
	if (!others_run || errno != ESRCH)
		return phaul_fail(err, -errno, "husk", "letting thread %d of pid %d go", tid, h->pid);
	/* Its end is told to us before its parent. */
	(void)waitpid(tid, NULL, __WALL | WNOHANG);
	return 0;
}

/* Threads first: when the leader runs, all do nearly at once. */
int husk_release(struct husk *h, bool others_run, struct phaul_error *err)
{
	int code = 0;

	for (size_t i = 0; i < h->thread_count && !code; i++)
		code = release(h, h->threads[i].tid, others_run || i > 0, err);
	return code ? code : release(h, h->pid, others_run || h->thread_count > 0, err);
}

int husk_open(pid_t pid, const char *clock_offsets, struct husk *ret, struct phaul_error *err)
{
	struct memory_map map;
	remote_addr syscall_at;
	int code;

	memset(ret, 0, sizeof(*ret));
	code = spawn(pid, clock_offsets);
	if (code == -EEXIST)
		return phaul_fail(err, code, "husk", "pid %d is taken on this host; a process keeps its pid "
				  "when it moves. End what has it, or move to another host", pid);
	if (code == -EPERM)
		return phaul_fail(err, code, "husk", "making a process with pid %d: that needs "
				  "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE%s", pid, *clock_offsets ? ", and CAP_SYS_TIME for its clocks" : "");
	if (code)
		return phaul_fail(err, code, "husk", "making a process with pid %d", pid);
	ret->pid = pid;
	code = stop(pid);
	if (code) {
		(void)kill(pid, SIGKILL);
		ret->pid = 0;
		return phaul_fail(err, code, "husk", "stopping the new process %d", pid);
	}
	choose_cpu(ret);
	code = memory_map_read(pid, false, &map, err);
	if (code)
		goto fail;
	code = remote_find_syscall(pid, &map, &syscall_at);
	memory_map_free(&map);
	if (!code)
		code = remote_begin(&ret->leader, pid, syscall_at);
	ret->scratch = (ret->leader.saved.rsp - SCRATCH_BELOW_STACK) & ~15ul;
	/* What is in our session's keyring is nothing to whom we receive; his own stays where he was. */
	if (!code)
		(void)remote_call(&ret->leader, SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
	if (!code)
		return 0;
	phaul_fail(err, code, "husk", "finding a way into the new process %d", pid);
fail:
	husk_close(ret);
	return code;
}

remote_addr husk_scratch(const struct husk *h)
{
	return h->area.at ? h->area.at + h->area.size - PAGE : h->scratch;
}

/* It comes up attached, in a stop, before its first instruction (CLONE_PTRACE of a seized parent). */
static int await_birth(pid_t pid)
{
	while (waitpid(pid, NULL, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int husk_fork(struct husk *parent, pid_t pid, uint64_t flags, struct husk *ret, struct phaul_error *err)
{
	struct { struct clone_args args; pid_t pid; } words = { .pid = pid };
	remote_addr at = husk_scratch(parent);
	struct iovec local = { &words, sizeof(words) }, remote = { (void *)at, sizeof(words) };
	int64_t made;

	/* It has a copy of it. */
	*ret = (struct husk){ .cpu = parent->cpu, .allowed = parent->allowed, .scratch = at, .origin = parent->origin };
	words.args.flags = CLONE_PTRACE | flags;
	words.args.exit_signal = SIGCHLD;
	words.args.set_tid = at + offsetof(typeof(words), pid);
	words.args.set_tid_size = 1;
	if (process_vm_writev(parent->pid, &local, 1, &remote, 1, 0) != sizeof(words))
		made = -EFAULT;
	else
		made = remote_call(&parent->leader, SYS_clone3, at, sizeof(words.args));
	if (made > 0) {
		ret->pid = pid;
		made = await_birth(pid) ?: remote_begin(&ret->leader, pid, parent->leader.syscall_at);
	}
	if (made == -EEXIST)
		return phaul_fail(err, made, "husk", "pid %d is taken on this host; a process keeps its pid. End what has it "
				  "first", pid);
	return made ? phaul_fail(err, made, "husk", "making process %d, a child of %d", pid, parent->pid) : 0;
}

int husk_end(struct husk *h, uint32_t status)
{
	int signal = status & 0x7f, err = 0;
	uint64_t none = 0;

	/* The core dump of the one that it stands for is taken or not. */
	(void)prlimit(h->pid, RLIMIT_CORE, &(struct rlimit){ 0, 0 }, NULL);
	if (signal) {
		/* SIGKILL waits for nobody. */
		if (ptrace(PTRACE_SETSIGMASK, h->pid, 8, &none) < 0 || kill(h->pid, signal) < 0 ||
		    (ptrace(PTRACE_CONT, h->pid, 0, 0) < 0 && errno != ESRCH))
			err = -errno;
	} else {
		struct user_regs_struct regs = h->leader.saved;

		arch_set_call(&regs, h->leader.syscall_at, SYS_exit_group, (uint64_t[6]){ (status >> 8) & 0xff });
		if (ptrace(PTRACE_SETREGS, h->pid, 0, &regs) < 0 || ptrace(PTRACE_CONT, h->pid, 0, 0) < 0)
			err = -errno;
	}
	for (int got = 0; !err && got >= 0; ) {
		/* The signal is told to the tracer first; then it is the parent's to take note of the end. */
		if (waitpid(h->pid, &got, __WALL) < 0) {
			err = errno == EINTR ? 0 : -errno;
			got = 0;
		} else if (!WIFSTOPPED(got)) {
			break;
		} else if (ptrace(PTRACE_CONT, h->pid, 0, got >> 16 ? 0 : WSTOPSIG(got)) < 0) {
			err = -errno;
		}
	}
	h->pid = 0;
	return err;
}

static bool is_foreign(const struct husk *h)
{
	return h->origin && h->origin->other_vdso;
}

static int empty(struct husk *h, const struct memory_map *own, const struct memory_map *map,
		 struct phaul_error *err)
{
	const struct vma *old = memory_map_named(own, "[vdso]"), *new = memory_map_named(map, "[vdso]");
	struct batch b;
	int code = batch_begin(&b, &h->area, &h->leader, 2 * own->count + 8);
	int64_t moved = new ? new->start - old->start : 0;

	for (size_t i = 0; !code && i < own->count; i++) {
		const struct vma *vma = &own->at[i];

		if (vma->kind == VMA_VSYSCALL || vma->kind == VMA_VDSO || vma->kind == VMA_VVAR)
			continue;
		batch_call(&b, "empty the new process", SYS_munmap, vma->start, vma->end - vma->start);
	}
	if (is_foreign(h))
		moved = kernel_mappings_aside(&b, own, map);
	else
		kernel_mappings_follow(&b, own, map, h->area.at + 16 * AREA_SIZE);
	code = batch_run(&b, 1, err) ?: batch_check(&b, err);
	batch_free(&b);
	remote_area_reset(&h->area);
	if (!code)
		h->leader.syscall_at += moved;
	return code;
}

int husk_settle(struct husk *h, const struct memory_map *map, struct phaul_error *err)
{
	struct memory_map own;
	int code = memory_map_read(h->pid, false, &own, err);

	if (code)
		return code;
	if (!memory_map_named(map, "[vdso]"))
		code = phaul_fail(err, -EXDEV, "husk", "the process has no [vdso], which its last system "
				  "call before it runs would be made through");
	if (!code && !memory_map_named(&own, "[vdso]"))
		code = phaul_fail(err, -EXDEV, "husk", "this host's kernel gives processes no [vdso] (vdso=0), which the last "
				  "system call of a husk is made through");
	if (!code && !is_foreign(h))
		code = kernel_mappings_check(&own, map, err);
	if (!code) {
		code = remote_area_map(&h->leader, memory_map_common_gap(&own, map), AREA_SIZE, &h->area);
		if (code)
			phaul_fail(err, code, "husk", "mapping the batch area in pid %d", h->pid);
	}
	if (!code)
		code = empty(h, &own, map, err);
	memory_map_free(&own);
	return code;
}

static bool covers(const struct memory_map *map, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < map->count; i++)
		if (map->at[i].start < end && start < map->at[i].end)
			return true;
	return false;
}

static int move_area(struct husk *h, const struct memory_map *map, struct phaul_error *err)
{
	remote_addr gap = memory_map_gap(map);
	int64_t at;

	/* Code and data are two mappings. */
	at = remote_call(&h->leader, SYS_mremap, h->area.at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, gap);
	if (at >= 0)
		at = remote_call(&h->leader, SYS_mremap, h->area.at + PAGE, AREA_SIZE - PAGE,
				 AREA_SIZE - PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, gap + PAGE);
	if (at < 0)
		return phaul_fail(err, at, "husk", "moving the batch area of pid %d out of the way", h->pid);
	h->area.at = gap;
	return 0;
}

/* This kernel's mappings lie where the source had nothing, until it maps something there. */
static int clear_kernel_mappings(struct husk *h, const struct memory_map *map, struct phaul_error *err)
{
	const struct vma *vdso;
	struct memory_map own;
	struct batch b;
	int64_t moved = 0;
	int code = memory_map_read(h->pid, false, &own, err);

	if (code)
		return code;
	vdso = memory_map_named(&own, "[vdso]");
	if (!vdso || !covers(map, kernel_mappings_start(&own), vdso->end)) {
		memory_map_free(&own);
		return 0;
	}
	remote_area_reset(&h->area);
	code = batch_begin(&b, &h->area, &h->leader, 8);
	moved = kernel_mappings_aside(&b, &own, map);
	code = code ?: batch_run(&b, 1, err) ?: batch_check(&b, err);
	batch_free(&b);
	remote_area_reset(&h->area);
	memory_map_free(&own);
	if (code)
		return code;
	h->leader.syscall_at += moved;
	for (size_t i = 0; i < h->thread_count; i++)
		h->threads[i].syscall_at += moved;
	return 0;
}

int husk_clear_area(struct husk *h, const struct memory_map *map, struct phaul_error *err)
{
	int code = covers(map, h->area.at, h->area.at + AREA_SIZE) ? move_area(h, map, err) : 0;

	return code ?: is_foreign(h) ? clear_kernel_mappings(h, map, err) : 0;
}

static int append_thread(struct husk *h, pid_t tid)
{
	if (h->thread_count == h->thread_capacity) {
		size_t capacity = 2 * h->thread_capacity + 16;
		void *threads = realloc(h->threads, capacity * sizeof(*h->threads));

		if (!threads)
			return -ENOMEM;
		h->threads = threads;
		h->thread_capacity = capacity;
	}
	if (await_birth(tid))
		return -ESRCH;
	/* Many are told at once, and do it side by side. */
	husk_unbind(h, tid);
	return remote_begin(&h->threads[h->thread_count++], tid, h->leader.syscall_at);
}

static int make_threads(struct husk *h, const pid_t *tids, size_t count, struct phaul_error *err)
{
	struct batch b;
	int code;

	remote_area_reset(&h->area);
	code = batch_begin(&b, &h->area, &h->leader, count);
	for (size_t i = 0; i < count; i++) {
		struct clone_args args = {
			.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
				 CLONE_SYSVSEM | CLONE_PTRACE,
			.set_tid = batch_bytes(&b, &tids[i], sizeof(tids[i])),
			.set_tid_size = 1,
		};

		batch_call(&b, NULL, SYS_clone3, batch_bytes(&b, &args, sizeof(args)), sizeof(args));
	}
	code = batch_run(&b, 1, err);
	for (size_t i = 0; i < count && !code; i++) {
		int64_t made = batch_result(&b, i);

		if (made == -EEXIST)
			code = phaul_fail(err, made, "husk", "thread id %d is taken on this host; a process "
					  "keeps its thread ids when it moves", tids[i]);
		else if (made < 0)
			code = phaul_fail(err, made, "husk", "making thread %d of pid %d", tids[i], h->pid);
		else if ((code = append_thread(h, tids[i])))
			phaul_fail(err, code, "husk", "taking over thread %d of pid %d", tids[i], h->pid);
	}
	batch_free(&b);
	remote_area_reset(&h->area);
	return code;
}

/* The thread leaves by exit(2), seen by us as its tracer. */
static int end_thread(struct husk *h, size_t index)
{
	struct remote *r = &h->threads[index];
	struct user_regs_struct regs = r->saved;
	int status;

	arch_set_call(&regs, r->syscall_at, SYS_exit, (uint64_t[6]){0});
	if (ptrace(PTRACE_SETREGS, r->tid, 0, &regs) < 0 || ptrace(PTRACE_CONT, r->tid, 0, 0) < 0)
		return -errno;
	while (waitpid(r->tid, &status, __WALL) < 0)
		if (errno != EINTR)
			return -errno;
	*r = h->threads[--h->thread_count];
	return WIFEXITED(status) || WIFSIGNALED(status) ? 0 : -EBUSY;
}

static int tid_order(const void *a, const void *b)
{
	return *(const pid_t *)a - *(const pid_t *)b;
}

static int remote_order(const void *a, const void *b)
{
	return ((const struct remote *)a)->tid - ((const struct remote *)b)->tid;
}

int husk_threads(struct husk *h, const pid_t *tids, size_t count, struct phaul_error *err)
{
	pid_t *wanted = malloc((count + 1) * sizeof(*wanted)), *new = malloc((count + 1) * sizeof(*new));
	pid_t *have = malloc((h->thread_count + 1) * sizeof(*have));
	size_t new_count = 0, have_count = h->thread_count;
	int code = wanted && new && have ? 0 : -ENOMEM;

	if (!code) {
		memcpy(wanted, tids, count * sizeof(*wanted));
		qsort(wanted, count, sizeof(*wanted), tid_order);
		for (size_t i = 0; i < have_count; i++)
			have[i] = h->threads[i].tid;
		qsort(have, have_count, sizeof(*have), tid_order);
	}
	for (size_t i = h->thread_count; !code && i-- > 0; )
		if (!bsearch(&h->threads[i].tid, wanted, count, sizeof(*wanted), tid_order))
			code = end_thread(h, i);
	if (code)
		phaul_fail(err, code, "husk", "ending a thread of pid %d that the source has no more",
			   h->pid);
	for (size_t i = 0; !code && i < count; i++)
		if (tids[i] != h->pid && !bsearch(&tids[i], have, have_count, sizeof(*have), tid_order))
			new[new_count++] = tids[i];
	for (size_t done = 0; !code && done < new_count; done += CLONES_AT_ONCE)
		code = make_threads(h, new + done, new_count - done < CLONES_AT_ONCE
				    ? new_count - done : CLONES_AT_ONCE, err);
	if (h->thread_count)
		qsort(h->threads, h->thread_count, sizeof(*h->threads), remote_order);
	free(wanted);
	free(new);
	free(have);
	return code;
}

struct remote *husk_thread(struct husk *h, pid_t tid)
{
	if (tid == h->pid)
		return &h->leader;
	return !h->thread_count ? NULL : bsearch(&(struct remote){ .tid = tid }, h->threads, h->thread_count,
						 sizeof(*h->threads), remote_order);
}

/* Threads are reaped before the leader, or the wait for the leader would never end. */
void husk_close(struct husk *h)
{
	if (h->pid && kill(h->pid, SIGKILL) == 0) {
		for (size_t i = 0; i < h->thread_count; i++)
			while (waitpid(h->threads[i].tid, NULL, __WALL) < 0 && errno == EINTR)
				;
		while (waitpid(h->pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	}
	free(h->threads);
	free(h->area.mirror);
	memset(h, 0, sizeof(*h));
}
