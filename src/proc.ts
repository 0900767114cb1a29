/** What /proc says about a process and this host. Nothing here stops or changes the process. */
import { createHash } from 'node:crypto';
import { open, readdir, readFile, readlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { PhaulError } from './errors.ts';
import { HOST_PROC } from './pidNamespace.ts';

export type Pid = number | 'self' | `${number}/task/${number}`;

/** A read of /proc/PID/… that says so when the process is gone instead of ENOENT on a path. */
export async function readProc(pid: Pid, name: string): Promise<Buffer> {
  try {
    return await readFile(`/proc/${pid}/${name}`);
  } catch (error) {
    throw procError(pid, name, error);
  }
}

export function procError(pid: Pid, name: string, error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'ENOENT' || code === 'ESRCH') {
    return new PhaulError('ERR_NO_PROCESS', `There is no process ${pid} on ${hostname()}: it has ended, or the pid is wrong.`, { cause: error });
  }
  if (code === 'EACCES' || code === 'EPERM') {
    const mend =
      process.geteuid?.() === 0
        ? 'even root may not, so phaul lacks CAP_SYS_PTRACE or a security module protects the process.'
        : 'run phaul as root.';
    return new PhaulError('ERR_NOT_ROOT', `/proc/${pid}/${name} on ${hostname()} can't be read: ${mend}`, { cause: error });
  }
  return error;
}

/** The lines of /proc/PID/status: "VmRSS" -> "1234 kB". */
export async function readStatus(pid: Pid): Promise<Map<string, string>> {
  return parseFields((await readProc(pid, 'status')).toString());
}

/** The same by a pid that the host has for it. */
export const readHostStatus = async (pid: number): Promise<Map<string, string>> => parseFields(await readFile(`${HOST_PROC}/${pid}/status`, 'utf8'));

/** Lines of the form "Name: value", as in status, meminfo and cpuinfo. The first one of a name counts. */
export function parseFields(text: string): Map<string, string> {
  const fields = new Map<string, string>();
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    const name = line.slice(0, colon).trim();
    if (colon > 0 && !fields.has(name)) {
      fields.set(name, line.slice(colon + 1).trim());
    }
  }
  return fields;
}

/** "1234 kB" in bytes; 0 where the line is absent, as a kernel thread's is. */
export const kilobytes = (field: string | undefined): number => Number.parseInt(field ?? '0', 10) * 1024;

/** The last number of the NSpid line: what the process itself takes for its pid. */
export const innermostPid = (status: Map<string, string>): number =>
  Number(status.get('NSpid')?.split(/\s+/).at(-1));

const PF_KTHREAD = 0x00200000;

export async function isKernelThread(pid: Pid): Promise<boolean> {
  const text = (await readProc(pid, 'stat')).toString();
  // The name in parentheses may hold anything, parentheses too.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[6]) & PF_KTHREAD) !== 0;
}

export async function listThreads(pid: Pid): Promise<number[]> {
  try {
    return (await readdir(`/proc/${pid}/task`)).map(Number).sort((a, b) => a - b);
  } catch (error) {
    throw procError(pid, 'task', error);
  }
}

/** The process and all that descend from it, parents first. One that ends meanwhile is left out. */
export async function listTree(root: number): Promise<number[]> {
  const tree = [root];
  for (const pid of tree) {
    for (const tid of await listThreads(pid).catch(() => [])) {
      const children = await readFile(`/proc/${pid}/task/${tid}/children`, 'utf8').catch(() => '');
      tree.push(...children.split(' ').filter((child) => child !== '').map(Number).filter((child) => !tree.includes(child)));
    }
  }
  return tree;
}

export interface Mapping {
  start: bigint;
  end: bigint;
  /** "rw-p" */
  protection: string;
  inode: number;
  /** "/usr/bin/x", "[heap]" or "" */
  path: string;
}

const MAPS_LINE = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)$/;

export async function readMaps(pid: Pid): Promise<Mapping[]> {
  const text = (await readProc(pid, 'maps')).toString();
  const mappings: Mapping[] = [];
  for (const line of text.split('\n')) {
    const [, start, end, protection, inode, path] = MAPS_LINE.exec(line) ?? [];
    if (start === undefined) {
      continue;
    }
    mappings.push({
      start: BigInt(`0x${start}`),
      end: BigInt(`0x${end}`),
      protection: protection ?? '',
      inode: Number(inode),
      path: (path ?? '').replaceAll('\\012', '\n'),
    });
  }
  return mappings;
}

export interface Descriptor {
  fd: number;
  /** "/var/log/x", "socket:[123]", "pipe:[4]" */
  link: string;
  /** The open flags, as fdinfo shows them. */
  flags: number;
  /** Of the master of a pseudo terminal: the N of /dev/pts/N. */
  terminal?: number;
}

/** Descriptors that are closed while the list is read are left out. */
export async function readDescriptors(pid: Pid): Promise<Descriptor[]> {
  let names: string[];
  try {
    names = await readdir(`/proc/${pid}/fd`);
  } catch (error) {
    throw procError(pid, 'fd', error);
  }
  const read = names.map(async (name): Promise<Descriptor | undefined> => {
    try {
      const link = await readlink(`/proc/${pid}/fd/${name}`);
      const info = parseFields(await readFile(`/proc/${pid}/fdinfo/${name}`, 'utf8'));
      const terminal = info.get('tty-index');
      return { fd: Number(name), link, flags: Number.parseInt(info.get('flags') ?? '0', 8), ...(terminal !== undefined && { terminal: Number(terminal) }) };
    } catch {
      return undefined;
    }
  });
  return (await Promise.all(read)).filter((descriptor) => descriptor !== undefined);
}

/** Short names of the limits, keyed by what /proc/PID/limits calls them. */
const LIMIT_NAMES: Record<string, string> = {
  'Max cpu time': 'cpu',
  'Max file size': 'fsize',
  'Max data size': 'data',
  'Max stack size': 'stack',
  'Max core file size': 'core',
  'Max resident set': 'rss',
  'Max processes': 'nproc',
  'Max open files': 'nofile',
  'Max locked memory': 'memlock',
  'Max address space': 'as',
  'Max file locks': 'locks',
  'Max pending signals': 'sigpending',
  'Max msgqueue size': 'msgqueue',
  'Max nice priority': 'nice',
  'Max realtime priority': 'rtprio',
  'Max realtime timeout': 'rttime',
};

/** Hard limits by short name; null is unlimited. */
export async function readHardLimits(pid: Pid): Promise<Record<string, number | null>> {
  const limits: Record<string, number | null> = {};
  for (const line of (await readProc(pid, 'limits')).toString().split('\n')) {
    const [title = '', , hard] = line.split(/\s{2,}/);
    const name = LIMIT_NAMES[title];
    if (name !== undefined && hard !== undefined) {
      limits[name] = hard === 'unlimited' ? null : Number(hard);
    }
  }
  return limits;
}

const AT_PAGESZ = 6n;

export async function readPageSize(pid: Pid): Promise<number> {
  const auxv = await readProc(pid, 'auxv');
  for (let at = 0; at + 16 <= auxv.length; at += 16) {
    if (auxv.readBigUInt64LE(at) === AT_PAGESZ) {
      return Number(auxv.readBigUInt64LE(at + 8));
    }
  }
  return 0;
}

/** sha256 of the vdso: equal hashes mean that code in it has equal addresses. "" if there is none. */
export async function hashVdso(pid: Pid, mappings?: Mapping[]): Promise<string> {
  const vdso = (mappings ?? (await readMaps(pid))).find((mapping) => mapping.path === '[vdso]');
  if (vdso === undefined) {
    return '';
  }
  const bytes = Buffer.alloc(Number(vdso.end - vdso.start));
  try {
    await using memory = await open(`/proc/${pid}/mem`);
    await memory.read(bytes, 0, bytes.length, vdso.start);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EIO') {
      throw new PhaulError('ERR_NO_PROCESS', `Process ${pid} on ${hostname()} has begun another program, or ended, while it was looked at: try again.`, { cause: error });
    }
    throw procError(pid, 'mem', error);
  }
  return createHash('sha256').update(bytes).digest('hex');
}

export async function readCpuFlags(): Promise<string[]> {
  const cpuinfo = parseFields(await readFile('/proc/cpuinfo', 'utf8'));
  return cpuinfo.get('flags')?.split(' ') ?? [];
}

/** A number from /proc/sys, or undefined where this kernel has no such setting. */
export async function readSysctl(name: string): Promise<number | undefined> {
  try {
    return Number(await readFile(`/proc/sys/${name.replaceAll('.', '/')}`, 'utf8'));
  } catch {
    return undefined;
  }
}
