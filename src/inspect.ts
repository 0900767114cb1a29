/** phaul inspect: what a checkpoint holds, from its images alone. */
import { z } from 'zod';
import { PhaulError } from './errors.ts';
import { readEntries } from './images.ts';
import { inspectChain, memoryOf, type InspectedLink, type InspectedMemory } from './inspectChain.ts';

const STATES: Record<number, string> = { 1: 'running', 2: 'ended', 3: 'stopped' };
const SOCKET_TYPES: Record<number, string> = { 1: 'stream', 2: 'datagram', 3: 'raw', 5: 'packet' };
const LISTEN = 10;
const ESTABLISHED = 1;
const V4_FAMILY = 2;

const number = z.union([z.number(), z.string()]).transform(Number).default(0);
const numbers = z.array(number).default([]);
const pstree = z.object({ pid: number, ppid: number, pgid: number, sid: number, threads: numbers });
const core = z.object({ tc: z.object({ task_state: number, comm: z.string().default('') }).optional() });
const ids = z.object({ files_id: number });
const mm = z.object({
  exe_file_id: number,
  vmas: z.array(z.object({ start: number, end: number, status: number, shmid: number })).default([]),
});
const fs = z.object({ cwd_id: number, root_id: number });
const fdinfo = z.object({ id: number, fd: number, type: z.string() });
const inet = z.object({ type: number, proto: number, state: number, src_port: number, dst_port: number, src_addr: numbers, dst_addr: numbers, family: number });
const unix = z.object({ type: number, state: number, name: z.string().default('') });
const file = z.object({
  id: number,
  type: z.string(),
  reg: z.object({ name: z.string() }).optional(),
  isk: inet.optional(),
  usk: unix.optional(),
  fifo: z.object({ regf_id: number }).optional(),
  pipe: z.object({ pipe_id: number }).optional(),
  tty: z.object({ regf_id: number }).optional(),
});

export interface InspectedDescriptor {
  fd: number;
  kind: string;
  /** What it is, in words. */
  text: string;
}

export interface InspectedProcess {
  pid: number;
  ppid: number;
  pgid: number;
  sid: number;
  state: string;
  comm: string;
  threads: number;
  exe?: string | undefined;
  cwd?: string | undefined;
  root?: string | undefined;
  mappings: number;
  mappedBytes: number;
  memory: InspectedMemory;
  descriptors: InspectedDescriptor[];
  children: InspectedProcess[];
}

const KINDS: Record<string, string> = {
  REG: 'file', PIPE: 'pipe', FIFO: 'named pipe', INETSK: 'internet socket', UNIXSK: 'unix socket', EVENTFD: 'eventfd', EVENTPOLL: 'epoll',
  SIGNALFD: 'signalfd', TIMERFD: 'timerfd', TTY: 'terminal', INOTIFY: 'inotify', FANOTIFY: 'fanotify', NETLINKSK: 'netlink socket', MEMFD: 'memfd', PIDFD: 'pidfd',
};

/** Words in network order. */
function addressOf(words: number[], port: number, family: number): string {
  const bytes = words.flatMap((word) => [word & 0xff, (word >>> 8) & 0xff, (word >>> 16) & 0xff, word >>> 24]);
  if (family === V4_FAMILY) {
    return `${bytes.slice(0, 4).join('.')}:${port}`;
  }
  const groups = Array.from({ length: bytes.length / 2 }, (_, i) => (((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0)).toString(16));
  return `[${groups.join(':')}]:${port}`;
}

const PROTOCOLS: Record<number, string> = { 6: 'TCP', 17: 'UDP', 1: 'ICMP', 58: 'ICMPv6', 136: 'UDP-Lite' };

function inetText({ proto, state, src_addr, src_port, dst_addr, dst_port, family }: z.infer<typeof inet>): string {
  const protocol = PROTOCOLS[proto] ?? `protocol ${proto}`;
  const own = addressOf(src_addr, src_port, family);
  return state === LISTEN ? `${protocol} listening on ${own}` : dst_port > 0 ? `${protocol} ${own} <-> ${addressOf(dst_addr, dst_port, family)}` : `${protocol} ${own}`;
}

function unixText({ type, state, name }: z.infer<typeof unix>): string {
  const text = Buffer.from(name, 'base64').toString().replace(/\0+$/, '').replace(/^\0/, '@');
  const how = state === LISTEN ? 'listening' : state === ESTABLISHED && type !== 2 ? 'connected' : '';
  return [SOCKET_TYPES[type] ?? '', text || 'without a name', how].filter((word) => word !== '').join(' ');
}

type Files = Map<number, z.infer<typeof file>>;

function textOf(files: Files, id: number): string {
  const entry = files.get(id);
  if (entry?.isk !== undefined) {
    return inetText(entry.isk);
  }
  if (entry?.usk !== undefined) {
    return unixText(entry.usk);
  }
  if (entry?.pipe !== undefined) {
    return `pipe ${entry.pipe.pipe_id}`;
  }
  return entry?.reg?.name ?? files.get(entry?.fifo?.regf_id ?? entry?.tty?.regf_id ?? 0)?.reg?.name ?? '';
}

function inspectProcess(directory: string, { pid, threads, ...place }: z.infer<typeof pstree>, files: Files): InspectedProcess {
  const { tc } = readEntries(directory, `core-${pid}`, 'core_entry', core)[0] ?? {};
  const memory = readEntries(directory, `mm-${pid}`, 'mm_entry', mm)[0];
  const places = readEntries(directory, `fs-${pid}`, 'fs_entry', fs)[0];
  const table = readEntries(directory, `ids-${pid}`, 'task_kobj_ids_entry', ids)[0]?.files_id ?? pid;
  const nameOf = (id: number | undefined): string | undefined => files.get(id ?? 0)?.reg?.name;
  return {
    pid,
    ...place,
    state: STATES[tc?.task_state ?? 0] ?? 'unknown',
    comm: tc?.comm ?? '',
    threads: threads.length,
    ...(memory !== undefined && { exe: nameOf(memory.exe_file_id) }),
    ...(places !== undefined && { cwd: nameOf(places.cwd_id), root: nameOf(places.root_id) }),
    mappings: memory?.vmas.length ?? 0,
    mappedBytes: (memory?.vmas ?? []).reduce((sum, { start, end }) => sum + end - start, 0),
    memory: memoryOf(directory, `pagemap-${pid}`),
    descriptors: readEntries(directory, `fdinfo-${table}`, 'fdinfo_entry', fdinfo).map(({ fd, id, type }) => ({ fd, kind: KINDS[type] ?? type, text: textOf(files, id) })),
    children: [],
  };
}

export interface Inspected {
  /** The directory, and those that came before it. */
  chain: InspectedLink[];
  /** The first process, with all others below it; a pre-dump has none. */
  root?: InspectedProcess;
}

export function inspect(directory: string): Inspected {
  const chain = inspectChain(directory);
  return chain[0]?.kind === 'checkpoint' ? { chain, root: inspectRoot(directory) } : { chain };
}

function inspectRoot(directory: string): InspectedProcess {
  const files: Files = new Map(readEntries(directory, 'files', 'file_entry', file).map((entry) => [entry.id, entry]));
  const processes = readEntries(directory, 'pstree', 'pstree_entry', pstree).map((entry) => inspectProcess(directory, entry, files));
  const [root] = processes;
  if (root === undefined) {
    throw new PhaulError('ERR_USAGE', `${directory} holds no process: pstree.img is empty.`);
  }
  for (const [i, process] of processes.slice(1).entries()) {
    const parent = processes.slice(0, i + 1).find(({ pid }) => pid === process.ppid);
    if (parent === undefined) {
      throw new PhaulError('ERR_USAGE', `${directory}/pstree.img says that process ${process.pid} is a child of ${process.ppid}, which is not before it. Is it of a checkpoint, and whole?`);
    }
    parent.children.push(process);
  }
  return root;
}
