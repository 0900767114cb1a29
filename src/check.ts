/** phaul check: all that stands in the way, of the process itself and on the host it is to go to. */
import { hostname } from 'node:os';
import { findMoved } from './addresses.ts';
import type { CheckFlags, Findings } from './engine/engine.ts';
import { engine } from './engine/libphaul.ts';
import type { Obstacle } from './errors.ts';
import type { PreflightEvent } from './events.ts';
import type { FilesComing } from './messages.ts';
import type { Check, PlaceOptions } from './options.ts';
import { Peer } from './peer.ts';
import { readPlan, type Plan } from './source/plan.ts';
import { trackingFindings } from './source/tracking.ts';

const onHost = (host: string) => (finding: Omit<Obstacle, 'host'>): Obstacle => ({ ...finding, host });

/** `more`: what else was found. */
export function localFindings(pid: number, flags: CheckFlags, more: Findings = { obstacles: [], notices: [] }): { obstacles: Obstacle[]; notices: Obstacle[] } {
  const { obstacles, notices } = engine.check(pid, flags);
  const here = onHost(hostname());
  return { obstacles: [...obstacles, ...more.obstacles].map(here), notices: [...notices, ...more.notices].map(here) };
}

export const preflightEvent = (plan: Plan, pid: number, host: string, obstacles: Obstacle[], notices: Obstacle[]): PreflightEvent => ({
  event: 'preflight',
  at: Date.now(),
  side: 'source',
  pid,
  comm: plan.comm,
  host,
  processes: plan.processes.length,
  threads: plan.tids.length,
  rssBytes: plan.rssBytes,
  obstacles,
  notices,
});

/** What may be missing on the other host, or differ, as it comes along. */
export const filesComing = ({ files, overwrite }: Pick<PlaceOptions, 'files' | 'overwrite'>): FilesComing => ({ allowed: files === 'check' ? 'same' : overwrite ? 'any' : 'missing', inPlace: files === 'rsync' });

export const check: Check = async ({ pid, tcp, moveIps, cpuCheck, place, reach: way, ...along }) => {
  const movedAddresses = findMoved(moveIps);
  const { obstacles, notices } = localFindings(pid, { tcpClose: tcp === 'close', tcpEstablished: tcp === 'established', stdioElsewhere: place.output !== undefined }, trackingFindings());
  const plan = await readPlan(pid, { tcp, movedAddresses, cpuCheck, stdio: place.output === undefined, files: along.files !== 'check' });
  if (way === undefined) {
    return preflightEvent(plan, pid, hostname(), obstacles, notices);
  }
  const peer = new Peer(way);
  try {
    await peer.open();
    const there = await peer.control.ask('preflight', { plan, place, files: filesComing(along) });
    return preflightEvent(plan, pid, peer.host, [...obstacles, ...there.obstacles], notices);
  } finally {
    peer.close();
  }
};
