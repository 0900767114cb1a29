/* phaul.h - the whole ABI of libphaul.so, in call order.
 *
 * Every call returns 0 (or a count) on success and -errno on failure, with `err` filled if it is
 * not NULL. Handles are opaque. Nothing is logged, no signal handler is installed, no child but the
 * library's own is waited for. ptrace belongs to the OS thread that seized: make all calls of one
 * source or target from one thread. phaul_channel_abort() alone may be called from any thread.
 *
 *	source host                                   target host
 *	phaul_source_open                             phaul_channel_listen, _port, _accept
 *	phaul_channel_connect                         phaul_target_open         a husk with the pid
 *	phaul_source_arm        tracking starts
 *	phaul_source_round ...  layout, pages  ---->  phaul_target_round ...    staged
 *	phaul_source_quiesce    no new connections
 *	phaul_source_freeze     all threads stop
 *	phaul_source_final      last pages     ---->  phaul_target_round
 *	                        state          ---->  phaul_target_build        built and held
 *	phaul_source_commit     no return      ---->  phaul_target_release      runs
 *	phaul_source_kill
 *
 * Before phaul_source_commit every failure ends in phaul_source_thaw and phaul_target_close.
 * Times are in ns of CLOCK_MONOTONIC, sizes in bytes, pages are of 4096 bytes.
 */
#ifndef PHAUL_H
#define PHAUL_H

#include <stddef.h>
#include <stdint.h>

#define PHAUL_API __attribute__((visibility("default")))
#define PHAUL_ABI_VERSION 18

/* Why a call failed: `code` is the -errno that it returned, `where` the part and phase ("freeze",
 * "stage: map"), `what` a sentence that says what was being done to what. Owned by the caller. */
struct phaul_error {
	int32_t code;
	char where[32];
	char what[220];
};

PHAUL_API int phaul_abi_version(void);

/* ---- check: can this process move? Touches nothing. ---- */

enum {
	PHAUL_TCP_CLOSE = 1,	/* established connections move as reset ones (--tcp close) */
	PHAUL_TO_DIRECTORY = 2,	/* a checkpoint: the process with all its children */
	PHAUL_LEAVE_STOPPED = 4,	/* phaul_restore_release(): all are stopped (SIGSTOP) */
	PHAUL_LINK_REMAP = 8,	/* links may be made for files whose name is gone but that have another */
	PHAUL_FILE_LOCKS = 16,	/* locks on files are dumped, which others may take meanwhile */
	PHAUL_TCP_ESTABLISHED = 32,	/* connections are dumped; their packets are dropped until they are restored */
	PHAUL_SKIP_IN_FLIGHT = 64,	/* those that wait to be accepted are not */
	PHAUL_TCP_AT_END = 128,	/* a restore: connections that aren't restored are at their end, as criu has them, instead of reset */
	PHAUL_OTHER_KERNEL = 256,	/* the target has another: no thread may be in the middle of this one's code (vdso) when it moves */
	PHAUL_STDIO_ELSEWHERE = 512,	/* the process has another stdin, stdout and stderr on the target */
};

/* Writes one line per obstacle, "CODE\tsubject\tsentence\n", sorted by subject kind, into `ret_text`.
 * CODE is an upper case word such as FD_KIND or TCP_ESTABLISHED, subject is "fd 14", "memory 7f..",
 * "thread 12" or "pid 7". Lines that start with '~' instead are notices: what will be different on the
 * target. Returns the number of obstacles (notices not counted), -ENOBUFS if the text was too long. */
PHAUL_API int phaul_check(int pid, uint32_t flags, char *ret_text, size_t size,
			  struct phaul_error *err);
/* The files that the process watches by inotify and fanotify, by their names, a line each. */
PHAUL_API int phaul_watched(int pid, char *ret_text, size_t size, struct phaul_error *err);

/* What the XSAVE instruction writes here, bytes; 0: the CPU hasn't got it. */
PHAUL_API int phaul_xsave_size(void);

/* ---- page channel: one note stream and N page streams, TLS 1.3 (channel.h says more) ---- */

struct phaul_channel;

PHAUL_API int phaul_channel_listen(const char *address, int port, const uint8_t key[32], int streams,
				   struct phaul_channel **ret, struct phaul_error *err);
PHAUL_API int phaul_channel_port(struct phaul_channel *ch);
PHAUL_API int phaul_channel_accept(struct phaul_channel *ch, int timeout_ms, struct phaul_error *err);
PHAUL_API int phaul_channel_connect(const char *address, int port, const uint8_t key[32], int streams,
				    int timeout_ms, struct phaul_channel **ret,
				    struct phaul_error *err);
/* Of all page streams together, evenly; 0: as fast as it goes. */
PHAUL_API int phaul_channel_limit(struct phaul_channel *ch, uint64_t bytes_per_second, struct phaul_error *err);
/* How many bytes of pages the other host's kernel has not taken yet. */
PHAUL_API int64_t phaul_channel_unsent(struct phaul_channel *ch);
/* Any thread: every blocked and later call on the channel returns -ECANCELED. */
PHAUL_API void phaul_channel_abort(struct phaul_channel *ch);
PHAUL_API void phaul_channel_close(struct phaul_channel *ch);

/* Notes are the conversation of the cut-over; the library itself sends these three, all other kinds are the
 * caller's. */
enum {
	PHAUL_NOTE_LAYOUT = 1,	/* an image set: the memory map of a round, before its pages */
	PHAUL_NOTE_STATE = 2,	/* an image set: everything but memory and the threads of notes before */
	PHAUL_NOTE_THREADS = 3,	/* an image set: some threads */
	PHAUL_NOTE_PACKETS = 4,	/* what came for the moved addresses meanwhile: packet_catch.h */
	PHAUL_NOTE_FILES = 5,	/* what follows until FILES_END is for phaul_received_files_receive(): file_copy.h */
	PHAUL_NOTE_FILES_END = 6,
	PHAUL_NOTE_USER = 16,	/* the first kind that is the caller's */
};
PHAUL_API int phaul_note_send(struct phaul_channel *ch, uint32_t kind, const void *bytes, size_t size,
			      struct phaul_error *err);
/* -ENOBUFS: the note is `*ret_size` long; call again with a larger buffer, the note is kept. */
PHAUL_API int phaul_note_receive(struct phaul_channel *ch, uint32_t *ret_kind, void *buffer,
				 size_t capacity, size_t *ret_size, int timeout_ms,
				 struct phaul_error *err);

/* ---- source ---- */

struct phaul_source;

struct phaul_round {
	uint32_t round;		/* 1 is the first */
	uint32_t vmas;
	uint64_t pages_dirty;	/* pages found written since the round before */
	uint64_t pages_sent;	/* of these, not zero */
	uint64_t pages_zero;
	uint64_t pages_inherited;	/* not sent: processes that are new to the target have them from their parents there */
	uint64_t held_back;	/* processes that wait for their parents' memory, and come with a later round */
	uint64_t bytes_sent;	/* on the wire */
	uint64_t scan_ns;	/* finding them */
	uint64_t send_ns;	/* reading and sending them, until the kernel has them */
	uint64_t stopped_ns;	/* of it: how long processes stood still; 0 if the tracker needs no stop */
};

struct phaul_freeze {
	uint64_t frozen_at_ns;	/* when the first thread was told to stop */
	uint64_t stop_ns;	/* until all had stopped */
	uint64_t scan_ns;
	uint64_t send_ns;	/* pages */
	uint64_t dump_ns;	/* registers, descriptors and the rest */
	uint64_t state_bytes;
	uint32_t threads, processes;
	uint64_t fresh_pages;	/* of processes that the last round didn't know, or not as they are now; all ones: they can't be moved now */
	uint64_t fresh_own_pages;	/* of these, what they don't share with their parents; all, where it would take long to find out */
	struct phaul_round last;	/* the pages that went over in the freeze */
};

/* How pages that are written are found on this kernel: "uffd" (userfaultfd), "soft-dirty", or "none": all pages count as
 * written, so that no round but the first is of use. `wanted`: one of these, or NULL for the first that is there.
 * -EOPNOTSUPP: this kernel hasn't got it. */
PHAUL_API int phaul_tracker(const char *wanted, char ret_name[16], struct phaul_error *err);
/* `addresses`: those of this host that go along, "10.0.0.7/24@eth0 fd00::7/64@eth1".
 * `cgroups`, here and below: what to do with control groups, in lines, "" for the usual: they are entered if they are there. A
 * mode as criu has it ("ignore", "none", "props", "soft", "full", "strict"), "root=[CONTROLLER:]/PATH", "yard=DIRECTORY". */
PHAUL_API int phaul_source_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, struct phaul_source **ret,
				struct phaul_error *err);
/* Before it is armed: another way than the first. */
PHAUL_API int phaul_source_track_by(struct phaul_source *src, const char *tracker, struct phaul_error *err);
/* Its stdin is /dev/null on the target, and its stdout and stderr are appended to the file `output` there. */
PHAUL_API int phaul_source_stdio(struct phaul_source *src, const char *output, struct phaul_error *err);
/* What the process sees now, "MONOTONIC BOOTTIME" in ns, with " own" if that isn't what its kernel tells all others: for
 * phaul_target_open(). */
PHAUL_API int phaul_clocks(int pid, char *ret_text, size_t size, struct phaul_error *err);
/* Stops the process for about a millisecond and starts tracking. `ret_stop_ns`: how long it stood. */
PHAUL_API int phaul_source_arm(struct phaul_source *src, uint64_t *ret_stop_ns,
			       struct phaul_error *err);
/* The process runs. Sends PHAUL_NOTE_LAYOUT, then the pages written since the last round. */
PHAUL_API int phaul_source_round(struct phaul_source *src, struct phaul_channel *ch,
				 struct phaul_round *ret, struct phaul_error *err);
/* How many pages are dirty now, without starting a round. */
PHAUL_API int64_t phaul_source_dirty(struct phaul_source *src, struct phaul_error *err);
/* Connections that begin at the moved addresses are kept back from here on, and go along; those that are being made, or wait
 * to be accepted, which can't, are waited for. Returns how many are left. */
PHAUL_API int64_t phaul_source_quiesce(struct phaul_source *src, int timeout_ms, struct phaul_error *err);
PHAUL_API int phaul_source_freeze(struct phaul_source *src, int timeout_ms,
				  struct phaul_freeze *ret, struct phaul_error *err);
/* Sends the last LAYOUT and pages, then THREADS by the hundred, then STATE. -EAGAIN: nothing was sent, and it may succeed
 * when the process has run for a moment: phaul_source_yield(). */
PHAUL_API int phaul_source_final(struct phaul_source *src, struct phaul_channel *ch,
				 struct phaul_freeze *ret, struct phaul_error *err);
/* The locks on files that phaul_source_pass() gives back, a line each, for who lets the original go on after all. Returns how many
 * bytes that are, of which no more than `size` are written. */
PHAUL_API int phaul_source_locks(struct phaul_source *src, char *ret_text, size_t size, struct phaul_error *err);
/* From here on the original may not run: when this thread ends it stands still, stopped (state T), until somebody knows what
 * became of the copy: phaul_original_end(), phaul_original_resume(). The addresses are taken off this host. */
PHAUL_API int phaul_source_commit(struct phaul_source *src, struct phaul_error *err);
/* Committed, and about to say so: what only one of them can have (locks on files) is given up here. */
PHAUL_API void phaul_source_pass(struct phaul_source *src);
PHAUL_API int phaul_source_kill(struct phaul_source *src, struct phaul_error *err);
/* Committed: sends PACKETS, those that came for the moved addresses since the freeze, or since the last call. */
PHAUL_API int phaul_source_packets(struct phaul_source *src, struct phaul_channel *ch, struct phaul_error *err);
/* After commit, when the target's answer never came. `stopped`: leaves the original stopped and untraced. Otherwise, and
 * only if the target has proved that it never ran there, lets it go on as it was. */
PHAUL_API int phaul_source_abandon(struct phaul_source *src, int stopped, struct phaul_error *err);
/* Lets the process go on for a moment, in which no packets reach it: it accepts the connections that wait for that. */
PHAUL_API int phaul_source_yield(struct phaul_source *src, struct phaul_error *err);
/* Gives the process back as it was, interrupted system calls included. */
PHAUL_API int phaul_source_thaw(struct phaul_source *src, struct phaul_error *err);
/* Thaws if frozen and not committed, leaves it stopped if committed, stops tracking, frees. */
PHAUL_API void phaul_source_close(struct phaul_source *src);
/* Frozen: a line "start-end hash\n" for each mapping whose content moves. To compare both sides: before
 * phaul_source_final here, after the last phaul_target_round there. */
PHAUL_API int phaul_source_checksum(struct phaul_source *src, char *ret_text, size_t size,
				    struct phaul_error *err);

/* ---- an original that was left stopped ---- */

/* Ends the process and all that descend from it; the peers of its TCP connections, which are somewhere else now, are told
 * nothing. Names of memory that it alone shared go, too. */
PHAUL_API int phaul_original_end(int pid, struct phaul_error *err);
/* Lets them go on, but for `except`, pids that stood still before they were frozen ("12 14"). `addresses` are put on this host again. */
/* `locks`: of phaul_source_locks(), taken again; ret_lost has a line for each that somebody else has by now. */
PHAUL_API int phaul_original_resume(int pid, const char *addresses, const char *except, const char *locks, char *ret_lost, size_t size,
				    struct phaul_error *err);

/* ---- target ---- */

struct phaul_target;

struct phaul_applied {
	uint32_t round;
	uint32_t vmas;
	uint64_t bytes;		/* page data that arrived, uncompressed */
	uint64_t pages_dropped;
	uint64_t layout_ns;	/* changing mappings */
	uint64_t wait_ns;	/* until the last page was in place */
};

struct phaul_built {
	uint64_t build_ns;	/* from STATE on */
	uint64_t threads_ns;	/* before, while the source was still reading */
	uint64_t files_ns;	/* of it: descriptors */
	uint32_t threads;
	uint32_t descriptors;
};

/* Makes a husk with the wanted pid in the caller's pid namespace; it dies with the caller. `flags` is
 * zero. `addresses` are this host's from the release on. `clocks`: what the process saw at least, from phaul_clocks() of the other
 * host, when CLOCK_MONOTONIC was `clocks_at_ns` here; it may have seen `clocks_unsure_ns` more. "" if that doesn't matter. -EEXIST:
 * the pid is taken. */
PHAUL_API int phaul_target_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, const char *clocks,
				int64_t clocks_at_ns, int64_t clocks_unsure_ns, struct phaul_target **ret, struct phaul_error *err);
/* Starts the threads that put arriving pages in place. */
PHAUL_API int phaul_target_receive(struct phaul_target *tgt, struct phaul_channel *ch,
				   struct phaul_error *err);
/* `layout` is the payload of a PHAUL_NOTE_LAYOUT. Returns when its round's pages are in place. */
PHAUL_API int phaul_target_round(struct phaul_target *tgt, struct phaul_channel *ch,
				 const void *layout, size_t size, int timeout_ms,
				 struct phaul_applied *ret, struct phaul_error *err);
/* `threads` is the payload of a PHAUL_NOTE_THREADS; the last round's pages are in place. */
PHAUL_API int phaul_target_threads(struct phaul_target *tgt, const void *threads, size_t size,
				   struct phaul_error *err);
/* `state` is the payload of a PHAUL_NOTE_STATE. The process is complete and held afterwards. */
PHAUL_API int phaul_target_build(struct phaul_target *tgt, const void *state, size_t size,
				 struct phaul_built *ret, struct phaul_error *err);
PHAUL_API int phaul_target_checksum(struct phaul_target *tgt, char *ret_text, size_t size,
				    struct phaul_error *err);
/* Sentences for the operator, one a line, about what is different here; each is told once. */
PHAUL_API void phaul_target_said(struct phaul_target *tgt, char *ret_text, size_t size);
/* Lets the process go. It is nobody's child but init's. On failure nothing of it has run, nor will. */
PHAUL_API int phaul_target_release(struct phaul_target *tgt, struct phaul_error *err);
/* `packets` is the payload of a PHAUL_NOTE_PACKETS: delivered at the release, or at once after it. */
PHAUL_API int phaul_target_packets(struct phaul_target *tgt, const void *packets, size_t size, struct phaul_error *err);
/* Discards a husk or held process that was not released, frees. */
PHAUL_API void phaul_target_close(struct phaul_target *tgt);

/* Runs a program in a pid namespace of its own, whose first process (native/husk/init.c) ends with the last of the others. It sees its
 * own /proc, and else what is mounted here. Its descriptors 0 and 1 are the other end of the socket that is returned, 3 is our
 * /proc. Its pid there is `last_pid` + 1, those of its threads follow. `argv` and `envp` end with NULL. It is nobody's child but init's. */
PHAUL_API int phaul_pid_namespace(char *const *argv, char *const *envp, int last_pid, struct phaul_error *err);

/* ---- files that go along ---- */

/* `list`: for each file a mark, its whole path and a 0. "r": it is sent once, and again if its times tell that it has changed.
 * "w": the process may change it. "=": it is there already. */
struct phaul_files;
PHAUL_API int phaul_files_open(const char *list, size_t size, struct phaul_files **ret, struct phaul_error *err);
/* A pass: sends what has changed since the one before, and what the process and all below it have opened since. While they
 * stand still it is the last. */
PHAUL_API int phaul_files_send(struct phaul_files *f, struct phaul_channel *ch, int pid, uint64_t bytes_per_second, uint64_t *ret_bytes,
			       struct phaul_error *err);
PHAUL_API void phaul_files_close(struct phaul_files *f);

/* `agreed`: the paths that may be replaced here, each with a 0; others are made only if there is nothing of that name. `log`: a file
 * that is made with the first of them, and there until this is closed, for phaul_received_files_settle(). */
struct phaul_received_files;
PHAUL_API int phaul_received_files_open(const char *agreed, size_t size, const char *log, struct phaul_received_files **ret,
					struct phaul_error *err);
/* After PHAUL_NOTE_FILES: one pass. */
PHAUL_API int phaul_received_files_receive(struct phaul_received_files *f, struct phaul_channel *ch, struct phaul_error *err);
/* The process runs here, with them. */
PHAUL_API void phaul_received_files_keep(struct phaul_received_files *f);
/* Frees; puts everything back if they were not kept. */
PHAUL_API void phaul_received_files_close(struct phaul_received_files *f);
/* The same for one who was killed; `keep`: the process runs, or ran, here. Others' files are left alone. 0 if there is no such log. */
PHAUL_API int phaul_received_files_settle(const char *log, int keep, struct phaul_error *err);

/* ---- checkpoint: to a directory and back ---- */

struct phaul_dumped {
	uint64_t pages;		/* of the processes' memory */
	uint64_t written;	/* of these: the others are the same in the checkpoint before */
	uint32_t processes, threads;
};

/* What becomes of the processes of a dump. */
enum {
	PHAUL_ABANDON,	/* they go on as if nothing had been */
	PHAUL_RUN,	/* they go on, and may be restored as well */
	PHAUL_STOP,	/* they stay stopped (SIGSTOP), and so do the packets of their connections */
	PHAUL_KILL,
};

/* In three steps, all by one thread. Freezes the process and all its children; `directory` has no images yet. A symbolic link
 * "parent" in it leads to the directory of a checkpoint before, whose pages are not written again if they are the same. With a
 * `server` (NULL: none) that runs phaul_page_server() all pages go there, and all else as well; "parent" is there, too. */
struct phaul_checkpoint;
PHAUL_API int phaul_checkpoint_open(int pid, int directory, struct phaul_channel *server, uint32_t flags, const char *cgroups,
				    int timeout_ms, struct phaul_checkpoint **ret, struct phaul_error *err);
/* Writes CRIU's images. On failure some may be left, and the only way out is PHAUL_ABANDON. */
PHAUL_API int phaul_checkpoint_write(struct phaul_checkpoint *c, struct phaul_dumped *ret, struct phaul_error *err);
/* Frees, whatever it returns; if it fails they go on. */
PHAUL_API int phaul_checkpoint_close(struct phaul_checkpoint *c, int outcome, uint64_t *ret_frozen_ns, struct phaul_error *err);
/* The memory alone of processes that run, for phaul_checkpoint_write() to find it again. */
PHAUL_API int phaul_predump(int pid, int directory, struct phaul_channel *server, struct phaul_dumped *ret, struct phaul_error *err);
/* The other end: writes what comes to `directory`, which has no images yet. On failure some may be left. */
PHAUL_API int phaul_page_server(struct phaul_channel *ch, int directory, uint64_t *ret_bytes, struct phaul_error *err);

/* Frees the disk from what checkpoints before this one have of pages that it has newer ones of: those are good for this one only,
 * afterwards. *ret_pages: how many. */
PHAUL_API int phaul_dedup(int directory, uint64_t *ret_pages, struct phaul_error *err);

/* What this CPU can do, as CRIU's cpuinfo.img; and whether it can do what such an image says. */
enum { PHAUL_CPU_REGISTERS = 1, PHAUL_CPU_INSTRUCTIONS = 2, PHAUL_CPU_SAME = 4 };
PHAUL_API int phaul_cpuinfo_dump(int directory, struct phaul_error *err);
PHAUL_API int phaul_cpuinfo_check(int directory, uint32_t what, struct phaul_error *err);

/* Makes the processes from the images, complete and held. `flags`: PHAUL_TCP_CLOSE, PHAUL_TCP_AT_END. -EEXIST: a pid is taken. */
struct phaul_restore;
PHAUL_API int phaul_restore_open(int directory, uint32_t flags, const char *cgroups, struct phaul_restore **ret, int *ret_pid,
				 struct phaul_error *err);
/* Sentences about what is different, as of phaul_target_said(). */
PHAUL_API void phaul_restore_said(struct phaul_restore *r, char *ret_text, size_t size);
/* Lets them go, the first as init's child. */
PHAUL_API int phaul_restore_release(struct phaul_restore *r, uint32_t flags, struct phaul_error *err);
/* Ends those that were not released; frees. */
PHAUL_API void phaul_restore_close(struct phaul_restore *r);

/* ---- TCP connections, by themselves: tcp.h says more ---- */

PHAUL_API int phaul_tcp_pause(int fd, struct phaul_error *err);
/* Of a paused socket; nothing in it changes. Returns how many bytes that is; nothing is written if `size` is less. They are for
 * this program alone, on hosts of this byte order. */
PHAUL_API int64_t phaul_tcp_save(int fd, void *ret, size_t size, struct phaul_error *err);
/* A new socket, paused, of which no other has the connection. */
PHAUL_API int phaul_tcp_restore(const void *bytes, size_t size, struct phaul_error *err);
/* SO_REUSEADDR is on afterwards. */
PHAUL_API int phaul_tcp_resume(int fd, struct phaul_error *err);

/* While a connection is in nobody's hands its packets must be dropped: by nftables, until the lock is closed or its process ends. */
struct phaul_tcp_lock;
PHAUL_API int phaul_tcp_lock_open(struct phaul_tcp_lock **ret, struct phaul_error *err);
PHAUL_API int phaul_tcp_lock_add(struct phaul_tcp_lock *lock, int fd, struct phaul_error *err);
PHAUL_API void phaul_tcp_lock_close(struct phaul_tcp_lock *lock);

/* ---- another process's main thread, borrowed: remote.h says more ---- */

/* All calls of one belong to the OS thread that has attached. The process stands still meanwhile only in its main thread. */
struct phaul_remote;
PHAUL_API int phaul_remote_attach(int pid, struct phaul_remote **ret, struct phaul_error *err);
/* It goes on as it was, whatever was done in between by the calls below, but for what they did. */
PHAUL_API int phaul_remote_detach(struct phaul_remote *r, struct phaul_error *err);
/* *ret is what the kernel answered, >= 0 or -errno. */
PHAUL_API int phaul_remote_call(struct phaul_remote *r, int64_t nr, const uint64_t args[6], int64_t *ret, struct phaul_error *err);
/* `calls`: for each its number and six arguments. All are made in one stop. */
PHAUL_API int phaul_remote_batch(struct phaul_remote *r, const uint64_t *calls, size_t count, int64_t *ret, struct phaul_error *err);
/* Whatever the protection of the memory says. */
PHAUL_API int phaul_remote_read(struct phaul_remote *r, uint64_t at, void *to, size_t size, struct phaul_error *err);
PHAUL_API int phaul_remote_write(struct phaul_remote *r, uint64_t at, const void *from, size_t size, struct phaul_error *err);
/* A descriptor of ours for the same open file. */
PHAUL_API int phaul_remote_take(struct phaul_remote *r, int fd, struct phaul_error *err);
/* Position-independent code, called as a function with one argument, on a stack of its own of 64 KiB. */
PHAUL_API int phaul_remote_run(struct phaul_remote *r, const void *code, size_t size, uint64_t argument, uint64_t *ret,
			       struct phaul_error *err);

/* ---- who is at the other end of a unix socket: the user that connected, or made the pair ---- */

PHAUL_API int phaul_peer_user(int fd, uint32_t *ret_uid, struct phaul_error *err);

/* ---- for measuring ---- */

/* A plain TLS 1.3 stream over loopback with the channel's cipher, in GB/s: what pages can't beat. */
PHAUL_API int phaul_tls_baseline(size_t bytes, double *ret_gbps, struct phaul_error *err);
/* How urgent the calling thread is. While the process still runs, it comes first: everything that copies it
 * does so with LOW. */
enum {
	PHAUL_PRIORITY_LOW = -1,	/* nice 10 */
	PHAUL_PRIORITY_NORMAL = 0,
	PHAUL_PRIORITY_HIGH = 1,	/* nice -20 */
	PHAUL_PRIORITY_FREEZE = 2,	/* SCHED_FIFO, or HIGH where that isn't to be had */
};
PHAUL_API int phaul_priority(int priority);
/* The same for the threads on the page streams, which begin with LOW. */
PHAUL_API void phaul_channel_priority(struct phaul_channel *ch, int priority);
/* CLOCK_MONOTONIC, comparable with frozen_at_ns. */
PHAUL_API uint64_t phaul_now_ns(void);

#endif
