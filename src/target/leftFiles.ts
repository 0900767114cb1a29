/** Files that came along, and what they replaced, as a killed agent has left them: they stay or go with what became of the process. */
import { readdirSync } from 'node:fs';
import { hostname } from 'node:os';
import { engine } from '../engine/libphaul.ts';
import { outcomeHere } from '../handover/look.ts';
import { isAlive, readJournal } from '../journal.ts';
import { filesLog, JOURNAL_DIRECTORY } from '../places.ts';

/** What can't be settled is said, and tried again by the next agent. */
export function settleFiles(id: string): void {
  const state = outcomeHere(id);
  if ((state !== 'running' && state !== 'discarded') || isAlive(readJournal(id, 'target')?.about.by)) {
    return;
  }
  try {
    engine.settleFiles(filesLog(id), state === 'running');
  } catch (thrown) {
    process.stderr.write(`phaul agent on ${hostname()}: files that came with migration ${id} can't be put back: ${(thrown as Error).message}\n`);
  }
}

/** Of all migrations. */
export function settleLeftFiles(): void {
  let names: string[];
  try {
    names = readdirSync(JOURNAL_DIRECTORY);
  } catch {
    return;
  }
  names.flatMap((name) => /^([0-9a-f]{16,64})\.files$/.exec(name)?.[1] ?? []).forEach(settleFiles);
}
