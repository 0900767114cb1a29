/**
 * Faults at named steps, for tests: PHAUL_FAULT="source:before-commit:kill", "target:built:error",
 * "source:frozen:stall:20" (seconds), "target:built:stall:/tmp/gate" (while that file is there).
 */
import { existsSync, writeSync } from 'node:fs';
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
const LOOK_MS = 50;

let wanted = process.env['PHAUL_FAULT'] ?? '';

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** kill: the whole phaul at once; stall: this thread, without a word to anybody; error: an exception. Once. */
export function fault(point: FaultPoint): void {
  if (!wanted.startsWith(`${point}:`)) {
    return;
  }
  const [action, how = String(STALL_S)] = wanted.slice(point.length + 1).split(':');
  wanted = '';
  writeSync(2, `phaul: fault at ${point}\n`);
  if (action === 'error') {
    throw new PhaulError('ERR_BUG', `The fault that PHAUL_FAULT asked for at ${point}.`);
  }
  if (action === 'kill') {
    process.kill(process.pid, 'SIGKILL');
  }
  if (how.startsWith('/')) {
    while (existsSync(how)) {
      sleep(LOOK_MS);
    }
  } else {
    sleep(Number(how) * 1000);
  }
}
