/** What the process maps or holds open must be here, and be the same, unless it is to come along. */
import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { dirname } from 'node:path';
import { formatBytes, formatCount } from '../../events.ts';
import { identify, kindOf, type PlanFile } from '../../source/files.ts';
import type { FilesComing } from '../../messages.ts';
import type { Plan } from '../../source/plan.ts';
import type { Check, Finding } from '../preflight.ts';

const ALLOWED: Record<FilesComing['allowed'], string[]> = { same: [], missing: ['FILE_MISSING', 'DIRECTORY_MISSING'], any: ['FILE_MISSING', 'DIRECTORY_MISSING', 'FILE_DIFFERS'] };

/** A device has no content, and what the kernel makes is here as it is here. */
const canCome = ({ kind, path }: PlanFile): boolean => (kind === 'file' || kind === 'directory') && !/^\/(proc|sys|dev)\//.test(path);

type Looked = { file: PlanFile; finding: Finding | undefined }[];
const looks = new WeakMap<Plan, Promise<Looked>>();

/** Once for each plan: to compare content takes its time. */
function lookAt(plan: Plan, host: string): Promise<Looked> {
  const look = async (): Promise<Looked> => {
    const looked: Looked = [];
    for (const file of plan.files) {
      looked.push({ file, finding: await checkFile(file, plan, host) });
    }
    return looked;
  };
  const known = looks.get(plan) ?? look();
  looks.set(plan, known);
  return known;
}

/** Those that are to come along; one that the process writes to comes even if it is the same now. */
export async function filesToCopy(plan: Plan, host: string, { allowed }: FilesComing): Promise<string[]> {
  if (allowed === 'same') {
    return [];
  }
  const copy: string[] = [];
  for (const { file, finding } of (await lookAt(plan, host)).filter(({ file }) => canCome(file))) {
    if (finding === undefined ? file.kind === 'file' && file.writable && file.how !== 'watched' && !(await isShared(file)) : ALLOWED[allowed].includes(finding.code)) {
      copy.push(file.path);
    }
  }
  return copy;
}

/** One file of a disk that both hosts have. */
async function isShared({ path, inode, bornMs }: PlanFile): Promise<boolean> {
  const here = await stat(path);
  return here.ino === inode && here.birthtimeMs === bornMs;
}

export const checkFiles: Check = async (plan, host, { allowed }) => {
  const findings: Finding[] = plan.sharedMemory
    .filter((path) => existsSync(path))
    .map((path) => ({
      code: 'SHARED_MEMORY_TAKEN',
      subject: `file ${path}`,
      sentence: `${path}, by which ${plan.comm} shares memory, is to come along, but ${host} has another one: run "rm ${path}" there if no program needs it.`,
    }));
  for (const { file, finding } of await lookAt(plan, host)) {
    if (finding !== undefined && !(ALLOWED[allowed].includes(finding.code) && canCome(file))) {
      findings.push(allowed === 'missing' && finding.code === 'FILE_DIFFERS' ? { ...finding, sentence: `${finding.sentence.replace(/; [^;]*$/, '')}; give --overwrite if ${plan.host}'s is to take its place.` } : finding);
    }
  }
  return findings;
};

const ROLES: Record<PlanFile['how'], string> = {
  exe: 'is the program of',
  mapped: 'is mapped by',
  open: 'is open in',
  cwd: 'is the working directory of',
  root: 'is the root directory of',
  watched: 'is watched (inotify, fanotify) by',
};

async function checkFile(file: PlanFile, plan: Plan, host: string): Promise<Finding | undefined> {
  const subject = `${file.kind} ${file.path}`;
  const what = `${file.path}, which ${ROLES[file.how]} ${plan.comm},`;
  let here: Stats;
  try {
    here = await stat(file.path);
  } catch (error) {
    return {
      code: file.kind === 'directory' ? 'DIRECTORY_MISSING' : 'FILE_MISSING',
      subject,
      sentence: `${what} ${reason(error)} on ${host}: ${mend(file, plan, host)}`,
    };
  }
  if (kindOf(here) !== file.kind || (file.kind === 'device' && here.rdev !== file.device)) {
    return { code: 'FILE_KIND', subject, sentence: `${what} is another kind of file on ${host} (${file.kind} on ${plan.host}).` };
  }
  if (file.kind !== 'file' || file.how === 'watched') {
    return undefined;
  }
  if (file.how === 'exe' && (here.mode & 0o111) === 0) {
    return { code: 'FILE_MODE', subject, sentence: `${what} isn't executable on ${host}: run "chmod +x ${file.path}" there.` };
  }
  const difference = await differenceOf(file, here);
  if (difference === undefined || isSameButChanged(file, here)) {
    return undefined;
  }
  return {
    code: 'FILE_DIFFERS',
    subject,
    sentence: `${what} differs: ${difference.name} ${difference.there} on ${plan.host}, ${difference.here} on ${host}; ${mend(file, plan, host)}`,
  };
}

async function differenceOf(
  file: PlanFile,
  here: Stats,
): Promise<{ name: string; there: string; here: string } | undefined> {
  if (here.size !== file.size) {
    return { name: 'size', there: sizeText(file.size), here: sizeText(here.size) };
  }
  if (file.buildId === undefined && file.sha256 === undefined) {
    return undefined;
  }
  const found = await identify(file.path, here.size);
  if (file.buildId !== found.buildId) {
    return { name: 'build id', there: file.buildId ?? 'none', here: found.buildId ?? 'none' };
  }
  return file.sha256 === found.sha256 ? undefined : { name: 'sha256', there: short(file.sha256), here: short(found.sha256) };
}

/**
 * On a file system that both hosts share, an open file may have grown since the plan was made. A copy
 * on a cloned disk has the same inode number too, but it was not written to later.
 */
const isSameButChanged = (file: PlanFile, here: Stats): boolean =>
  file.how === 'open' && here.ino === file.inode && here.mtimeMs > file.mtimeMs;

const sizeText = (size: number): string => (size < 10_240 ? `${formatCount(size)} bytes` : `${formatBytes(size)} (${formatCount(size)} bytes)`);

const short = (hash: string | undefined): string => (hash === undefined ? 'none' : `${hash.slice(0, 16)}…`);

function reason(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOENT' || code === 'ENOTDIR' ? 'is missing' : `can't be looked at (${code})`;
}

function mend(file: PlanFile, plan: Plan, host: string): string {
  if (file.kind === 'directory') {
    return `run "mkdir -p ${file.path}" there, or copy it.`;
  }
  if (file.kind === 'device') {
    return 'make the device there.';
  }
  if (file.kind === 'fifo') {
    return `run "mkfifo -m ${file.mode.toString(8)} ${file.path}" there.`;
  }
  const copy = `run "rsync -a ${file.path} root@${host}:${dirname(file.path)}/" on ${plan.host}`;
  return file.how === 'open' || file.how === 'watched' ? `${copy}.` : `install the same package there, or ${copy}.`;
}
