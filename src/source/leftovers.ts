/** What earlier migrations of a process have left, here and on the other host, before it moves again. */
import { PhaulError } from '../errors.ts';
import type { Emit } from '../events.ts';
import { sourceEvidence } from '../handover/look.ts';
import { isStoppedByUs } from '../handover/verdict.ts';
import { addToJournal, instanceOf, isAlive, isSame, listJournals, readJournal } from '../journal.ts';
import { hostPidOf } from '../pidNamespace.ts';
import type { Peer } from '../peer.ts';
import { readStatus } from '../proc.ts';
import type { Plan } from './plan.ts';

/** The agent that is asked asks another one. */
const LEFTOVER_TIMEOUT_MS = 12_000;

/**
 * Copies of this very process that earlier migrations left on the other host, held for a commit that will
 * never come: their phaul is dead, and didn't commit, for then the process would not be here.
 */
export async function discardLeftovers(plan: Plan, pid: number, ids: string[], { control, host }: Peer, emit: Emit): Promise<boolean> {
  let discarded = false;
  const instance = instanceOf(pid);
  for (const id of ids) {
    const { about } = readJournal(id, 'source') ?? {};
    if (about === undefined || !isSame(about.process, instance) || isAlive(about.by)) {
      continue;
    }
    const { state } = await control.ask('abort', { id }, LEFTOVER_TIMEOUT_MS).catch(() => ({ state: 'unknown' }));
    if (state === 'running') {
      throw new PhaulError('ERR_BUSY', `Process ${pid} (${plan.comm}) runs on ${host} since migration ${id}, and here too: run "phaul resolve ${id}" first.`);
    }
    emit({ event: 'notice', text: `${host} still held what migration ${id} had left there; it is ${state} now.` });
    if (state === 'discarded') {
      addToJournal(id, 'source', 'thawed');
      discarded = true;
    }
  }
  return discarded;
}

/** Those that a debugger, a shell or anybody else has stopped, as the host sees them. */
export async function stoppedOf(processes: number[]): Promise<number[]> {
  const states = await Promise.all(processes.map(async (pid) => ({ pid, state: (await readStatus(pid).catch(() => undefined))?.get('State')?.[0] })));
  return states.filter(({ state }) => state === 'T').map(({ pid }) => hostPidOf(pid));
}

/** One that stands still since a migration that nobody has settled must not move: it may run somewhere else. */
export async function refuseUnsettled(pid: number, comm: string): Promise<void> {
  const instance = instanceOf(pid);
  for (const { id, side, about } of listJournals()) {
    if (side === 'source' && isSame(about.process, instance) && isStoppedByUs(await sourceEvidence(id))) {
      throw new PhaulError('ERR_BUSY', `Process ${pid} (${comm}) stands still since migration ${id} to ${about.host}, of which it isn't known whether it was completed: run "phaul resolve ${id}" first.`);
    }
  }
}
