/** What an agent that is started finds of those before it: writes down what has become of their processes, and says so. */
import { addToJournal, forgetOldJournals, isAlive, isFinal, listJournals } from '../journal.ts';
import { status } from '../status.ts';
import { answer } from './arrivals.ts';
import { arrivals } from './arriving.ts';
import { settleLeftFiles } from './leftFiles.ts';

export async function pickUp(say: (sentence: string) => void): Promise<void> {
  const unfinished = listJournals().filter(({ state, about }) => !isFinal(state) && !isAlive(about.by));
  for (const id of arrivals()) {
    await answer(id, 'outcome'); // which removes the sockets of the dead
  }
  for (const { id, side } of unfinished) {
    // Whoever answers at its socket has it, whatever can be seen of processes from here.
    const { state } = side === 'target' ? await answer(id, 'outcome') : { state: 'unknown' };
    if (state === 'running' || state === 'discarded') {
      addToJournal(id, side, state);
    }
  }
  const ids = unfinished.map(({ id }) => id);
  settleLeftFiles();
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
