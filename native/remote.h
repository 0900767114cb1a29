/* remote.h - make system calls in a thread that we have stopped, and give it back as it was.
 *
 * Singly, through a `syscall` instruction that is already in the process (its vdso): nothing is
 * written, about 20 us a call.
 *
 *	struct remote r;
 *	err = remote_begin(&r, tid, syscall_at);
 *	fd = remote_call(&r, SYS_openat, AT_FDCWD, path, O_RDONLY);
 *	remote_end(&r);
 *
 * Or as a batch: a few bytes of code in an area that was mapped for it run an array of calls in one
 * stop, about 0.2 us a call. Batches of several threads run at the same time.
 *
 *	struct batch b;
 *	batch_begin(&b, &area, &r, 16);
 *	i = batch_call(&b, "ask for the signal stack", SYS_sigaltstack, 0, batch_space(&b, 24, &out));
 *	err = batch_run(&b, 1, err) ?: batch_check(&b, err);
 *
 * A call answers what the kernel answered: >= 0 or -errno. -ESRCH means that the thread died; nothing
 * needs undoing then. While it runs for us all signals are blocked and stay pending, but for the one that a batch
 * ends with.
 *
 * Should we be killed, a thread that runs a batch makes its calls and goes on as its own. One that makes a single
 * call is lost: those are for what can't be in a batch, to map its area and to unmap it.
 */
#ifndef PHAUL_REMOTE_H
#define PHAUL_REMOTE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "phaul.h"

/* An address in the other process; never to be dereferenced here. */
typedef uint64_t remote_addr;

struct remote {
	pid_t tid;
	remote_addr syscall_at;
	struct user_regs_struct saved;
	uint64_t saved_mask, mask;	/* its own, and as it is now */
	int end_signal;			/* that batches end with; see remote_choose_signal() */
	bool begun;
	/* Signals that came from elsewhere and were swallowed: remote_end sends them again. */
	bool saw_sigstop, saw_end_signal;
};

struct memory_map;
/* Finds the `syscall` instruction of the vdso that `map` has. -ENOENT: there is none. */
int remote_find_syscall(pid_t tid, const struct memory_map *map, remote_addr *ret);

/* The thread must be ptrace-stopped by us. Changes nothing in it. */
int remote_begin(struct remote *r, pid_t tid, remote_addr syscall_at);
/* The same for a thread whose registers and signal mask are known, which saves two calls. */
void remote_begin_with(struct remote *r, pid_t tid, remote_addr syscall_at, const struct user_regs_struct *regs,
		       uint64_t mask);
/* Chooses what batches end with: a signal that isn't pending, does nothing by default if there is one, and has no
 * handler if that can be had. Sets of signals as masks; without this call it is SIGURG. */
void remote_choose_signal(struct remote *r, uint64_t caught, uint64_t pending);
int remote_end(struct remote *r);

#define remote_call(r, nr, ...) remote_call6((r), (nr), (uint64_t[6]){ __VA_ARGS__ })
int64_t remote_call6(struct remote *r, long nr, const uint64_t args[6]);

/* Calls the function that lies at `code`, with a stack that ends at `stack`; it may make system calls, and must return.
 * -EFAULT: it has crashed, which the process doesn't notice. */
int remote_run(struct remote *r, remote_addr code, remote_addr stack, uint64_t argument, uint64_t *ret);

/* A mapping in the other process, one page of code and then data that `mirror` is our copy of. */
struct remote_area {
	remote_addr at;
	size_t size;		/* code page included */
	pid_t pid;		/* a live tid, for process_vm_writev */
	uint8_t *mirror;	/* of the data, size - 4096 bytes */
	size_t used;
};

/* Maps at `hint` (or anywhere if 0). remote_area_unmap() leaves no trace in the process. */
int remote_area_map(struct remote *r, remote_addr hint, size_t size, struct remote_area *ret);
/* Fills in an area whose mapping exists already. */
int remote_area_adopt(pid_t pid, remote_addr at, size_t size, struct remote_area *ret);
int remote_area_unmap(struct remote *r, struct remote_area *area);
/* Starts a new round of batches: earlier batches' memory is void. */
void remote_area_reset(struct remote_area *area);

/* What a batch takes of its area beside its calls, 64 bytes each, and what these point to. */
#define BATCH_BYTES 224

/* One array of system calls for one thread. */
struct batch {
	struct remote_area *area;
	struct remote *remote;
	/* Offsets in the mirror: of the tail, of the first entry, and behind all that is its own. */
	size_t tail, first, end;
	size_t count, capacity;
	const char **names;	/* what each call is for; NULL: its failure is no failure */
	int error;		/* -ENOSPC: the area is too small; sticks until batch_run reports it */
	bool running;
};

int batch_begin(struct batch *b, struct remote_area *area, struct remote *r, size_t capacity);
void batch_free(struct batch *b);
/* Adds a call and returns its index for batch_result(). `name` says what for, in the words of an error
 * message ("set the handler of signal 15"), or NULL if the caller looks at the result itself. */
#define batch_call(b, name, nr, ...) batch_call6((b), (name), (nr), (uint64_t[6]){ __VA_ARGS__ })
int batch_call6(struct batch *b, const char *name, long nr, const uint64_t args[6]);
/* Copies bytes over with the batch; returns where they will be. */
remote_addr batch_bytes(struct batch *b, const void *bytes, size_t size);
/* Room for answers, zeroed; *ret_local is where they can be read after batch_run. */
remote_addr batch_space(struct batch *b, size_t size, void **ret_local);
int64_t batch_result(const struct batch *b, int index);
/* Runs all of them side by side. */
int batch_run(struct batch *batches, size_t n, struct phaul_error *err);
/* The same in two steps, to do something else meanwhile. Those of one call lie side by side in the area: they
 * were begun one after the other. If one can't be started, none runs any more. All must be waited for, whatever
 * fails, or freed, which waits. */
int batch_start(struct batch *batches, size_t n, struct phaul_error *err);
int batch_wait(struct batch *batches, size_t n, struct phaul_error *err);
/* The first named call that failed, as an error; 0 if none did. */
int batch_check(const struct batch *b, struct phaul_error *err);

#endif
