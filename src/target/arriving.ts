/** Which migrations have a process on this host that doesn't run yet, of this or another agent. */
import { readdirSync } from 'node:fs';
import { readJournal, type About } from '../journal.ts';
import { isInside } from '../pidNamespace.ts';
import { RUN_DIRECTORY } from '../places.ts';

/** Of all that an agent has here; a socket that a dead agent left behind is listed, too. */
export function arrivals(): string[] {
  let names: string[];
  try {
    names = readdirSync(RUN_DIRECTORY);
  } catch {
    return [];
  }
  return names.map((name) => /^([0-9a-f]{16,64})\.sock$/.exec(name)?.[1]).filter((id) => id !== undefined);
}

/** As we would see it: pids of other namespaces are none of ours. */
function pidOf({ process, pidInside }: Partial<About> = {}): number {
  return (isInside ? pidInside : pidInside === undefined ? process?.pid : 0) ?? 0;
}

/** Those with one of these pids. */
export const arriving = (pids: number[]): string[] => arrivals().filter((id) => pids.includes(pidOf(readJournal(id, 'target')?.about)));
