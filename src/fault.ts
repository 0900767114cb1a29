/**
 * Faults at named steps, for tests: PHAUL_FAULT="source:before-commit:kill", "target:built:stall:20".
 * Nothing happens without.
 */
import { PhaulError } from './errors.ts';

export const FAULT_POINTS = [
  'source:connected',
  'source:armed',
  'source:after-round-1',
  'source:frozen',
  'source:final-sent',
  'source:before-commit',
  'source:after-commit',
  'target:prepared',
  'target:round-1',
  'target:final-round',
  'target:built',
  'target:ready-sent',
  'target:commit-received',
  'target:running',
] as const;

export type FaultPoint = (typeof FAULT_POINTS)[number];

const STALL_S = 60;

let wanted = process.env['PHAUL_FAULT'] ?? '';

/** kill: the whole phaul at once; stall: this thread for some seconds, without a word; error: an exception. Once. */
export function fault(point: FaultPoint): void {
  if (!wanted.startsWith(`${point}:`)) {
    return;
  }
  const [action, seconds = STALL_S] = wanted.slice(point.length + 1).split(':');
  wanted = '';
  if (action === 'kill') {
    process.kill(process.pid, 'SIGKILL');
  }
  if (action === 'kill' || action === 'stall') {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(seconds) * 1000);
    return;
  }
  throw new PhaulError('ERR_BUG', `The fault that PHAUL_FAULT asked for at ${point}.`);
}
