/** libphaul.so: the only file that imports koffi. Handles are emptied on close, so that none is used after. */
import koffi from 'koffi';
import { fileURLToPath } from 'node:url';
import { PhaulError, type ErrorCode } from '../errors.ts';
import type { Applied, Built, Channel, CheckFlags, Checkpoint, Engine, Files, Findings, Freeze, Note, Outcome, Priority, ReceivedFiles, RemoteThread, RestoreFlags, Restoring, Source, SourceRound, Target, TcpConnections, TcpLock, TrackerName, Written } from './engine.ts';

const ABI_VERSION = 17;
const TCP_CLOSE = 1;
const TO_DIRECTORY = 2;
const LEAVE_STOPPED = 4;
const LINK_REMAP = 8;
const FILE_LOCKS = 16;
const TCP_ESTABLISHED = 32;
const SKIP_IN_FLIGHT = 64;
const TCP_AT_END = 128;
const OTHER_KERNEL = 256;
const STDIO_ELSEWHERE = 512;
const ENOBUFS = -105;
const ETIMEDOUT = -110;
const ESRCH = -3;
const CHECK_TEXT_BYTES = 1 << 20;
const WATCHED_TEXT_BYTES = 8 << 20;
const CHECKSUM_TEXT_BYTES = 8 << 20;
const PRIORITIES: Record<Priority, number> = { low: -1, normal: 0, freeze: 2 };
const NOTE_BYTES = 1 << 16;
const SAID_BYTES = 1 << 13;
const CLOCKS_TEXT_BYTES = 64;
const TCP_BYTES = 1 << 18;
const TRACKER_BYTES = 16;

const path = process.env['PHAUL_LIBRARY'] ?? fileURLToPath(new URL('../../build/libphaul.so', import.meta.url));

const errorType = koffi.struct('phaul_error', { code: 'int32_t', where: koffi.array('char', 32), what: koffi.array('char', 220) });
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

type Numbers<K extends string> = Record<K, number>;
type RawRound = Numbers<'round' | 'vmas' | 'pages_dirty' | 'pages_sent' | 'pages_zero' | 'pages_inherited' | 'held_back' | 'bytes_sent' | 'scan_ns' | 'send_ns' | 'stopped_ns'>;
type RawFreeze = Numbers<'frozen_at_ns' | 'stop_ns' | 'scan_ns' | 'send_ns' | 'dump_ns' | 'state_bytes' | 'threads' | 'processes' | 'fresh_pages' | 'fresh_own_pages'> & { last: RawRound };
type RawError = { code: number; where: string; what: string };
type Pointer = bigint | null;

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
    openTarget: lib.func('int phaul_target_open(int pid, uint32_t flags, const char *addresses, const char *cgroups, const char *clocks, _Out_ void **ret, _Out_ phaul_error *err)'),
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
    receivedFilesOpen: lib.func('int phaul_received_files_open(_Out_ void **ret, _Out_ phaul_error *err)'),
    receivedFilesReceive: lib.func('int phaul_received_files_receive(void *f, void *ch, _Out_ phaul_error *err)'),
    receivedFilesKeep: lib.func('void phaul_received_files_keep(void *f)'),
    receivedFilesClose: lib.func('void phaul_received_files_close(void *f)'),
    peerUser: lib.func('int phaul_peer_user(int fd, _Out_ uint32_t *uid, _Out_ phaul_error *err)'),
    now: lib.func('uint64_t phaul_now_ns()'),
  };
};

let loaded: ReturnType<typeof load> | undefined;
const native = (): ReturnType<typeof load> => (loaded ??= load());

/** What each errno says about the migration; the sentence is the engine's own. */
const codes: Record<number, ErrorCode> = {
  [ESRCH]: 'ERR_PROCESS_EXITED',
  [ETIMEDOUT]: 'ERR_TIMEOUT',
  [-125]: 'ERR_INTERRUPTED', // ECANCELED
  [-104]: 'ERR_LINK_LOST', // ECONNRESET
  [-71]: 'ERR_PROTOCOL', // EPROTO
};

function failure(code: number, error: Partial<RawError>): PhaulError {
  const where = error.where === undefined || error.where === '' ? 'engine' : error.where;
  return new PhaulError(codes[code] ?? 'ERR_ENGINE', `${where}: ${error.what ?? 'failed'}.`, { cause: { errno: code } });
}

/** Calls with an error to fill; a negative return is thrown. */
function must(call: (error: RawError) => number): number {
  const error = {} as RawError;
  const ret = call(error);
  if (ret < 0) {
    throw failure(ret, error);
  }
  return ret;
}

const ms = (ns: number | bigint): number => Number(ns) / 1e6;

/** Text of a call that fills a buffer of ours. */
function text(size: number, call: (buffer: Buffer, error: RawError) => number): string {
  const buffer = Buffer.alloc(size);
  must((error) => call(buffer, error));
  return buffer.toString('utf8', 0, buffer.indexOf(0));
}

/** Lines that a call fills in. */
function said(fill: (buffer: Buffer) => void): string[] {
  const buffer = Buffer.alloc(SAID_BYTES);
  fill(buffer);
  return buffer.toString('utf8', 0, buffer.indexOf(0)).split('\n').filter((line) => line !== '');
}

const asRound = (raw: RawRound): SourceRound => ({
  round: raw.round,
  vmas: raw.vmas,
  pagesDirty: Number(raw.pages_dirty),
  pagesSent: Number(raw.pages_sent),
  pagesZero: Number(raw.pages_zero),
  pagesInherited: Number(raw.pages_inherited),
  heldBack: Number(raw.held_back),
  bytesSent: Number(raw.bytes_sent),
  scanMs: ms(raw.scan_ns),
  sendMs: ms(raw.send_ns),
  stoppedMs: ms(raw.stopped_ns),
});

class Handle {
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

class LibraryChannel extends Handle implements Channel {
  #buffer: Buffer = Buffer.alloc(NOTE_BYTES);

  get address(): bigint {
    return BigInt(this.pointer ?? 0n);
  }

  get port(): number {
    return native().port(this.pointer) as number;
  }

  accept(timeoutMs: number): void {
    must((error) => native().accept(this.pointer, timeoutMs, error));
  }

  limit(bytesPerSecond: number): void {
    must((error) => native().limit(this.pointer, bytesPerSecond, error));
  }

  unsent(): number {
    return Number(native().unsent(this.pointer));
  }

  setPriority(priority: Priority): void {
    native().channelPriority(this.pointer, PRIORITIES[priority]);
  }

  send(kind: number, payload: Uint8Array): void {
    must((error) => native().send(this.pointer, kind, payload, payload.length, error));
  }

  receive(timeoutMs: number): Note | undefined {
    const kind = [0];
    const size = [0];
    const error = {} as RawError;
    let ret = native().receive(this.pointer, kind, this.#buffer, this.#buffer.length, size, timeoutMs, error) as number;
    if (ret === ENOBUFS) {
      this.#buffer = Buffer.alloc(Number(size[0]));
      ret = native().receive(this.pointer, kind, this.#buffer, this.#buffer.length, size, timeoutMs, error) as number;
    }
    if (ret === ETIMEDOUT) {
      return undefined;
    }
    if (ret < 0) {
      throw failure(ret, error);
    }
    return { kind: kind[0] ?? 0, payload: this.#buffer.subarray(0, Number(size[0])) };
  }
}

class LibrarySource extends Handle implements Source {
  #freeze = {} as RawFreeze;
  #report = {} as Freeze;

  trackBy(tracker: TrackerName): void {
    must((error) => native().trackBy(this.pointer, tracker, error));
  }

  sendOutputTo(path: string): void {
    must((error) => native().stdio(this.pointer, path, error));
  }

  arm(): number {
    const stop = [0];
    must((error) => native().arm(this.pointer, stop, error));
    return ms(stop[0] ?? 0);
  }

  round(channel: LibraryChannel): SourceRound {
    const raw = {} as RawRound;
    must((error) => native().sourceRound(this.pointer, channel.pointer, raw, error));
    return asRound(raw);
  }

  dirty(): number {
    return Number(must((error) => Number(native().dirty(this.pointer, error))));
  }

  quiesce(timeoutMs: number): number {
    return Number(must((error) => Number(native().quiesce(this.pointer, timeoutMs, error))));
  }

  freeze(timeoutMs: number): Freeze {
    must((error) => native().freeze(this.pointer, timeoutMs, this.#freeze, error));
    this.#fill();
    return this.#report;
  }

  final(channel: LibraryChannel): void {
    must((error) => native().final(this.pointer, channel.pointer, this.#freeze, error));
    this.#fill();
  }

  checksum(): string {
    return text(CHECKSUM_TEXT_BYTES, (buffer, error) => native().sourceChecksum(this.pointer, buffer, buffer.length, error) as number);
  }

  locks(): string {
    const size = must((error) => native().sourceLocks(this.pointer, null, 0, error) as number);
    return size === 0 ? '' : text(size + 1, (buffer, error) => native().sourceLocks(this.pointer, buffer, buffer.length, error) as number);
  }

  commit(): void {
    must((error) => native().commit(this.pointer, error));
  }

  pass(): void {
    native().pass(this.pointer);
  }

  packets(channel: LibraryChannel): void {
    must((error) => native().sourcePackets(this.pointer, channel.pointer, error));
  }

  kill(): void {
    must((error) => native().kill(this.pointer, error));
  }

  abandon(stopped: boolean): void {
    must((error) => native().abandon(this.pointer, stopped ? 1 : 0, error));
  }

  yield(): void {
    must((error) => native().yield(this.pointer, error));
  }

  thaw(): void {
    must((error) => native().thaw(this.pointer, error));
  }

  #fill(): void {
    const raw = this.#freeze;
    Object.assign(this.#report, {
      frozenAtMs: ms(raw.frozen_at_ns),
      stopMs: ms(raw.stop_ns),
      scanMs: ms(raw.scan_ns),
      sendMs: ms(raw.send_ns),
      dumpMs: ms(raw.dump_ns),
      stateBytes: Number(raw.state_bytes),
      threads: raw.threads,
      processes: raw.processes,
      freshPages: Number(raw.fresh_pages),
      freshOwnPages: Number(raw.fresh_own_pages),
      last: asRound(raw.last),
    } satisfies Freeze);
  }
}

class LibraryTarget extends Handle implements Target {
  receive(channel: LibraryChannel): void {
    must((error) => native().targetReceive(this.pointer, channel.pointer, error));
  }

  round(channel: LibraryChannel, layout: Buffer, timeoutMs: number): Applied {
    const raw = {} as Numbers<'round' | 'vmas' | 'bytes' | 'pages_dropped' | 'layout_ns' | 'wait_ns'>;
    must((error) => native().targetRound(this.pointer, channel.pointer, layout, layout.length, timeoutMs, raw, error));
    return {
      round: raw.round,
      vmas: raw.vmas,
      bytes: Number(raw.bytes),
      pagesDropped: Number(raw.pages_dropped),
      layoutMs: ms(raw.layout_ns),
      waitMs: ms(raw.wait_ns),
    };
  }

  checksum(): string {
    return text(CHECKSUM_TEXT_BYTES, (buffer, error) => native().targetChecksum(this.pointer, buffer, buffer.length, error) as number);
  }

  threads(threads: Buffer): void {
    must((error) => native().threads(this.pointer, threads, threads.length, error));
  }

  build(state: Buffer): Built {
    const raw = {} as Numbers<'build_ns' | 'threads_ns' | 'files_ns' | 'threads' | 'descriptors'>;
    must((error) => native().build(this.pointer, state, state.length, raw, error));
    return {
      buildMs: ms(raw.build_ns),
      threadsMs: ms(raw.threads_ns),
      filesMs: ms(raw.files_ns),
      threads: raw.threads,
      descriptors: raw.descriptors,
    };
  }

  release(): void {
    must((error) => native().release(this.pointer, error));
  }

  said(): string[] {
    return said((buffer) => native().targetSaid(this.pointer, buffer, buffer.length));
  }

  packets(packets: Buffer): void {
    must((error) => native().targetPackets(this.pointer, packets, packets.length, error));
  }
}

class LibraryFiles extends Handle implements Files {
  send(channel: LibraryChannel, pid: number, bytesPerSecond: number): number {
    const bytes = [0];
    must((error) => native().filesSend(this.pointer, channel.pointer, pid, bytesPerSecond, bytes, error));
    return Number(bytes[0] ?? 0);
  }
}

class LibraryReceivedFiles extends Handle implements ReceivedFiles {
  receive(channel: LibraryChannel): void {
    must((error) => native().receivedFilesReceive(this.pointer, channel.pointer, error));
  }

  keep(): void {
    native().receivedFilesKeep(this.pointer);
  }
}

const FILE_MARKS = { steady: 'r', changing: 'w', same: '=' } as const;

const pointerOf = (channel: Channel | undefined): Pointer => (channel as LibraryChannel | undefined)?.pointer ?? null;

const OUTCOMES: Record<Outcome, number> = { abandon: 0, run: 1, stop: 2, kill: 3 };

type RawWritten = Numbers<'pages' | 'written' | 'processes' | 'threads'>;

const asWritten = ({ pages, written, processes, threads }: RawWritten): Written => ({ processes, threads, pages: Number(pages), written: Number(written) });

class LibraryCheckpoint implements Checkpoint {
  #pointer: Pointer;

  constructor(pointer: Pointer) {
    this.#pointer = pointer;
  }

  write(): Written {
    const raw = {} as RawWritten;
    must((error) => native().checkpointWrite(this.#pointer, raw, error));
    return asWritten(raw);
  }

  close(outcome: Outcome): number {
    const pointer = this.#pointer;
    this.#pointer = null;
    const frozen = [0];
    must((error) => native().checkpointClose(pointer, OUTCOMES[outcome], frozen, error));
    return ms(frozen[0] ?? 0);
  }
}

class LibraryRestoring extends Handle implements Restoring {
  readonly pid: number;

  constructor(pointer: Pointer, pid: number) {
    super(pointer, (freed) => native().restoreClose(freed));
    this.pid = pid;
  }

  release(stopped: boolean): void {
    must((error) => native().restoreRelease(this.pointer, stopped ? LEAVE_STOPPED : 0, error));
  }

  said(): string[] {
    return said((buffer) => native().restoreSaid(this.pointer, buffer, buffer.length));
  }
}

class LibraryTcpLock extends Handle implements TcpLock {
  add(fd: number): void {
    must((error) => native().tcpLockAdd(this.pointer, fd, error));
  }
}

const tcp: TcpConnections = {
  pause: (fd) => void must((error) => native().tcpPause(fd, error)),
  save: (fd) => {
    let buffer = Buffer.alloc(TCP_BYTES);
    let size = Number(must((error) => Number(native().tcpSave(fd, buffer, buffer.length, error))));
    if (size > buffer.length) {
      buffer = Buffer.alloc(size);
      size = Number(must((error) => Number(native().tcpSave(fd, buffer, buffer.length, error))));
    }
    return buffer.subarray(0, size);
  },
  restore: (saved) => must((error) => native().tcpRestore(saved, saved.length, error)),
  resume: (fd) => void must((error) => native().tcpResume(fd, error)),
  lock: () => new LibraryTcpLock(open((ret, error) => native().tcpLockOpen(ret, error)), (pointer) => native().tcpLockClose(pointer)),
};

const WORDS_A_CALL = 7;

class LibraryRemoteThread extends Handle implements RemoteThread {
  call(nr: number, args: bigint[]): bigint {
    const ret = new BigInt64Array(1);
    must((error) => native().remoteCall(this.pointer, nr, wordsOf(args), ret, error));
    return ret[0] ?? 0n;
  }

  batch(calls: { nr: number; args: bigint[] }[]): bigint[] {
    const words = new BigUint64Array(calls.length * WORDS_A_CALL);
    calls.forEach(({ nr, args }, i) => words.set([BigInt(nr), ...wordsOf(args)], i * WORDS_A_CALL));
    const ret = new BigInt64Array(calls.length);
    must((error) => native().remoteBatch(this.pointer, words, calls.length, ret, error));
    return [...ret];
  }

  read(at: bigint, size: number): Buffer {
    const bytes = Buffer.alloc(size);
    must((error) => native().remoteRead(this.pointer, at, bytes, size, error));
    return bytes;
  }

  write(at: bigint, bytes: Uint8Array): void {
    must((error) => native().remoteWrite(this.pointer, at, bytes, bytes.length, error));
  }

  take(fd: number): number {
    return must((error) => native().remoteTake(this.pointer, fd, error));
  }

  run(code: Uint8Array, argument: bigint): bigint {
    const ret = new BigUint64Array(1);
    must((error) => native().remoteRun(this.pointer, code, code.length, BigInt.asUintN(64, argument), ret, error));
    return ret[0] ?? 0n;
  }
}

/** Negative ones as the kernel takes them. */
const wordsOf = (args: bigint[]): BigUint64Array => BigUint64Array.from({ length: WORDS_A_CALL - 1 }, (_, i) => BigInt.asUintN(64, args[i] ?? 0n));

const FLAGS = {
  tcpClose: TCP_CLOSE,
  toDirectory: TO_DIRECTORY,
  linkRemap: LINK_REMAP,
  fileLocks: FILE_LOCKS,
  tcpEstablished: TCP_ESTABLISHED,
  skipInFlight: SKIP_IN_FLIGHT,
  tcpAtEnd: TCP_AT_END,
  otherKernel: OTHER_KERNEL,
  stdioElsewhere: STDIO_ELSEWHERE,
};

const flagBits = (flags: Partial<CheckFlags & RestoreFlags & { otherKernel: boolean }>): number =>
  (Object.keys(FLAGS) as (keyof typeof FLAGS)[]).reduce((bits, name) => bits | (flags[name] === true ? FLAGS[name] : 0), 0);

/** A handle that a call makes. */
function open(call: (ret: Pointer[], error: RawError) => number): Pointer {
  const ret: Pointer[] = [null];
  must((error) => call(ret, error));
  return ret[0] ?? null;
}

/** "CODE\tsubject\tsentence" for an obstacle, with ~ in front for a notice. */
function parseFindings(lines: string): Findings {
  const findings: Findings = { obstacles: [], notices: [] };
  for (const line of lines.split('\n').filter((some) => some !== '')) {
    const [code = '', subject = '', sentence = ''] = line.replace(/^~/, '').split('\t');
    (line.startsWith('~') ? findings.notices : findings.obstacles).push({ code, subject, sentence });
  }
  return findings;
}

const closeChannel = (pointer: Pointer): void => native().closeChannel(pointer);

export const engine: Engine = {
  tcp,
  attach: (pid) =>
    new LibraryRemoteThread(open((ret, error) => native().remoteAttach(pid, ret, error)), (pointer) => void must((error) => native().remoteDetach(pointer, error))),
  check: (pid, flags) =>
    parseFindings(text(CHECK_TEXT_BYTES, (buffer, error) => native().check(pid, flagBits(flags), buffer, buffer.length, error) as number)),
  watched: (pid) => text(WATCHED_TEXT_BYTES, (buffer, error) => native().watched(pid, buffer, buffer.length, error) as number).split('\n').filter((path) => path !== ''),
  listen: (address, key, streams) =>
    new LibraryChannel(open((ret, error) => native().listen(address, 0, key, streams, ret, error)), closeChannel),
  connect: (address, port, key, streams, timeoutMs) =>
    new LibraryChannel(open((ret, error) => native().connect(address, port, key, streams, timeoutMs, ret, error)), closeChannel),
  abort: (channelAddress) => native().abort(channelAddress),
  openSource: (pid, { tcpClose, tcpEstablished = false, otherKernel }, addresses, cgroups) =>
    new LibrarySource(open((ret, error) => native().openSource(pid, flagBits({ tcpClose, tcpEstablished, otherKernel }), addresses, cgroups, ret, error)), (pointer) => native().closeSource(pointer)),
  tracker: (wanted) => text(TRACKER_BYTES, (buffer, error) => native().tracker(wanted ?? null, buffer, error) as number) as TrackerName,
  xsaveBytes: () => native().xsaveSize() as number,
  clocks: (pid) => text(CLOCKS_TEXT_BYTES, (buffer, error) => native().clocks(pid, buffer, buffer.length, error) as number),
  openTarget: (pid, addresses, cgroups, clocks) =>
    new LibraryTarget(open((ret, error) => native().openTarget(pid, 0, addresses, cgroups, clocks, ret, error)), (pointer) => native().closeTarget(pointer)),
  endOriginal: (pid) => void must((error) => native().endOriginal(pid, error)),
  resumeOriginal: (pid, addresses, except, locks) => said((lost) => void must((error) => native().resumeOriginal(pid, addresses, except.join(' '), locks, lost, lost.length, error))),
  openCheckpoint: (pid, directory, server, flags, cgroups, timeoutMs) =>
    new LibraryCheckpoint(open((ret, error) => native().checkpointOpen(pid, directory, pointerOf(server), flagBits(flags), cgroups, timeoutMs, ret, error))),
  preDump: (pid, directory, server) => {
    const raw = {} as RawWritten;
    must((error) => native().predump(pid, directory, pointerOf(server), raw, error));
    return asWritten(raw);
  },
  receivePages: (channel, directory) => {
    const bytes = [0];
    must((error) => native().pageServer(pointerOf(channel), directory, bytes, error));
    return Number(bytes[0] ?? 0);
  },
  dedup: (directory) => {
    const pages = [0];
    must((error) => native().dedup(directory, pages, error));
    return Number(pages[0] ?? 0);
  },
  dumpCpu: (directory) => void must((error) => native().cpuinfoDump(directory, error)),
  checkCpu: (directory, { registers, instructions, same }) =>
    void must((error) => native().cpuinfoCheck(directory, (registers ? 1 : 0) | (instructions ? 2 : 0) | (same ? 4 : 0), error)),
  openRestore: (directory, flags, cgroups) => {
    const pid = [0];
    const pointer = open((ret, error) => native().restoreOpen(directory, flagBits(flags), cgroups, ret, pid, error));
    return new LibraryRestoring(pointer, pid[0] ?? 0);
  },
  openFiles: (files) => {
    const list = Buffer.from(files.map(({ path, how }) => `${FILE_MARKS[how]}${path}\0`).join(''));
    return new LibraryFiles(open((ret, error) => native().filesOpen(list, list.length, ret, error)), (pointer) => native().filesClose(pointer));
  },
  openReceivedFiles: () => new LibraryReceivedFiles(open((ret, error) => native().receivedFilesOpen(ret, error)), (pointer) => native().receivedFilesClose(pointer)),
  runInPidNamespace: (words, environment, lastPid) => {
    const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    return must((error) => native().pidNamespace([...words, null], [...variables, null], lastPid, error));
  },
  peerUser: (fd) => {
    const uid = [0];
    must((error) => native().peerUser(fd, uid, error));
    return uid[0] ?? 0;
  },
  setPriority: (priority) => void native().priority(PRIORITIES[priority]),
  nowMs: () => ms(native().now()),
  tlsBaseline: (bytes) => {
    const gbps = [0];
    must((error) => native().baseline(bytes, gbps, error));
    return (gbps[0] ?? 0) * 1e9;
  },
};

void errorType;
