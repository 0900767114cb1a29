/** phaul status: what moves or has moved, by the journals of this host, and where each process is now as far as this host can tell. */
import type { Side } from './events.ts';
import { outcomeHere, sourceEvidence, targetEvidence } from './handover/look.ts';
import { isAlive, listJournals, type Journalled } from './journal.ts';

export interface Status {
  id: string;
  side: Side;
  pid: number;
  comm: string;
  /** The other one. */
  host: string;
  journal: string;
  /** ms since 1970: when it began, and when the journal was written last. */
  began: number;
  at: number;
  /** moving: a phaul is at it. waits: for `command`. */
  state: 'moving' | 'waits' | 'over';
  /** In words: where the process is. */
  text: string;
  command?: string;
}

type Found = Pick<Status, 'state' | 'text' | 'command'>;

const over = (text: string): Found => ({ state: 'over', text });
const moving = (text: string): Found => ({ state: 'moving', text });
const waits = (text: string, command: string): Found => ({ state: 'waits', text, command });

async function ofSource({ id, about: { host = '?' } }: Journalled): Promise<Found> {
  const { journal, phaul, original } = await sourceEvidence(id);
  const command = `phaul resolve ${id}`;
  if (phaul && (journal === 'preparing' || journal === 'committing' || journal === 'committed')) {
    return moving(journal === 'preparing' ? 'runs here, and is being copied' : 'stands still here, and is handed over');
  }
  if (journal === 'gone') {
    return original === 'gone' ? over(`moved to ${host}`) : waits(`moved to ${host}, and is here too, ${original}`, command);
  }
  switch (original) {
    case 'running':
      return over('runs here; it was not moved');
    case 'held':
      return moving('is traced here by somebody');
    case 'stopped':
      return journal === 'preparing' || journal === 'thawed' ? over('is stopped here; it was not moved') : waits(`is stopped here; it isn't known whether it runs on ${host}`, command);
    default:
      return journal === 'thawed' || journal === 'preparing' || journal === 'committing' ? over('was not moved, and has ended since') : waits(`was handed over to ${host}; it isn't known whether it runs there`, command);
  }
}

async function ofTarget({ id, about: { host = '?', by } }: Journalled): Promise<Found> {
  const { journal, alive } = targetEvidence(id);
  if (isAlive(by) && journal === 'preparing') {
    return moving(`arrives from ${host}`);
  }
  if (isAlive(by) && (journal === 'held' || journal === 'releasing')) {
    return waits(`is held here for ${host}, complete, and doesn't run`, `phaul resolve ${id}, on ${host}`);
  }
  switch (outcomeHere(id)) {
    case 'running':
      return over(alive ? 'runs here' : 'ran here, and has ended since');
    case 'discarded':
      return over('never ran here');
    default:
      return waits(`isn't here; it isn't known whether it ran`, `phaul resolve ${id}, on ${host}`);
  }
}

/** The oldest first. */
export async function status(): Promise<Status[]> {
  return Promise.all(
    listJournals().map(async (one) => {
      const { id, side, state: journal, began, at, about } = one;
      return { id, side, pid: about.process?.pid ?? 0, comm: about.comm ?? '?', host: about.host ?? '?', journal, began, at, ...(await (side === 'source' ? ofSource(one) : ofTarget(one))) };
    }),
  );
}
