/** Another agent of this host, which receives a process for this one: in a pid namespace of its own, or in a unit that has a name. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { hostname } from 'node:os';
import { Duplex } from 'node:stream';
import { connectControl, type Control } from '../control.ts';
import { engine } from '../engine/libphaul.ts';
import type { Obstacle } from '../errors.ts';
import { hello } from '../hello.ts';
import type { Place } from '../options.ts';
import { environmentInside } from '../pidNamespace.ts';
import { PHAUL } from '../places.ts';
import type { Plan } from '../source/plan.ts';
import { hasUnits, startInUnit } from './unit.ts';

/** It loads its modules first, on a host that may be busy. */
const FIRST_WORD_TIMEOUT_MS = 60_000;

/** It and its threads have so many pids at most. */
const AGENT_PIDS = 1_000;

const WORDS = ['agent', '--stdio', '--no-own-unit'];

export interface Delegate {
  control: Control;
  /** What is left for it to do about the place. */
  place: Place;
}

/** Starts a phaul in a new namespace where all these pids are free, which ends with the last process there. */
function runInNewNamespace(words: string[], wanted: number[]): Duplex {
  const pidMax = Number(readFileSync('/proc/sys/kernel/pid_max', 'utf8'));
  const isFree = (base: number): boolean => !wanted.some((pid) => pid > base && pid <= base + AGENT_PIDS);
  let base = Math.min(pidMax, 2 ** 22) - AGENT_PIDS - 1;
  while (base > 300 && !isFree(base)) {
    base -= AGENT_PIDS;
  }
  return new Socket({ fd: engine.runInPidNamespace([PHAUL, ...words], environmentInside(), base) });
}

async function speakTo(duplex: Duplex, what: string): Promise<Control> {
  duplex.on('error', () => {}); // the control connection says so
  try {
    const control = await connectControl(duplex, what, FIRST_WORD_TIMEOUT_MS);
    await control.ask('hello', hello(), FIRST_WORD_TIMEOUT_MS);
    return control;
  } catch (thrown) {
    duplex.destroy(); // by which it ends
    throw thrown;
  }
}

/** Undefined: the process can be received here. */
export async function delegateFor(plan: Plan, place: Place): Promise<Delegate | undefined> {
  const { service, newPidNamespace, output } = place;
  if (service !== undefined) {
    const control = await speakTo(startInUnit(service, `${plan.comm}, which phaul has moved here from ${plan.host}`), `the agent in ${service}.service on ${hostname()}`);
    return { control, place: { newPidNamespace, output } };
  }
  if (newPidNamespace) {
    const control = await speakTo(runInNewNamespace(WORDS, [plan.pid, ...plan.processes, ...plan.tids]), `the agent in a new pid namespace on ${hostname()}`);
    return { control, place: { newPidNamespace: false, output } };
  }
  return undefined;
}

/** What stands in the way of such a unit. */
export function serviceObstacles({ service }: Place, comm: string): Obstacle[] {
  if (service === undefined) {
    return [];
  }
  const host = hostname();
  const found = (sentence: string): Obstacle[] => [{ code: 'SERVICE', subject: `service ${service}`, sentence, host }];
  if (!hasUnits()) {
    return found(`${comm} can't be ${service}.service on ${host}, where systemd doesn't run: leave --as-service out.`);
  }
  const [state = '', fragment = ''] = execFileSync('systemctl', ['show', '--property=LoadState,ActiveState', '--value', `${service}.service`], { encoding: 'utf8' }).split('\n');
  return state === 'not-found' ? [] : found(`${host} has a unit ${service}.service already (${state}, ${fragment}): choose another name for --as-service, or remove that unit.`);
}
