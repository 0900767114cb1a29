/** What passes between the source's main thread and its tracing thread. */
import type { FileToSend, TrackerName } from '../engine/engine.ts';
import type { Round } from '../events.ts';
import type { About } from '../journal.ts';
import type { FilesMode } from '../options.ts';

export interface SourceOrder {
  id: string;
  pid: number;
  /** All that moved with it when the plan was made. */
  processes: number[];
  comm: string;
  /** As the operator called it. */
  host: string;
  address: string;
  port: number;
  key: Uint8Array;
  streams: number;
  connections: number;
  tracker: TrackerName;
  /** The target's: see Engine.openSource. */
  otherKernel: boolean;
  maxDowntimeMs: number;
  /** undefined: by what was predicted. */
  freezeTimeoutMs?: number;
  /** Of pages, until the freeze, in bytes a second. */
  bandwidth?: number;
  onDiverge: 'freeze' | 'abort';
  verify: boolean;
  /** Those that the target lacks, and that go along. */
  files: { mode: FilesMode; list: FileToSend[] };
  /** Where its stdout and stderr go on the target. */
  output?: string;
  tcpClose: boolean;
  tcpEstablished: boolean;
  /** The operator's program: hook.ts. */
  hook?: string;
  /** That move too, in the words of the engine. */
  addresses: string;
  /** In the words of the engine, too. */
  cgroups: string;
  /** For whoever has to settle it without this phaul. */
  original: NonNullable<About['original']>;
}

export type SourceNews =
  | { type: 'arm'; stopMs: number; tracker: TrackerName }
  | { type: 'round'; round: Round; text: string }
  | { type: 'freeze'; reason: string; predictedMs: number }
  /** From here on the process stands still, or not any more. */
  | { type: 'stands'; still: boolean }
  | { type: 'notice'; text: string }
  | { type: 'commit' }
  | { type: 'doubt'; why: string }
  /** To be answered by an order. */
  | { type: 'ask'; question: 'commit' | 'abort' };

export interface SourceResult {
  outcome: 'moved' | 'thawed' | 'unknown';
  downtimeMs: number;
  phases: Record<string, number>;
  lastBytes: number;
  lastPages: number;
}

/** Orders of the main thread: what the target answered, as a number above 0. */
export const ANSWERS = ['unanswered', 'running', 'discarded', 'unknown'] as const;
export type Answer = (typeof ANSWERS)[number];
