/** What an agent that is started finds of those before it: writes down what has become of their processes, and says so. */
import { rmSync } from 'node:fs';
import { outcomeHere } from '../handover/look.ts';
import { addToJournal, forgetOldJournals, isAlive, isFinal, listJournals } from '../journal.ts';
import { arrivalSocket } from '../places.ts';
import { status } from '../status.ts';

export async function pickUp(say: (sentence: string) => void): Promise<void> {
  const unfinished = listJournals().filter(({ state, about }) => !isFinal(state) && !isAlive(about.by));
  for (const { id, side } of unfinished) {
    rmSync(arrivalSocket(id), { force: true }); // nobody answers there
    const outcome = side === 'target' ? outcomeHere(id) : undefined;
    if (outcome === 'running' || outcome === 'discarded') {
      addToJournal(id, side, outcome);
    }
  }
  const ids = unfinished.map(({ id }) => id);
  for (const { id, side, pid, comm, host, state, text, command } of await status()) {
    if (ids.includes(id)) {
      if (side === 'source' && state === 'over') {
        addToJournal(id, side, 'thawed');
      }
      say(`migration ${id} ${side === 'source' ? 'to' : 'from'} ${host} was broken off: ${comm} (pid ${pid}) ${text}${command === undefined ? '' : `; run: ${command}`}`);
    }
  }
  forgetOldJournals();
}
