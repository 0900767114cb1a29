/** The last event of a command, and the exit code that goes with it. */
import { hostname } from 'node:os';
import { exitCodeOf, type ExitCode, type PhaulError } from '../errors.ts';
import type { DoneEvent } from '../events.ts';

/** For a failure that came before there was anything to measure. */
export function failedEvent(pid: number, error: PhaulError, comm = ''): DoneEvent {
  return {
    event: 'done',
    at: Date.now(),
    side: 'source',
    outcome: error.exitCode === 3 ? 'unknown' : 'failed',
    pid,
    comm,
    host: hostname(),
    downtimeMs: 0,
    totalMs: 0,
    rounds: [],
    bytesSent: 0,
    rssBytes: 0,
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
