/** What a migration reports while it runs: typed events first, text from one table of formatters. */
import { exitCodeOf, type ErrorCode, type Obstacle } from './errors.ts';

export type Side = 'source' | 'target';

interface Base {
  /** ms since 1970, of the clock of the host that reports to the operator. */
  at: number;
  side: Side;
}

export interface PreflightEvent extends Base {
  event: 'preflight';
  pid: number;
  comm: string;
  host: string;
  /** It and all that descend from it. */
  processes: number;
  threads: number;
  rssBytes: number;
  obstacles: Obstacle[];
  notices: Obstacle[];
}

export interface ConnectEvent extends Base {
  event: 'connect';
  host: string;
  agentVersion: string;
  kernel: string;
}

export interface ArmEvent extends Base {
  event: 'arm';
  /** How long the process stood still so that tracking could start. */
  stopMs: number;
  /** How pages that are written are found: uffd, soft-dirty, or none. */
  tracker: string;
}

/** One pass over the memory while the process runs. */
export interface Round {
  round: number;
  pagesDirty: number;
  bytesSent: number;
  ms: number;
  /** Bytes per second on the wire. */
  bandwidth: number;
  /** Bytes per second that the process made dirty since the round before; 0 in the first round. */
  dirtyRate: number;
  predictedDowntimeMs: number;
  /** How long the process stood still to find what was written: by soft-dirty bits that takes a stop. */
  stoppedMs: number;
}

export interface RoundEvent extends Base, Round {
  event: 'round';
}

export interface FreezeEvent extends Base {
  event: 'freeze';
  reason: string;
}

/** The point of no return: the target was told to let the process run. */
export interface CommitEvent extends Base {
  event: 'commit';
}

export interface NoticeEvent extends Base {
  event: 'notice';
  text: string;
}

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';

/** Detail for --verbose. */
export interface LogEvent extends Base {
  event: 'log';
  level: LogLevel;
  text: string;
}

export type Outcome = 'moved' | 'failed' | 'unknown';

/** Always the last event, whatever happened. */
export interface DoneEvent extends Base {
  event: 'done';
  outcome: Outcome;
  pid: number;
  comm: string;
  /** Where the process runs now; where it may run if the outcome is unknown. */
  host: string;
  /** From the first thread told to stop until the process was let go on the target. */
  downtimeMs: number;
  totalMs: number;
  rounds: Round[];
  bytesSent: number;
  rssBytes: number;
  /** What the downtime consists of, by name of the phase. */
  phases: Record<string, number>;
  error?: { code: ErrorCode; message: string; obstacles?: Obstacle[] };
}

export type PhaulEvent =
  | PreflightEvent
  | ConnectEvent
  | ArmEvent
  | RoundEvent
  | FreezeEvent
  | CommitEvent
  | NoticeEvent
  | LogEvent
  | DoneEvent;

export const EVENT_KINDS = ['preflight', 'connect', 'arm', 'round', 'freeze', 'commit', 'notice', 'log', 'done'] as const satisfies PhaulEvent['event'][];
export type EventKind = PhaulEvent['event'];
export type EventOf<K extends EventKind> = Extract<PhaulEvent, { event: K }>;

type Unstamped<E> = E extends PhaulEvent ? Omit<E, 'at' | 'side'> & Partial<Pick<E, 'at' | 'side'>> : never;

/** An event as its reporter writes it: without the time, which is added when it is emitted. */
export type EventInput = Unstamped<PhaulEvent>;
export type Emit = (event: EventInput) => void;

export function emitTo(listener: (event: PhaulEvent) => void, side: Side = 'source'): Emit {
  return ({ event, ...rest }) => listener({ event, at: Date.now(), side, ...rest } as PhaulEvent);
}

/** 4,112 */
export const formatCount = (count: number): string => Math.round(count).toLocaleString('en-US');

/** 16.1 MiB */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), units.length - 1);
  const digits = power === 0 ? 0 : 1;
  return `${(bytes / 1024 ** power).toFixed(digits)} ${units[power]}`;
}

/** 0.4 ms, 38 ms, 2.31 s */
export function formatMs(ms: number): string {
  if (ms >= 1000) {
    return `${(ms / 1000).toFixed(2)} s`;
  }
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

export const formatRate = (bytesPerSecond: number): string => `${formatBytes(bytesPerSecond)}/s`;

export const plural = (count: number, noun: string, many = `${noun}s`): string => `${formatCount(count)} ${count === 1 ? noun : many}`;

/** Two spaces stand between columns, so that a log can be read and cut. */
const columns = (...parts: string[]): string => parts.filter((part) => part !== '').join('  ');

type Formatters = { [K in EventKind]: (event: EventOf<K>) => string };

const formatters: Formatters = {
  preflight: (e) =>
    columns(
      `preflight on ${e.host}`,
      `${e.comm} (pid ${e.pid})`,
      ...(e.processes > 1 ? [plural(e.processes, 'process', 'processes')] : []),
      plural(e.threads, 'thread'),
      `${formatBytes(e.rssBytes)} resident`,
      plural(e.obstacles.length, 'obstacle'),
    ),
  connect: (e) => columns(`connected to ${e.host}`, `phaul ${e.agentVersion}`, `Linux ${e.kernel}`),
  arm: (e) => columns('tracking armed', `by ${e.tracker}`, `stopped for ${formatMs(e.stopMs)}`),
  round: (e) =>
    columns(
      `round ${e.round}`,
      `dirty ${formatCount(e.pagesDirty)} pages`,
      formatBytes(e.bytesSent),
      formatMs(e.ms),
      formatRate(e.bandwidth),
      `predicted downtime ${formatMs(e.predictedDowntimeMs)}`,
      e.stoppedMs === 0 ? '' : `stopped for ${formatMs(e.stoppedMs)}`,
    ),
  freeze: (e) => columns('freeze', e.reason),
  commit: () => columns('commit', 'the process runs on the target from here on'),
  notice: (e) => columns('notice', e.text),
  log: (e) => (e.level === 'debug' || e.level === 'info' ? e.text : columns(e.level, e.text)),
  done: (e) => doneText(e),
};

function doneText(e: DoneEvent): string {
  const who = `${e.comm} (pid ${e.pid})`;
  if (e.outcome === 'moved') {
    const figures = [
      `downtime ${formatMs(e.downtimeMs)}`,
      `total ${formatMs(e.totalMs)}`,
      plural(e.rounds.length, 'round'),
      `${formatBytes(e.bytesSent)} sent`,
    ];
    return `moved ${who} to ${e.host}: ${figures.join(', ')}`;
  }
  const why = e.error === undefined ? '' : `: ${e.error.message}`;
  if (e.outcome === 'unknown') {
    return `unknown where ${who} runs now${why}`;
  }
  return stillRuns(e) ? `not moved, ${who} still runs on ${e.host}${why}` : `not moved${why}`;
}

const stillRuns = ({ error }: DoneEvent): boolean =>
  error === undefined || (exitCodeOf(error.code) === 1 && error.code !== 'ERR_PROCESS_EXITED');

/** One line whatever is in it: a process may call itself anything, escape sequences included. */
export const oneLine = (text: string): string => text.replaceAll(/[\x00-\x1f\x7f-\x9f]+/g, ' ');

/** The event in words, without time and side. */
export function eventText(event: PhaulEvent): string {
  const format = formatters[event.event] as (e: PhaulEvent) => string;
  return oneLine(format(event));
}

const pad = (value: number, width: number): string => String(value).padStart(width, '0');

function clock(at: number): string {
  const d = new Date(at);
  return `${pad(d.getHours(), 2)}:${pad(d.getMinutes(), 2)}:${pad(d.getSeconds(), 2)}.${pad(d.getMilliseconds(), 3)}`;
}

/** 12:04:05.118 source  round 3  dirty 4,112 pages  16.1 MiB  38 ms */
export const logLine = (event: PhaulEvent): string =>
  `${clock(event.at)} ${columns(event.side, eventText(event))}`;
