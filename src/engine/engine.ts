/**
 * What the engine can do, apart from how: native/phaul.h in the words of TypeScript. All calls are
 * synchronous and throw PhaulError; those of one source or target belong to one OS thread.
 * Times are in ms, sizes in bytes, pages are of 4096 bytes.
 */
import type { Obstacle } from '../errors.ts';
import type { RemoteThread } from './remoteThread.ts';
import type { TcpConnections } from './tcpConnections.ts';

export const PAGE_BYTES = 4096;

export interface SourceRound {
  round: number;
  vmas: number;
  pagesDirty: number;
  pagesSent: number;
  pagesZero: number;
  /** Not sent: new processes have them from their parents. */
  pagesInherited: number;
  /** Processes that come with a later round, when their parents' memory is there. */
  heldBack: number;
  bytesSent: number;
  scanMs: number;
  sendMs: number;
  /** How long processes stood still for it; 0 with trackers that need no stop. */
  stoppedMs: number;
}

export interface Freeze {
  /** On the clock of Engine.nowMs(): when the first thread was told to stop. */
  frozenAtMs: number;
  stopMs: number;
  scanMs: number;
  sendMs: number;
  dumpMs: number;
  stateBytes: number;
  threads: number;
  processes: number;
  /** Of processes that the last round didn't know: they would all have to go over in the freeze. */
  freshPages: number;
  /** Of these, what they don't share with their parents: only that would go over. */
  freshOwnPages: number;
  last: SourceRound;
}

export interface Applied {
  round: number;
  vmas: number;
  bytes: number;
  pagesDropped: number;
  layoutMs: number;
  waitMs: number;
}

export interface Built {
  /** From the state on. */
  buildMs: number;
  /** Before, while the source was still reading. */
  threadsMs: number;
  filesMs: number;
  threads: number;
  descriptors: number;
}

export type Priority = 'low' | 'normal' | 'freeze';

export interface Note {
  kind: number;
  payload: Buffer;
}

/** The page channel and its note stream; abort() of an Engine may come from another thread. */
export interface Channel {
  /** For Engine.abort() in another thread. */
  readonly address: bigint;
  readonly port: number;
  accept(timeoutMs: number): void;
  send(kind: number, payload: Uint8Array): void;
  /** The payload is valid until the next call. undefined: nothing came in time. */
  receive(timeoutMs: number): Note | undefined;
  /** Of all page streams together, in bytes a second; 0: as fast as it goes. */
  limit(bytesPerSecond: number): void;
  /** Bytes of pages that the other host's kernel has not taken yet. */
  unsent(): number;
  /** Of the threads on its page streams, which begin with low. */
  setPriority(priority: Priority): void;
  /** Before the target that receives from it. */
  close(): void;
}

export interface Source {
  /** Before it is armed. */
  trackBy(tracker: TrackerName): void;
  /** On the target, stdin is /dev/null, and stdout and stderr are appended to this file there. */
  sendOutputTo(path: string): void;
  /** Returns how long the process stood. */
  arm(): number;
  round(channel: Channel): SourceRound;
  /** Pages that are dirty now. */
  dirty(): number;
  /** Keeps new connections to the moved addresses back, for the target to answer; returns how many that are being made are left. */
  quiesce(timeoutMs: number): number;
  freeze(timeoutMs: number): Freeze;
  /** Completes what freeze() returned. */
  final(channel: Channel): void;
  checksum(): string;
  /** On files, which pass() gives back: in the words of the engine, for resumeOriginal(). */
  locks(): string;
  commit(): void;
  /** Before the commit is said: gives up what only one of them can have. */
  pass(): void;
  /** After commit(): sends what came for the moved addresses since the freeze, or since the last call. */
  packets(channel: Channel): void;
  kill(): void;
  /** Only after commit(): stopped for whoever learns what became of the copy, or running if the target proved that it never did. */
  abandon(stopped: boolean): void;
  /** After final() failed with EAGAIN: the process runs for a moment, in which no packets reach it. */
  yield(): void;
  thaw(): void;
  close(): void;
}

export interface Target {
  receive(channel: Channel): void;
  round(channel: Channel, layout: Buffer, timeoutMs: number): Applied;
  checksum(): string;
  /** Some of its threads, all but the leader, before build(). */
  threads(threads: Buffer): void;
  build(state: Buffer): Built;
  release(): void;
  /** For after the release, or at once if it was. */
  packets(packets: Buffer): void;
  /** Sentences for the operator about what is different on this host; each is told once. */
  said(): string[];
  close(): void;
}

/** steady: sent once, and again if its times tell of a change. changing: the process may write to it. same: the target has it. */
export interface FileToSend {
  path: string;
  how: 'steady' | 'changing' | 'same';
}

/** Files that go along. */
export interface Files {
  /** A pass: what has changed since the one before, and what the process and its children have opened since. Returns how many bytes were sent. */
  send(channel: Channel, pid: number, bytesPerSecond: number): number;
  close(): void;
}

export interface ReceivedFiles {
  /** After a note NOTE_FILES: one pass. */
  receive(channel: Channel): void;
  /** The process runs with them; else close() puts everything back. */
  keep(): void;
  close(): void;
}

export interface Findings {
  obstacles: Omit<Obstacle, 'host'>[];
  notices: Omit<Obstacle, 'host'>[];
}

export interface CheckFlags {
  /** Established TCP connections move as reset ones. */
  tcpClose: boolean;
  /** For a checkpoint, which can hold more than can move. */
  toDirectory?: boolean;
  /** Links may be made for files whose name is gone but that have another. */
  linkRemap?: boolean;
  /** Locks on files come along, although others may take them meanwhile. */
  fileLocks?: boolean;
  /** Established TCP connections come along; their packets are dropped meanwhile. */
  tcpEstablished?: boolean;
  /** It has another stdin, stdout and stderr on the target. */
  stdioElsewhere?: boolean;
  /** Connections that wait to be accepted don't. */
  skipInFlight?: boolean;
}

/** What is in a directory after a dump or a pre-dump. */
export interface Written {
  processes: number;
  threads: number;
  /** Of the processes' memory. */
  pages: number;
  /** Of these; the others are in a directory before. */
  written: number;
}

/** What becomes of processes that were dumped: abandon means that there was no dump. */
export type Outcome = 'abandon' | 'run' | 'stop' | 'kill';

/** Processes that stand still until it is closed. */
export interface Checkpoint {
  /** Writes all images but those of pages that the directory that `parent` leads to has the same. */
  write(): Written;
  /** Returns for how long they stood. If it fails they go on. */
  close(outcome: Outcome): number;
}

/** In what this CPU must not be behind another one. */
export interface CpuAspects {
  registers: boolean;
  instructions: boolean;
  /** It must be the same in all. */
  same: boolean;
}

export interface RestoreFlags extends Pick<CheckFlags, 'tcpClose'> {
  /** Connections that aren't restored are at their end, as criu has them, instead of reset. */
  tcpAtEnd: boolean;
}

/** Processes that are complete, and held until they are released. */
export interface Restoring {
  readonly pid: number;
  release(stopped: boolean): void;
  /** Sentences for the operator about what is different here. */
  said(): string[];
  /** Ends them if they weren't released. */
  close(): void;
}

/** How pages that are written are found: none is for kernels that can't tell, where all count as written. */
export const TRACKERS = ['uffd', 'soft-dirty', 'none'] as const;
export type TrackerName = (typeof TRACKERS)[number];

export interface Engine {
  tcp: TcpConnections;
  attach(pid: number): RemoteThread;
  check(pid: number, flags: CheckFlags): Findings;
  /** The files that it watches by inotify and fanotify, by their names. */
  watched(pid: number): string[];
  listen(address: string, key: Uint8Array, streams: number): Channel;
  connect(address: string, port: number, key: Uint8Array, streams: number, timeoutMs: number): Channel;
  /** Any thread: every blocked and later call on the channel fails. */
  abort(channelAddress: bigint): void;
  /** `addresses` of this host that go along: "10.0.0.7/24@eth0 fd00::7/64@eth1"; `cgroups`, here and below, is from cgroupText(). */
  openSource(pid: number, flags: Pick<CheckFlags, 'tcpClose' | 'tcpEstablished'> & { otherKernel: boolean }, addresses: string, cgroups: string): Source;
  /** The best that this kernel has; one that is wanted is refused if it isn't there. */
  tracker(wanted?: TrackerName): TrackerName;
  /** What the XSAVE instruction writes here; 0: the CPU hasn't got it. */
  xsaveBytes(): number;
  /** What a process sees: "MONOTONIC BOOTTIME", in ns. */
  clocks(pid: number): string;
  /** `clocks`: what the process saw at least, where it is, when CLOCK_MONOTONIC was `clocksAtNs` here; it may have been so much more. */
  openTarget(pid: number, addresses: string, cgroups: string, clocks: string, clocksAtNs: bigint, clocksUnsureNs: number): Target;
  openFiles(files: FileToSend[]): Files;
  /** `replaceable`: those that may take the place of others here. `log`: see settleFiles(). */
  openReceivedFiles(replaceable: string[], log: string): ReceivedFiles;
  /** What the log of an agent that was killed tells of stays, or is taken back. */
  settleFiles(log: string, keep: boolean): void;
  /**
   * Runs a program in a new pid namespace that ends with the last process of it; returns a socket that is its stdin and stdout.
   * Its pids there begin above `lastPid`; its descriptor 3 is this host's /proc.
   */
  runInPidNamespace(words: string[], environment: NodeJS.ProcessEnv, lastPid: number): number;
  /** Of an original that a phaul has left stopped, with all that descend from it; nothing is told to the peers of its connections. */
  endOriginal(pid: number): void;
  /**
   * Lets it go on, but for `except`, which stood still before; `addresses` are this host's again, and so are `locks`, of Source.locks(). Returns
   * those that somebody else has by now, in words.
   */
  resumeOriginal(pid: number, addresses: string, except: number[], locks: string): string[];
  /** Freezes the process and all its children, to be written to a directory, a descriptor that must stay open; its pages to a `server` that runs receivePages(). */
  openCheckpoint(pid: number, directory: number, server: Channel | undefined, flags: CheckFlags, cgroups: string, timeoutMs: number): Checkpoint;
  /** The memory of processes that run. */
  preDump(pid: number, directory: number, server: Channel | undefined): Written;
  /** Writes what comes to a directory; returns how many bytes. */
  receivePages(channel: Channel, directory: number): number;
  /** Frees the disk from pages of checkpoints before that of this directory that it has newer ones of; returns how many. */
  dedup(directory: number): number;
  /** Writes down what this CPU can do. */
  dumpCpu(directory: number): void;
  /** Fails if it can't do what is written down there. */
  checkCpu(directory: number, aspects: CpuAspects): void;
  /** Makes the processes from the images of a directory, a descriptor that must stay open. */
  openRestore(directory: number, flags: RestoreFlags, cgroups: string): Restoring;
  /** Of whoever connected to a unix socket. */
  peerUser(fd: number): number;
  /** Of the calling thread: while the process runs, it comes first; while it is frozen, nothing does before us. */
  setPriority(priority: Priority): void;
  nowMs(): number;
  /** A plain TLS 1.3 stream over loopback, in bytes per second. */
  tlsBaseline(bytes: number): number;
}

/** Kinds of notes that libphaul itself sends; those of notes.ts begin at NOTE_USER. */
export const NOTE_LAYOUT = 1;
export const NOTE_STATE = 2;
export const NOTE_THREADS = 3;
export const NOTE_PACKETS = 4;
export const NOTE_FILES = 5;
export const NOTE_USER = 16;
