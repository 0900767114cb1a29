/** libphaul.so: the only file that imports koffi. Handles are emptied on close, so that none is used after. */
import koffi from 'koffi';
import { fileURLToPath } from 'node:url';
import { PhaulError, type ErrorCode } from '../errors.ts';

const ABI_VERSION = 18;
export const ETIMEDOUT = -110;
const ESRCH = -3;
const SAID_BYTES = 1 << 13;
export const CHECKSUM_TEXT_BYTES = 8 << 20;

const path = process.env['PHAUL_LIBRARY'] ?? fileURLToPath(new URL('../../build/libphaul.so', import.meta.url));

koffi.struct('phaul_error', { code: 'int32_t', where: koffi.array('char', 32), what: koffi.array('char', 220) });
const roundType = koffi.struct('phaul_round', {
  round: 'uint32_t', vmas: 'uint32_t', pages_dirty: 'uint64_t', pages_sent: 'uint64_t', pages_zero: 'uint64_t',
  pages_inherited: 'uint64_t', held_back: 'uint64_t', bytes_sent: 'uint64_t', scan_ns: 'uint64_t', send_ns: 'uint64_t', stopped_ns: 'uint64_t',
});
koffi.struct('phaul_freeze', {
  frozen_at_ns: 'uint64_t', stop_ns: 'uint64_t', scan_ns: 'uint64_t', send_ns: 'uint64_t', dump_ns: 'uint64_t',
  state_bytes: 'uint64_t', threads: 'uint32_t', processes: 'uint32_t', fresh_pages: 'uint64_t', fresh_own_pages: 'uint64_t',
  last: roundType,
});
koffi.struct('phaul_applied', {
  round: 'uint32_t', vmas: 'uint32_t', bytes: 'uint64_t', pages_dropped: 'uint64_t', layout_ns: 'uint64_t', wait_ns: 'uint64_t',
});
koffi.struct('phaul_dumped', { pages: 'uint64_t', written: 'uint64_t', processes: 'uint32_t', threads: 'uint32_t' });
koffi.struct('phaul_built', {
  build_ns: 'uint64_t', threads_ns: 'uint64_t', files_ns: 'uint64_t', threads: 'uint32_t', descriptors: 'uint32_t',
});

export type Numbers<K extends string> = Record<K, number>;
export type RawError = { code: number; where: string; what: string };
export type Pointer = bigint | null;

const load = () => {
  let lib: ReturnType<typeof koffi.load>;
  try {
    lib = koffi.load(path);
  } catch (cause) {
    throw new PhaulError('ERR_LIBRARY', `The engine ${path} can't be loaded: run "npm run setup" in phaul's directory.`, { cause });
  }
  const version = lib.func('int phaul_abi_version()')() as number;
  if (version !== ABI_VERSION) {
    throw new PhaulError('ERR_LIBRARY', `The engine ${path} has ABI ${version}, this phaul needs ${ABI_VERSION}: run "npm run setup" in phaul's directory.`);
  }
  return {
    watched: lib.func('int phaul_watched(int pid, _Out_ uint8_t *text, size_t size, _Out_ phaul_error *err)'),
    check: lib.func('int phaul_check(int pid, uint32_t flags, _Out_ uint8_t *text, size_t size, _Out_ phaul_error *err)'),
    listen: lib.func('int phaul_channel_listen(const char *address, int port, const uint8_t *key, int streams, _Out_ void **ret, _Out_ phaul_error *err)'),
    port: lib.func('int phaul_channel_port(void *ch)'),
    accept: lib.func('int phaul_channel_accept(void *ch, int timeout_ms, _Out_ phaul_error *err)'),
    connect: lib.func('int phaul_channel_connect(const char *address, int port, const uint8_t *key, int streams, int timeout_ms, _Out_ void **ret, _Out_ phaul_error *err)'),
    limit: lib.func('int phaul_channel_limit(void *ch, uint64_t bytes_per_second, _Out_ phaul_error *err)'),
    unsent: lib.func('int64_t phaul_channel_unsent(void *ch)'),
    abort: lib.func('void phaul_channel_abort(void *ch)'),
    closeChannel: lib.func('void phaul_channel_close(void *ch)'),
    send: lib.func('int phaul_note_send(void *ch, uint32_t kind, const uint8_t *bytes, size_t size, _Out_ phaul_error *err)'),
    receive: lib.func('int phaul_note_receive(void *ch, _Out_ uint32_t *kind, _Out_ uint8_t *buffer, size_t capacity, _Out_ size_t *size, int timeout_ms, _Out_ phaul_error *err)'),
    tracker: lib.func('int phaul_tracker(const char *wanted, _Out_ uint8_t *name, _Out_ phaul_error *err)'),
    openSource: lib.func('int phaul_source_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, _Out_ void **ret, _Out_ phaul_error *err)'),
    trackBy: lib.func('int phaul_source_track_by(void *src, const char *tracker, _Out_ phaul_error *err)'),
    stdio: lib.func('int phaul_source_stdio(void *src, const char *output, _Out_ phaul_error *err)'),
    arm: lib.func('int phaul_source_arm(void *src, _Out_ uint64_t *stop_ns, _Out_ phaul_error *err)'),
    sourceRound: lib.func('int phaul_source_round(void *src, void *ch, _Out_ phaul_round *ret, _Out_ phaul_error *err)'),
    dirty: lib.func('int64_t phaul_source_dirty(void *src, _Out_ phaul_error *err)'),
    quiesce: lib.func('int64_t phaul_source_quiesce(void *src, int timeout_ms, _Out_ phaul_error *err)'),
    freeze: lib.func('int phaul_source_freeze(void *src, int timeout_ms, _Out_ phaul_freeze *ret, _Out_ phaul_error *err)'),
    final: lib.func('int phaul_source_final(void *src, void *ch, _Inout_ phaul_freeze *ret, _Out_ phaul_error *err)'),
    sourceLocks: lib.func('int phaul_source_locks(void *src, _Out_ uint8_t *text, size_t size, _Out_ phaul_error *err)'),
    commit: lib.func('int phaul_source_commit(void *src, _Out_ phaul_error *err)'),
    pass: lib.func('void phaul_source_pass(void *src)'),
    sourcePackets: lib.func('int phaul_source_packets(void *src, void *ch, _Out_ phaul_error *err)'),
    kill: lib.func('int phaul_source_kill(void *src, _Out_ phaul_error *err)'),
    abandon: lib.func('int phaul_source_abandon(void *src, int stopped, _Out_ phaul_error *err)'),
    yield: lib.func('int phaul_source_yield(void *src, _Out_ phaul_error *err)'),
    thaw: lib.func('int phaul_source_thaw(void *src, _Out_ phaul_error *err)'),
    closeSource: lib.func('void phaul_source_close(void *src)'),
    sourceChecksum: lib.func('int phaul_source_checksum(void *src, _Out_ uint8_t *text, size_t size, _Out_ phaul_error *err)'),
    endOriginal: lib.func('int phaul_original_end(int pid, _Out_ phaul_error *err)'),
    resumeOriginal: lib.func('int phaul_original_resume(int pid, const char *addresses, const char *except, const char *locks, _Out_ uint8_t *lost, size_t size, _Out_ phaul_error *err)'),
    openTarget: lib.func('int phaul_target_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, const char *clocks, int64_t clocks_at_ns, int64_t clocks_unsure_ns, _Out_ void **ret, _Out_ phaul_error *err)'),
    xsaveSize: lib.func('int phaul_xsave_size()'),
    clocks: lib.func('int phaul_clocks(int pid, _Out_ uint8_t *text, size_t size, _Out_ phaul_error *err)'),
    targetReceive: lib.func('int phaul_target_receive(void *tgt, void *ch, _Out_ phaul_error *err)'),
    targetRound: lib.func('int phaul_target_round(void *tgt, void *ch, const uint8_t *layout, size_t size, int timeout_ms, _Out_ phaul_applied *ret, _Out_ phaul_error *err)'),
    checkpointOpen: lib.func('int phaul_checkpoint_open(int pid, int directory, void *server, uint32_t flags, const char *cgroups, int timeout, _Out_ void **ret, _Out_ phaul_error *err)'),
    checkpointWrite: lib.func('int phaul_checkpoint_write(void *c, _Out_ phaul_dumped *ret, _Out_ phaul_error *err)'),
    checkpointClose: lib.func('int phaul_checkpoint_close(void *c, int outcome, _Out_ uint64_t *frozen_ns, _Out_ phaul_error *err)'),
    predump: lib.func('int phaul_predump(int pid, int directory, void *server, _Out_ phaul_dumped *ret, _Out_ phaul_error *err)'),
    pageServer: lib.func('int phaul_page_server(void *ch, int directory, _Out_ uint64_t *bytes, _Out_ phaul_error *err)'),
    dedup: lib.func('int phaul_dedup(int directory, _Out_ uint64_t *pages, _Out_ phaul_error *err)'),
    cpuinfoDump: lib.func('int phaul_cpuinfo_dump(int directory, _Out_ phaul_error *err)'),
    cpuinfoCheck: lib.func('int phaul_cpuinfo_check(int directory, uint32_t what, _Out_ phaul_error *err)'),
    restoreOpen: lib.func('int phaul_restore_open(int directory, uint32_t flags, const char *cgroups, _Out_ void **ret, _Out_ int *pid, _Out_ phaul_error *err)'),
    restoreRelease: lib.func('int phaul_restore_release(void *r, uint32_t flags, _Out_ phaul_error *err)'),
    restoreSaid: lib.func('void phaul_restore_said(void *r, _Out_ uint8_t *text, size_t size)'),
    restoreClose: lib.func('void phaul_restore_close(void *r)'),
    threads: lib.func('int phaul_target_threads(void *tgt, const uint8_t *threads, size_t size, _Out_ phaul_error *err)'),
    build: lib.func('int phaul_target_build(void *tgt, const uint8_t *state, size_t size, _Out_ phaul_built *ret, _Out_ phaul_error *err)'),
    targetChecksum: lib.func('int phaul_target_checksum(void *tgt, _Out_ uint8_t *text, size_t size, _Out_ phaul_error *err)'),
    targetPackets: lib.func('int phaul_target_packets(void *tgt, const uint8_t *packets, size_t size, _Out_ phaul_error *err)'),
    targetSaid: lib.func('void phaul_target_said(void *tgt, _Out_ uint8_t *text, size_t size)'),
    release: lib.func('int phaul_target_release(void *tgt, _Out_ phaul_error *err)'),
    closeTarget: lib.func('void phaul_target_close(void *tgt)'),
    baseline: lib.func('int phaul_tls_baseline(size_t bytes, _Out_ double *gbps, _Out_ phaul_error *err)'),
    priority: lib.func('int phaul_priority(int priority)'),
    channelPriority: lib.func('void phaul_channel_priority(void *ch, int priority)'),
    tcpPause: lib.func('int phaul_tcp_pause(int fd, _Out_ phaul_error *err)'),
    tcpSave: lib.func('int64_t phaul_tcp_save(int fd, _Out_ uint8_t *ret, size_t size, _Out_ phaul_error *err)'),
    tcpRestore: lib.func('int phaul_tcp_restore(const uint8_t *bytes, size_t size, _Out_ phaul_error *err)'),
    tcpResume: lib.func('int phaul_tcp_resume(int fd, _Out_ phaul_error *err)'),
    tcpLockOpen: lib.func('int phaul_tcp_lock_open(_Out_ void **ret, _Out_ phaul_error *err)'),
    tcpLockAdd: lib.func('int phaul_tcp_lock_add(void *lock, int fd, _Out_ phaul_error *err)'),
    tcpLockClose: lib.func('void phaul_tcp_lock_close(void *lock)'),
    remoteAttach: lib.func('int phaul_remote_attach(int pid, _Out_ void **ret, _Out_ phaul_error *err)'),
    remoteDetach: lib.func('int phaul_remote_detach(void *r, _Out_ phaul_error *err)'),
    remoteCall: lib.func('int phaul_remote_call(void *r, int64_t nr, const uint64_t *args, _Out_ int64_t *ret, _Out_ phaul_error *err)'),
    remoteBatch: lib.func('int phaul_remote_batch(void *r, const uint64_t *calls, size_t count, _Out_ int64_t *ret, _Out_ phaul_error *err)'),
    remoteRead: lib.func('int phaul_remote_read(void *r, uint64_t at, _Out_ uint8_t *to, size_t size, _Out_ phaul_error *err)'),
    remoteWrite: lib.func('int phaul_remote_write(void *r, uint64_t at, const uint8_t *from, size_t size, _Out_ phaul_error *err)'),
    remoteTake: lib.func('int phaul_remote_take(void *r, int fd, _Out_ phaul_error *err)'),
    remoteRun: lib.func('int phaul_remote_run(void *r, const uint8_t *code, size_t size, uint64_t argument, _Out_ uint64_t *ret, _Out_ phaul_error *err)'),
    pidNamespace: lib.func('int phaul_pid_namespace(const char **argv, const char **envp, int last_pid, _Out_ phaul_error *err)'),
    filesOpen: lib.func('int phaul_files_open(const uint8_t *list, size_t size, _Out_ void **ret, _Out_ phaul_error *err)'),
    filesSend: lib.func('int phaul_files_send(void *f, void *ch, int pid, uint64_t bytes_per_second, _Out_ uint64_t *bytes, _Out_ phaul_error *err)'),
    filesClose: lib.func('void phaul_files_close(void *f)'),
    receivedFilesOpen: lib.func('int phaul_received_files_open(const uint8_t *agreed, size_t size, const char *log, _Out_ void **ret, _Out_ phaul_error *err)'),
    receivedFilesReceive: lib.func('int phaul_received_files_receive(void *f, void *ch, _Out_ phaul_error *err)'),
    receivedFilesKeep: lib.func('void phaul_received_files_keep(void *f)'),
    receivedFilesClose: lib.func('void phaul_received_files_close(void *f)'),
    receivedFilesSettle: lib.func('int phaul_received_files_settle(const char *log, int keep, _Out_ phaul_error *err)'),
    peerUser: lib.func('int phaul_peer_user(int fd, _Out_ uint32_t *uid, _Out_ phaul_error *err)'),
    now: lib.func('uint64_t phaul_now_ns()'),
  };
};

let loaded: ReturnType<typeof load> | undefined;
export const native = (): ReturnType<typeof load> => (loaded ??= load());

/** What each errno says about the migration; the sentence is the engine's own. */
const codes: Record<number, ErrorCode> = {
  [ESRCH]: 'ERR_PROCESS_EXITED',
  [ETIMEDOUT]: 'ERR_TIMEOUT',
  [-125]: 'ERR_INTERRUPTED', // ECANCELED
  [-104]: 'ERR_LINK_LOST', // ECONNRESET
  [-71]: 'ERR_PROTOCOL', // EPROTO
};

export function failure(code: number, error: Partial<RawError>): PhaulError {
  const where = error.where === undefined || error.where === '' ? 'engine' : error.where;
  return new PhaulError(codes[code] ?? 'ERR_ENGINE', `${where}: ${error.what ?? 'failed'}.`, { cause: { errno: code } });
}

/** Calls with an error to fill; a negative return is thrown. */
export function must(call: (error: RawError) => number): number {
  const error = {} as RawError;
  const ret = call(error);
  if (ret < 0) {
    throw failure(ret, error);
  }
  return ret;
}

export const ms = (ns: number | bigint): number => Number(ns) / 1e6;

/** Text of a call that fills a buffer of ours. */
export function text(size: number, call: (buffer: Buffer, error: RawError) => number): string {
  const buffer = Buffer.alloc(size);
  must((error) => call(buffer, error));
  return buffer.toString('utf8', 0, buffer.indexOf(0));
}

/** Lines that a call fills in. */
export function said(fill: (buffer: Buffer) => void): string[] {
  const buffer = Buffer.alloc(SAID_BYTES);
  fill(buffer);
  return buffer.toString('utf8', 0, buffer.indexOf(0)).split('\n').filter((line) => line !== '');
}

/** A handle that a call makes. */
export function open(call: (ret: Pointer[], error: RawError) => number): Pointer {
  const ret: Pointer[] = [null];
  must((error) => call(ret, error));
  return ret[0] ?? null;
}

export class Handle {
  #pointer: Pointer;
  readonly #free: (pointer: Pointer) => void;

  constructor(pointer: Pointer, free: (pointer: Pointer) => void) {
    this.#pointer = pointer;
    this.#free = free;
  }

  get pointer(): Pointer {
    if (this.#pointer === null) {
      throw new PhaulError('ERR_BUG', 'A handle of the engine was used after it was closed.');
    }
    return this.#pointer;
  }

  close(): void {
    const pointer = this.#pointer;
    this.#pointer = null;
    if (pointer !== null) {
      this.#free(pointer);
    }
  }
}
