/**
 * Faults at named steps, for tests: PHAUL_FAULT="source:before-commit:kill", "target:built:error",
 * "source:frozen:stall:20" (seconds), "target:built:stall:/tmp/gate" (while that file is there), "target:built:clock:-3600",
 * "source:frozen:hang:/tmp/fifo" (in the kernel, until somebody writes to that).
 */
import { existsSync, openSync, writeSync } from 'node:fs';
import { PhaulError } from './errors.ts';
import type { ActivityOf } from './handover/follow.ts';
import { sourceRules, targetRules, type Rules } from './handover/rules.ts';

/** Between the steps of an activity. */
const INNER_POINTS = [
  'source:preflighted',
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
  'target:released',
] as const;

export type FaultPoint = (typeof INNER_POINTS)[number] | `source:${ActivityOf<typeof sourceRules>}` | `target:${ActivityOf<typeof targetRules>}`;

const activities = (side: string, rules: Rules): string[] => Object.keys(rules).filter((name) => Object.keys(rules[name] ?? {}).length > 0).map((name) => `${side}:${name}`);

/** All, in the order of a move that succeeds, then of one that doesn't. */
export const FAULT_POINTS = [...INNER_POINTS, ...activities('source', sourceRules), ...activities('target', targetRules)] as FaultPoint[];

const STALL_S = 60;
const LOOK_MS = 50;

let wanted = process.env['PHAUL_FAULT'] ?? '';

function sleep(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** What a clock that is set says to this thread. */
function jump(seconds: number): void {
  const now = Date.now;
  Date.now = () => now() + seconds * 1000;
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
  if (action === 'clock') {
    jump(Number(how));
    return;
  }
  if (action === 'hang') {
    openSync(how, 'r');
    return;
  }
  if (how.startsWith('/')) {
    while (existsSync(how)) {
      sleep(LOOK_MS);
    }
  } else {
    sleep(Number(how) * 1000);
  }
}
