/** The last event of a command, and the exit code that goes with it. */
import { hostname } from 'node:os';
import { exitCodeOf, type ExitCode, type PhaulError } from './errors.ts';
import type { DoneEvent, PhaulEvent } from './events.ts';

/** `before`: what was reported until the failure, for the figures. */
export function failedEvent(pid: number, error: PhaulError, comm = '', before: PhaulEvent[] = []): DoneEvent {
  const rounds = before.filter((event) => event.event === 'round').map(({ event: _event, at: _at, side: _side, ...round }) => round);
  const look = before.find((event) => event.event === 'preflight');
  const startedAt = before[0]?.at ?? Date.now();
  return {
    event: 'done',
    at: Date.now(),
    side: 'source',
    outcome: error.exitCode === 3 ? 'unknown' : 'failed',
    pid,
    comm,
    host: hostname(),
    downtimeMs: 0,
    totalMs: Date.now() - startedAt,
    rounds,
    bytesSent: rounds.reduce((sum, { bytesSent }) => sum + bytesSent, 0),
    rssBytes: look?.rssBytes ?? 0,
    phases: {},
    error: { code: error.code, message: error.message, ...(error.obstacles.length > 0 && { obstacles: error.obstacles }) },
  };
}

export function exitCodeOfDone(event: DoneEvent): ExitCode {
  if (event.outcome === 'moved') {
    return 0;
  }
  if (event.outcome === 'unknown') {
    return 3;
  }
  return event.error === undefined ? 1 : exitCodeOf(event.error.code);
}
