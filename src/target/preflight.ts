/** Everything on this host that would stop the planned process from running here, in one list. */
import { hostname } from 'node:os';
import type { Obstacle } from '../errors.ts';
import type { FilesComing } from '../messages.ts';
import type { Plan } from '../source/plan.ts';
import { checkCpu } from './preflight/cpu.ts';
import { checkDisks } from './preflight/disks.ts';
import { checkFiles } from './preflight/files.ts';
import { checkKernel } from './preflight/kernel.ts';
import { checkLimits } from './preflight/limits.ts';
import { checkMemory } from './preflight/memory.ts';
import { checkPids } from './preflight/pids.ts';
import { checkSockets } from './preflight/sockets.ts';
import { checkTerminals } from './preflight/terminals.ts';

export type Finding = Omit<Obstacle, 'host'>;

/** `host` is how this host is called in the sentences. */
export type Check = (plan: Plan, host: string, files: FilesComing) => Finding[] | Promise<Finding[]>;

const checks: Record<string, Check> = {
  kernel: checkKernel,
  cpu: checkCpu,
  pids: checkPids,
  files: checkFiles,
  disks: checkDisks,
  memory: checkMemory,
  limits: checkLimits,
  sockets: checkSockets,
  terminals: checkTerminals,
};

/** All that is in the way. */
export async function preflight(plan: Plan, host: string = hostname(), files: FilesComing = { allowed: 'same', inPlace: false }): Promise<Obstacle[]> {
  const findings = await Promise.all(
    Object.entries(checks).map(async ([name, check]) => {
      try {
        return await check(plan, host, files);
      } catch (error) {
        return [unchecked(name, host, error)];
      }
    }),
  );
  return findings.flat().map((finding) => ({ ...finding, host }));
}

/** What could not be looked at counts as an obstacle, and doesn't keep the other checks from theirs. */
const unchecked = (name: string, host: string, error: unknown): Finding => ({
  code: 'UNCHECKED',
  subject: name,
  sentence: `The ${name} of ${host} could not be checked: ${error instanceof Error ? error.message : String(error)}.`,
});
