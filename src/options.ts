/** What an operator can ask for, as the command line has understood it, and who answers. */
import type { MoveIp } from './addresses.ts';
import type { CgroupOptions } from './cgroups.ts';
import type { TrackerName } from './engine/engine.ts';
import type { DoneEvent, Emit, PreflightEvent } from './events.ts';

/** How to get to the other host. */
export interface ReachOptions {
  /** [USER@]HOST[:PORT] */
  destination: string;
  acceptNewHostKey: boolean;
  identityFile?: string;
  sshConfigFile?: string;
}

/** What the other host's CPU must have of this one's: what a program may use, all, or nothing that is asked for. */
export const CPU_CHECKS = ['used', 'strict', 'off'] as const;
export type CpuCheck = (typeof CPU_CHECKS)[number];

/** Where on the other host a process is to live. */
export interface Place {
  /** In a pid namespace of its own, where all pids are free. */
  newPidNamespace: boolean;
  /** As a systemd unit of this name, without ".service". */
  service?: string | undefined;
  /** Where its stdout and stderr are appended to, with /dev/null as stdin; undefined: all three as here. */
  output?: string | undefined;
}

/** What becomes of files that the process has mapped or open: they must be the same there, or are sent by the engine, or by rsync. */
export const FILES_MODES = ['check', 'copy', 'rsync'] as const;
export type FilesMode = (typeof FILES_MODES)[number];

/** What there is of a process on the other host beside itself. */
export interface PlaceOptions {
  place: Place;
  files: FilesMode;
  /** Files of the target that differ are replaced. */
  overwrite: boolean;
}

export interface MigrateOptions extends ReachOptions, PlaceOptions {
  /** Of the migration: 16 hex digits. */
  id: string;
  pid: number;
  maxDowntimeMs: number;
  streams: number;
  /** Established TCP connections: moved, reset, or an obstacle. */
  tcp: 'established' | 'close' | 'refuse';
  /** Addresses of this host that move to the other one. */
  moveIps: MoveIp[];
  cgroups: CgroupOptions;
  /** The operator's program, to be run at named points: source/hook.ts. */
  hook?: string;
  /** undefined: the best that this kernel has. */
  tracker?: TrackerName;
  cpuCheck: CpuCheck;
  /** When rounds stop shrinking: move with a longer downtime, or don't. */
  onDiverge: 'freeze' | 'abort';
  /** Compare the memory of both sides while the process is frozen. */
  verify: boolean;
  /** For everything before the commit; undefined: as long as it takes. */
  timeoutMs?: number;
  /** For the freeze, until the commit; undefined: by what was predicted. */
  freezeTimeoutMs?: number;
  /** Of pages, until the freeze, in bytes a second; undefined: as fast as it goes. */
  bandwidth?: number;
}

export interface CheckOptions extends PlaceOptions {
  pid: number;
  tcp: 'established' | 'close' | 'refuse';
  moveIps: MoveIp[];
  cpuCheck: CpuCheck;
  /** undefined: only this side is looked at. */
  reach?: ReachOptions;
}

/** Pages of a dump go to a directory of another host. */
export interface PageServerOptions extends ReachOptions {
  directory: string;
}

export interface PreDumpOptions {
  pid: number;
  directory: string;
  /** The directory of the checkpoint before, seen from this one: pages that it has the same aren't written. */
  previous?: string;
  /** Free the disk from what checkpoints before have of pages that this one has newer ones of. */
  autoDedup: boolean;
}

export interface DumpOptions extends PreDumpOptions {
  /** Established TCP connections: an obstacle, reset, or dumped; their packets are dropped until they are restored. */
  tcp: 'refuse' | 'close' | 'established';
  /** Leave out connections that wait to be accepted. */
  skipInFlight: boolean;
  /** What becomes of the processes. */
  afterwards: 'kill' | 'run' | 'stop';
  /** For files whose name is gone but that have another: make links beside the old names, until they are restored. */
  linkRemap: boolean;
  /** Dump locks on files, which others may take until they are restored. */
  fileLocks: boolean;
  cgroups: CgroupOptions;
  /** Programs of the operator: checkpoint/actionScripts.ts. */
  actionScripts: string[];
}

export interface RestoreOptions {
  directory: string;
  /** Connections that were dumped are restored, reset, or at their end. */
  tcp: 'close' | 'established' | 'end';
  /** All are stopped, for a debugger or whoever sends SIGCONT. */
  leaveStopped: boolean;
  cgroups: CgroupOptions;
  actionScripts: string[];
}

export interface ResolveOptions {
  /** Of a migration, or its beginning. */
  id: string;
  /** For a decision that the journals leave to the operator: which copy goes on. */
  keep?: 'here' | 'there';
  /** undefined: as the journal says. */
  reach?: ReachOptions;
}

export interface Resolution {
  id: string;
  pid: number;
  comm: string;
  /** Nothing is in doubt any more. */
  settled: boolean;
  /** The host that the process runs on; "ended", or "unknown". */
  where: string;
  /** What was found and done, why that is safe, and what is to be done if anything is. */
  text: string;
}

/**
 * src/migrate.ts: never rejects once the commit was sent. The returned event is not emitted; a
 * rejection means that the process runs here as before. An aborted signal before the commit is
 * ERR_INTERRUPTED, after it nothing.
 */
export type Migrate = (options: MigrateOptions, emit: Emit, signal: AbortSignal) => Promise<DoneEvent>;

/** src/check.ts: obstacles are an answer, a rejection means that there is none. */
export type Check = (options: CheckOptions) => Promise<PreflightEvent>;
