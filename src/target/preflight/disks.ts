/** Whether the content of deleted files, which goes along, fits where they were. */
import { stat, statfs } from 'node:fs/promises';
import { formatBytes } from '../../events.ts';
import type { DeletedFiles } from '../../source/deletedFiles.ts';
import type { Plan } from '../../source/plan.ts';
import type { Check, Finding } from '../preflight.ts';

interface Disk {
  directories: string[];
  need: number;
  free: number;
}

export const checkDisks: Check = async (plan, host) => {
  const findings: Finding[] = [];
  const disks = new Map<number, Disk>();
  for (const { directory, bytes } of plan.deletedFiles) {
    const info = await stat(directory).catch(() => undefined);
    if (info?.isDirectory() !== true) {
      findings.push(missing(directory, plan, host));
      continue;
    }
    const disk = disks.get(info.dev) ?? { directories: [], need: 0, free: await freeBytes(directory) };
    disks.set(info.dev, { ...disk, directories: [...disk.directories, directory], need: disk.need + bytes });
  }
  return [...findings, ...[...disks.values()].filter(({ need, free }) => need > free).map((disk) => shortage(disk, plan, host))];
};

/** For root, whom the reserve of a file system is kept for. */
async function freeBytes(directory: string): Promise<number> {
  const { bfree, bsize } = await statfs(directory);
  return bfree * bsize;
}

const missing = (directory: DeletedFiles['directory'], plan: Plan, host: string): Finding => ({
  code: 'DIRECTORY_MISSING',
  subject: `directory ${directory}`,
  sentence: `${plan.comm} uses a deleted file of ${directory}, which comes along and is to be made there, but ${host} has no such directory: run "mkdir -p ${directory}" there.`,
});

const shortage = ({ directories: [directory = '/', ...more], need, free }: Disk, plan: Plan, host: string): Finding => ({
  code: 'DISK_SPACE',
  subject: `directory ${directory}`,
  sentence:
    `The deleted files that ${plan.comm} uses, of ${directory}${more.length === 0 ? '' : ' and other directories of that file system'}, come along and take ${formatBytes(need)}, ` +
    `but ${host} has ${formatBytes(free)} free there: free some, or let the program close them.`,
});
