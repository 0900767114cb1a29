/** What a tree takes of a host's memory. What parent and children share until one of them writes to it is there once. */
import { kilobytes, parseFields, readProc } from '../proc.ts';

interface Process {
  pid: number;
  status: Map<string, string>;
}

const anonymous = ({ status }: Process): number => kilobytes(status.get('RssAnon'));

/** Of a page that is shared by three, a third. */
async function share(of: Process): Promise<number> {
  const rollup = await readProc(of.pid, 'smaps_rollup').catch(() => Buffer.of());
  const bytes = parseFields(rollup.toString()).get('Pss_Anon');
  return bytes === undefined ? anonymous(of) : kilobytes(bytes);
}

/** In bytes. Who shares with processes that stay has all of it on the other host: a tree takes at least what one of it has. */
export async function residentBytes([root, ...descendants]: [Process, ...Process[]]): Promise<number> {
  const resident = kilobytes(root.status.get('VmRSS'));
  if (descendants.length === 0) {
    return resident;
  }
  const members = [root, ...descendants];
  const shares = await Promise.all(members.map(share));
  // Pages of files and of shared memory are there once, whoever maps them.
  const ofFiles = resident - anonymous(root);
  return ofFiles + Math.max(shares.reduce((sum, some) => sum + some, 0), ...members.map(anonymous));
}
