/** What npm run lab moves from where to where, and what is expected of it. */
import type { Host } from './labHosts.ts';
import type { WorkloadName } from './workloads.ts';

export interface Case {
  from: Host;
  to: Host;
  /** As they are called in the table. */
  kernels: [from: string, to: string];
  /** undefined: the best that the source's kernel has. */
  tracker?: 'uffd' | 'soft-dirty' | 'none';
  workload: WorkloadName;
  options?: string[];
  /** Dumped there and restored here, instead of moved. */
  asCheckpoint?: true;
  /** The program began there, and has come from there before. */
  backFrom?: Host;
  /** What the refusal says; undefined: it moves. */
  refused?: RegExp;
  /** Also a part of --quick. */
  quick?: true;
}

export interface Part {
  /** For scripts/lab up. */
  guests: string[];
  /** Whose kernel the native tests are to run on. */
  tested?: { host: Host; kernel: string };
  cases: Case[];
  /** Not a part of --quick. */
  long?: true;
}

const ALL: WorkloadName[] = ['static C', 'threads', 'python3', 'redis'];
const each = (names: WorkloadName[], one: Omit<Case, 'workload'>): Case[] => names.map((workload) => ({ ...one, workload }));

/** The machine's own kernel, which the hosts of scripts/two-hosts have. */
const OWN = "the machine's";
const LOST = /CPU_FLAGS: .*\bavx2\b/;

export const kernelCases: Part = {
  guests: ['gamma=6.1', 'delta=6.1'],
  tested: { host: 'gamma', kernel: '6.1' },
  cases: [
    ...each(ALL, { from: 'gamma', to: 'delta', kernels: ['6.1', '6.1'], tracker: 'soft-dirty', quick: true }),
    ...each(ALL, { from: 'gamma', to: 'beta', kernels: ['6.1', OWN], tracker: 'soft-dirty', quick: true }),
    ...each(['static C'], { from: 'gamma', to: 'beta', kernels: ['6.1', OWN], tracker: 'none' }),
    ...each(['threads', 'python3'], { from: 'gamma', to: 'beta', kernels: ['6.1', OWN], asCheckpoint: true, quick: true }),
    ...each(['static C'], { from: 'gamma', to: 'delta', kernels: ['6.1', '6.1'], tracker: 'uffd', refused: /TRACKER/ }),
    // What a program of the machine's CPU may use is not there. One that began there may go back.
    ...each(['python3'], { from: 'beta', to: 'gamma', kernels: [OWN, '6.1'], refused: LOST, quick: true }),
    ...each(['guard regions'], { from: 'beta', to: 'gamma', kernels: [OWN, '6.1'], options: ['--cpu-check', 'off'], refused: /has guard regions/, quick: true }),
    ...each(ALL, { from: 'beta', to: 'gamma', backFrom: 'gamma', kernels: [`6.1, ${OWN}`, '6.1'], tracker: 'uffd', options: ['--cpu-check', 'off'] }),
  ],
};

export const newerCases: Part = {
  guests: ['gamma=6.1', 'delta=6.12'],
  tested: { host: 'delta', kernel: '6.12' },
  long: true,
  cases: [
    ...each(ALL, { from: 'gamma', to: 'delta', kernels: ['6.1', '6.12'], tracker: 'soft-dirty' }),
    ...each(['threads'], { from: 'gamma', to: 'delta', kernels: ['6.1', '6.12'], asCheckpoint: true }),
    ...each(ALL, { from: 'delta', to: 'gamma', kernels: ['6.12', '6.1'], tracker: 'uffd', options: ['--cpu-check', 'off'] }),
    ...each(ALL, { from: 'delta', to: 'beta', kernels: ['6.12', OWN], tracker: 'uffd' }),
    ...each(['redis'], { from: 'delta', to: 'beta', kernels: ['6.12', OWN], tracker: 'soft-dirty' }),
  ],
};

/** Of QEMU's models: the first has SSE4.2 and nothing newer, the second AVX2 and what came with it. */
const SMALL = 'Nehalem';
const LARGE = 'Haswell-noTSX,-pcid,-tsc-deadline,-invpcid';

export const cpuCases: Part = {
  guests: [`gamma=6.1,${SMALL}`, `delta=6.1,${LARGE}`],
  cases: [
    ...each(['static C', 'python3'], { from: 'gamma', to: 'delta', kernels: ['Nehalem', 'Haswell'], quick: true }),
    ...each(['static C', 'python3'], { from: 'delta', to: 'gamma', kernels: ['Haswell', 'Nehalem'], refused: LOST, quick: true }),
    ...each(['python3'], { from: 'gamma', to: 'delta', kernels: ['Nehalem', 'Haswell'], options: ['--cpu-check', 'strict'], refused: /CPU_FLAGS_MORE: .*\bavx2\b/, quick: true }),
    ...each(['static C'], { from: 'delta', to: 'gamma', kernels: ['Haswell', 'Nehalem'], options: ['--cpu-check', 'strict'], refused: LOST }),
  ],
};
