/** Whether what comes along of files, copies and the content of deleted ones, fits where it is to be. */
import { stat, statfs } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { dirname } from 'node:path';
import { formatBytes } from '../../events.ts';
import type { FilesComing } from '../../messages.ts';
import { BLOCK_BYTES } from '../../source/files.ts';
import type { Plan } from '../../source/plan.ts';
import type { Check, Finding } from '../preflight.ts';
import { filesToCopy } from './files.ts';

interface Disk {
  directories: string[];
  need: number;
  /** Of it, by deleted files. */
  deleted: number;
  free: number;
}

/** By their device numbers. */
class Disks {
  readonly all = new Map<number, Disk>();

  async add(directory: string, { dev }: Stats, bytes: number, deleted: number): Promise<void> {
    const disk = this.all.get(dev) ?? { directories: [], need: 0, deleted: 0, free: await freeBytes(directory) };
    const directories = disk.directories.includes(directory) ? disk.directories : [...disk.directories, directory];
    this.all.set(dev, { ...disk, directories, need: disk.need + bytes, deleted: disk.deleted + deleted });
  }
}

export const checkDisks: Check = async (plan, host, files) => {
  const disks = new Disks();
  const findings = await addDeleted(disks, plan, host);
  await addCopies(disks, plan, host, files);
  return [...findings, ...[...disks.all.values()].filter(({ need, free }) => need > free).map((disk) => shortage(disk, plan, host))];
};

async function addDeleted(disks: Disks, plan: Plan, host: string): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { directory, bytes } of plan.deletedFiles) {
    const info = await stat(directory).catch(() => undefined);
    if (info?.isDirectory() === true) {
      await disks.add(directory, info, bytes, bytes);
    } else {
      findings.push(missing(directory, plan, host));
    }
  }
  return findings;
}

/** What is replaced is kept until the process runs here, unless it is written to in place. */
async function addCopies(disks: Disks, plan: Plan, host: string, files: FilesComing): Promise<void> {
  const coming = new Set(await filesToCopy(plan, host, files));
  for (const { path, kind, diskBytes } of plan.files.filter(({ path }) => coming.has(path))) {
    if (kind !== 'file') {
      continue;
    }
    const here = files.inPlace ? await stat(path).catch(() => undefined) : undefined;
    const [directory, info] = await nearest(dirname(path));
    await disks.add(directory, info, Math.max(0, diskBytes - (here?.blocks ?? 0) * BLOCK_BYTES), 0);
  }
}

/** The directory, or that in which it will be made. */
async function nearest(directory: string): Promise<[string, Stats]> {
  const info = await stat(directory).catch(() => undefined);
  return info?.isDirectory() === true ? [directory, info] : nearest(dirname(directory));
}

/** For root, whom the reserve of a file system is kept for. One that has no size (ramfs) takes all. */
async function freeBytes(directory: string): Promise<number> {
  const { blocks, bfree, bsize } = await statfs(directory);
  return blocks === 0 ? Infinity : bfree * bsize;
}

const missing = (directory: string, plan: Plan, host: string): Finding => ({
  code: 'DIRECTORY_MISSING',
  subject: `directory ${directory}`,
  sentence: `${plan.comm} uses a deleted file of ${directory}, which comes along and is to be made there, but ${host} has no such directory: run "mkdir -p ${directory}" there.`,
});

const shortage = ({ directories: [directory = '/', ...more], need, deleted, free }: Disk, plan: Plan, host: string): Finding => ({
  code: 'DISK_SPACE',
  subject: `directory ${directory}`,
  sentence:
    `What comes along of the files that ${plan.comm} uses, in ${directory}${more.length === 0 ? '' : ' and other directories of that file system'}, takes ${formatBytes(need)}, ` +
    `but ${host} has ${formatBytes(free)} free there: free some${deleted === 0 ? '' : `, or let the program close deleted files, which take ${formatBytes(deleted)} of it`}.`,
});
