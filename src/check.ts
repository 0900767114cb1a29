/** phaul check: all that stands in the way, of the process itself and on the host it is to go to. */
import { hostname } from 'node:os';
import { engine } from './engine/library.ts';
import type { Obstacle } from './errors.ts';
import type { PreflightEvent } from './events.ts';
import type { Check } from './options.ts';
import { greet } from './peer.ts';
import { reach } from './reach.ts';
import { readPlan, type Plan } from './source/plan.ts';

const onHost = (host: string) => (finding: Omit<Obstacle, 'host'>): Obstacle => ({ ...finding, host });

export function localFindings(pid: number, tcp: 'refuse' | 'close'): { obstacles: Obstacle[]; notices: Obstacle[] } {
  const { obstacles, notices } = engine.check(pid, { tcpClose: tcp === 'close' });
  const here = onHost(hostname());
  return { obstacles: obstacles.map(here), notices: notices.map(here) };
}

export const preflightEvent = (plan: Plan, pid: number, host: string, obstacles: Obstacle[], notices: Obstacle[]): PreflightEvent => ({
  event: 'preflight',
  at: Date.now(),
  side: 'source',
  pid,
  comm: plan.comm,
  host,
  threads: plan.tids.length,
  rssBytes: plan.rssBytes,
  obstacles,
  notices,
});

export const check: Check = async ({ pid, tcp, reach: way }) => {
  const { obstacles, notices } = localFindings(pid, tcp);
  const plan = await readPlan(pid);
  if (way === undefined) {
    return preflightEvent(plan, pid, hostname(), obstacles, notices);
  }
  const reached = await reach(way);
  try {
    const { control } = await greet(reached);
    const there = await control.ask('preflight', { plan });
    control.close();
    return preflightEvent(plan, pid, reached.host, [...obstacles, ...there.obstacles], notices);
  } finally {
    reached.close();
  }
};
