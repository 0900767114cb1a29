/** Looks for that evidence on this host. */
import { isAlive, isOfEarlierBoot, readJournal, type Entry } from '../journal.ts';
import type { OutcomeState } from '../messages.ts';
import { readHostStatus } from '../proc.ts';
import { outcomeOf, type SourceEvidence, type SourceState, type TargetEvidence, type TargetState } from './evidence.ts';

/** A zombie has ended, whoever has not taken note of that yet. */
async function originalOf({ about: { process } }: Entry): Promise<SourceEvidence['original']> {
  const status = process === undefined || !isAlive(process) ? undefined : await readHostStatus(process.pid).catch(() => undefined);
  const state = status?.get('State')?.[0] ?? 'X';
  if (state === 'Z' || state === 'X') {
    return 'gone';
  }
  return status?.get('TracerPid') !== '0' ? 'held' : state === 'T' ? 'stopped' : 'running';
}

export async function sourceEvidence(id: string): Promise<SourceEvidence> {
  const entry = readJournal(id, 'source');
  if (entry === undefined) {
    return { journal: 'absent', phaul: false, restarted: false, original: 'gone' };
  }
  return {
    journal: entry.state as SourceState,
    phaul: isAlive(entry.about.by),
    restarted: isOfEarlierBoot(entry.about.by),
    original: await originalOf(entry),
  };
}

export function targetEvidence(id: string): TargetEvidence {
  const entry = readJournal(id, 'target');
  return {
    journal: (entry?.state as TargetState | undefined) ?? 'absent',
    restarted: entry !== undefined && isOfEarlierBoot(entry.about.by),
    alive: isAlive(entry?.about.process),
  };
}

/** Of a copy that no agent has any more. */
export const outcomeHere = (id: string): OutcomeState => outcomeOf(targetEvidence(id));
