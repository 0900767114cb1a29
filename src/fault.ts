/** Faults at named steps, for tests: PHAUL_FAULT="source:before-commit:kill". Nothing happens without. */
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

const wanted = process.env['PHAUL_FAULT'] ?? '';

/** kill: the whole phaul at once; stall: this thread for a minute; error: an exception. */
export function fault(point: FaultPoint): void {
  if (!wanted.startsWith(`${point}:`)) {
    return;
  }
  const action = wanted.slice(point.length + 1);
  if (action === 'kill') {
    process.kill(process.pid, 'SIGKILL');
  }
  if (action === 'kill' || action === 'stall') {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60_000);
  }
  throw new PhaulError('ERR_BUG', `The fault that PHAUL_FAULT asked for at ${point}.`);
}
