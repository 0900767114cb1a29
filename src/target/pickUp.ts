/** What an agent that is started finds of those before it: writes down what has become of their processes, and says so. */
import { readdirSync, rmSync } from 'node:fs';
import { outcomeHere } from '../handover/look.ts';
import { addToJournal, forgetOldJournals, isAlive, isFinal, listJournals } from '../journal.ts';
import { arrivalSocket, RUN_DIRECTORY } from '../places.ts';
import { status } from '../status.ts';

/** Nobody answers at those of dead agents. */
function removeSockets(ids: string[]): void {
  for (const name of readdirSync(RUN_DIRECTORY)) {
    const id = name.replace(/\.sock$/, '');
    if (ids.includes(id)) {
      rmSync(arrivalSocket(id), { force: true });
    }
  }
}

export async function pickUp(say: (sentence: string) => void): Promise<void> {
  const unfinished = listJournals().filter(({ state, about }) => !isFinal(state) && !isAlive(about.by));
  removeSockets(unfinished.filter(({ side }) => side === 'target').map(({ id }) => id));
  for (const { id, side } of unfinished) {
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
