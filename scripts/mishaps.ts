/** What can happen to a migration in chaos.ts, at which steps, and how it is made to happen. */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FaultPoint } from '../src/fault.ts';
import { sourcePoints, targetPoints, type Departure, type FaultBed } from '../test/faults/bed.ts';

export type Host = 'alpha' | 'beta';

export interface Mishap {
  /** How often it is chosen, compared with others. */
  weight: number;
  points: FaultPoint[];
  /** What phaul does to itself at the step, or, if it stands still there, what is done to it and around it meanwhile. */
  act: string | ((bed: FaultBed, departure: Departure) => Promise<void>);
  /** When it goes on again. */
  after?: (bed: FaultBed, departure: Departure) => Promise<void>;
  /** Puts back what was changed, when all is over. */
  undo?: (bed: FaultBed) => Promise<void>;
  /** The process runs OWN_PROGRAM. */
  ownProgram?: true;
  /** How much memory the process has. */
  mib?: number;
  /** For the agent, a service then: where the kernel lets it have no more than it is allowed. */
  cgroup?: string;
}

const allPoints = [...sourcePoints, ...targetPoints];
const copying: FaultPoint[] = ['source:connected', 'source:armed', 'source:after-round-1', 'target:prepared', 'target:round-1'];
const standing = allPoints.filter((point) => !copying.includes(point) && point !== 'source:preflighted' && point !== 'source:ending' && point !== 'target:released');

const CLOCK_JUMP_S = 7200;
const MEMORY = `/sys/fs/cgroup/memory/phaul-chaos-${process.pid}`;
/** Less than the process has. */
const MEMORY_SPARE_BYTES = 4 << 20;
const MEMORY_MIB = 64;

/** Of each host by itself. */
export const OWN_PROGRAM = '/run/phaul-chaos-victim';
export const copyProgram = async (bed: FaultBed, host: Host): Promise<void> => void (await bed.on(host, 'cp', '--remove-destination', `${process.cwd()}/build/victims/patient`, OWN_PROGRAM));

const link = (state: 'up' | 'down') => async (bed: FaultBed): Promise<void> => {
  await bed.on('beta', 'ip', 'link', 'set', 'eth0', state);
};
const later = (ms: number, act: (bed: FaultBed, departure: Departure) => Promise<void>) => async (bed: FaultBed, departure: Departure): Promise<void> => {
  await sleep(ms);
  await act(bed, departure);
};

/** The phaul at the step. */
const signal = (name: string) => async (bed: FaultBed, departure: Departure): Promise<void> => bed.signal(departure, name);

const killOther: Mishap['act'] = async (bed, departure) => {
  // Whichever stands still dies first, the other one while it waits for it.
  await bed.signal(departure, '-KILL');
  await bed.signal({ ...departure, point: departure.point.startsWith('source:') ? 'target:built' : 'source:frozen' }, '-KILL');
};

/** A process that has the pid which the husk should get. */
async function takePid(bed: FaultBed, { pid }: Departure): Promise<void> {
  const last = '/proc/sys/kernel/ns_last_pid';
  await bed.on('beta', 'sh', '-c', `read before <${last}; echo ${pid - 1} >${last}; setsid sleep 20 </dev/null >/dev/null 2>&1 & echo $before >${last}`);
}

const fill = (host: Host) => async (bed: FaultBed): Promise<void> => {
  await bed.on(host, 'sh', '-c', 'cat /dev/zero >"$PHAUL_JOURNAL/full"');
};
const empty = (host: Host) => async (bed: FaultBed): Promise<void> => {
  await bed.on(host, 'sh', '-c', 'rm -f "$PHAUL_JOURNAL/full"');
};

export const mishaps: Record<string, Mishap> = {
  'none': { weight: 1, points: ['source:connected'], act: 'clock:0' },
  'killed': { weight: 6, points: allPoints, act: 'kill' },
  'throws': { weight: 4, points: allPoints, act: 'error' },
  'stalls for 1 s': { weight: 3, points: allPoints, act: 'stall:1' },
  'stalls for 30 s': { weight: 0.3, points: standing, act: 'stall:30' },
  'clock set ahead': { weight: 1, points: allPoints, act: `clock:${CLOCK_JUMP_S}` },
  'clock set back': { weight: 1, points: allPoints, act: `clock:-${CLOCK_JUMP_S}` },
  'both killed': { weight: 3, points: standing, act: killOther },
  'ssh killed': { weight: 2, points: allPoints, act: async (bed) => void (await bed.on('beta', 'pkill', '-KILL', '-f', 'sshd: root')) },
  'streams reset': { weight: 3, points: allPoints, act: async (bed) => void (await bed.on('alpha', 'ss', '-K', 'dst', '10.77.0.2', 'dport', '!=', ':22')) },
  'link cut for 2 s': { weight: 2, points: allPoints, act: link('down'), after: later(2_000, link('up')), undo: link('up') },
  'link cut for 25 s': { weight: 0.3, points: standing, act: link('down'), after: later(25_000, link('up')), undo: link('up') },
  'stopped for 3 s': { weight: 2, points: allPoints, act: signal('-STOP'), after: later(3_000, signal('-CONT')) },
  'stopped for 20 s': { weight: 0.3, points: standing, act: signal('-STOP'), after: later(20_000, signal('-CONT')) },
  'told to end': { weight: 2, points: allPoints, act: signal('-TERM') },
  'pid taken there': { weight: 1, points: ['source:preflighted'], act: takePid },
  'journal full here': { weight: 1, points: ['source:preflighted'], act: fill('alpha'), undo: empty('alpha') },
  'journal full there': { weight: 1, points: ['source:preflighted'], act: fill('beta'), undo: empty('beta') },
  'program changed there': {
    weight: 1,
    points: ['source:preflighted', 'source:armed', 'target:round-1'],
    ownProgram: true,
    act: async (bed) => void (await bed.on('beta', 'sh', '-c', `cp ${OWN_PROGRAM} ${OWN_PROGRAM}.new && echo >>${OWN_PROGRAM}.new && mv ${OWN_PROGRAM}.new ${OWN_PROGRAM}`)),
    undo: async (bed) => copyProgram(bed, 'beta'),
  },
  'no memory there': {
    weight: 1,
    points: ['target:prepared', 'target:round-1'],
    mib: MEMORY_MIB,
    cgroup: MEMORY,
    act: () => {
      const used = Number(readFileSync(`${MEMORY}/memory.usage_in_bytes`, 'utf8'));
      writeFileSync(`${MEMORY}/memory.limit_in_bytes`, String(used + MEMORY_SPARE_BYTES));
      return Promise.resolve();
    },
  },
};

/** The same numbers for the same seed, from 0 to 1: mulberry32. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const pick = <T>(random: () => number, list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;

export function pickMishap(random: () => number): string {
  const entries = Object.entries(mishaps);
  let left = random() * entries.reduce((sum, [, { weight }]) => sum + weight, 0);
  for (const [name, { weight }] of entries) {
    left -= weight;
    if (left < 0) {
      return name;
    }
  }
  return 'none';
}
