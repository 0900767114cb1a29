/** The files that a process maps, holds open or watches, with what tells whether the target has the same ones. */
import { open, stat } from 'node:fs/promises';
import type { Stats } from 'node:fs';
import { z } from 'zod';
import { hashContent, readBuildId } from '../identity.ts';
import type { Descriptor, Mapping } from '../proc.ts';

export const planFileSchema = z.strictObject({
  path: z.string().startsWith('/').max(4096),
  kind: z.enum(['file', 'directory', 'device', 'fifo']),
  how: z.enum(['exe', 'mapped', 'open', 'cwd', 'root', 'watched']),
  /** The process may change it: its content is then no proof, only its size is compared. */
  writable: z.boolean(),
  size: z.int().min(0),
  /** What it takes of the disk, holes left out. */
  diskBytes: z.int().min(0),
  mtimeMs: z.number(),
  inode: z.number(),
  /** When it was made; with the inode, it tells whether two hosts have one file. */
  bornMs: z.number(),
  /** Permission bits. */
  mode: z.int().min(0).max(0o7777),
  /** Of a device: its number. */
  device: z.number().optional(),
  buildId: z.string().max(128).optional(),
  /** Of regular files without a build id: see hashContent. */
  sha256: z.string().max(64).optional(),
});

export type PlanFile = z.infer<typeof planFileSchema>;

/** `source` is a way to the file that works even if its path means another file by now. */
interface Found {
  path: string;
  source: string;
  how: PlanFile['how'];
  writable: boolean;
}

const O_ACCMODE = 3;

/** stat() gives sizes on the disk in these. */
export const BLOCK_BYTES = 512;
export const DELETED = ' (deleted)';

/** Files that go along with those who share memory by them. */
const SHARED_MEMORY = '/dev/shm/';

/** These are made on the target. */
const isTerminal = (path: string): boolean => /^\/dev\/(pts\/.*|ptmx)$/.test(path);

// Made by the kernel for whoever reads: there is no content to compare.
const isVirtual = (path: string): boolean => /^\/(proc|sys|dev)\//.test(path);

/** What one process of the tree has of files. */
export interface Holder {
  pid: number;
  exe: string;
  cwd: string;
  root: string;
  mappings: Mapping[];
  descriptors: Descriptor[];
  /** By inotify and fanotify. */
  watched: string[];
}

/** `all`: those that the process may write to are identified by their content as well. */
export async function collectFiles(holders: Holder[], all: boolean): Promise<PlanFile[]> {
  const files: PlanFile[] = [];
  const shared = new Set(sharedMemoryOf(holders));
  for (const file of mergeByPath(holders.flatMap(foundOf)).filter(({ path }) => !shared.has(path))) {
    const described = await describe(file, all);
    if (described !== undefined) {
      files.push(described);
    }
  }
  return files;
}

export function sharedMemoryOf(holders: Holder[]): string[] {
  const paths = holders.flatMap(({ mappings, descriptors }) => [
    ...mappings.filter(({ protection }) => protection.endsWith('s')).map(({ path }) => path),
    ...descriptors.map(({ link }) => link),
  ]);
  return [...new Set(paths.filter((path) => path.startsWith(SHARED_MEMORY) && !path.endsWith(DELETED) && path.length > SHARED_MEMORY.length))];
}

const foundOf = ({ pid, exe, cwd, root, mappings, descriptors, watched }: Holder): Found[] => [
  { path: exe, source: `/proc/${pid}/exe`, how: 'exe', writable: false },
  ...mappings.map((mapping) => foundMapping(pid, mapping)),
  ...descriptors.map(({ fd, link, flags }): Found => ({
    path: link,
    source: `/proc/${pid}/fd/${fd}`,
    how: 'open',
    writable: (flags & O_ACCMODE) !== 0,
  })),
  { path: cwd, source: `/proc/${pid}/cwd`, how: 'cwd', writable: false },
  ...(root === '/' ? [] : [{ path: root, source: `/proc/${pid}/root`, how: 'root', writable: false } as const]),
  ...watched.map((path): Found => ({ path, source: path, how: 'watched', writable: true })),
];

/** A way to what is mapped, whatever its name means by now. */
export const mapFile = (pid: number, { start, end }: Mapping): string => `/proc/${pid}/map_files/${start.toString(16)}-${end.toString(16)}`;

function foundMapping(pid: number, mapping: Mapping): Found {
  const { path, protection } = mapping;
  return {
    path,
    source: mapFile(pid, mapping),
    how: 'mapped',
    writable: protection.endsWith('s') && protection.includes('w'),
  };
}

/** One entry a path, as the first that was found; what is no path, and deleted files, are the engine's to judge. */
function mergeByPath(found: Found[]): Found[] {
  const merged = new Map<string, Found>();
  for (const file of found) {
    if (!file.path.startsWith('/') || file.path.endsWith(DELETED) || isTerminal(file.path)) {
      continue;
    }
    const known = merged.get(file.path);
    if (known === undefined) {
      merged.set(file.path, { ...file });
    } else {
      known.writable ||= file.writable;
    }
  }
  return [...merged.values()];
}

/** undefined: gone meanwhile, or of a kind that the engine refuses or makes itself. */
async function describe(found: Found, all: boolean): Promise<PlanFile | undefined> {
  try {
    return await look(found, all);
  } catch (thrown) {
    if (!['ENOENT', 'ESRCH'].includes((thrown as NodeJS.ErrnoException).code ?? '')) {
      throw thrown;
    }
    return undefined;
  }
}

async function look({ path, source, how, writable }: Found, all: boolean): Promise<PlanFile | undefined> {
  const info = await stat(source);
  const kind = kindOf(info);
  if (kind === undefined) {
    return undefined;
  }
  const file: PlanFile = {
    path,
    kind,
    how,
    writable,
    size: info.size,
    diskBytes: Math.min(info.size, info.blocks * BLOCK_BYTES),
    mtimeMs: info.mtimeMs,
    inode: info.ino,
    bornMs: info.birthtimeMs,
    mode: info.mode & 0o7777,
  };
  if (kind === 'device') {
    return { ...file, device: info.rdev };
  }
  const hasContent = kind === 'file' && (all || !writable) && !isVirtual(path);
  return hasContent ? { ...file, ...(await identify(source, info.size)) } : file;
}

export function kindOf(info: Stats): PlanFile['kind'] | undefined {
  if (info.isFile()) {
    return 'file';
  }
  if (info.isDirectory()) {
    return 'directory';
  }
  if (info.isFIFO()) {
    return 'fifo';
  }
  return info.isCharacterDevice() || info.isBlockDevice() ? 'device' : undefined;
}

/** The build id if the file has one: it is quicker to read than the content is to hash. */
export async function identify(path: string, size: number): Promise<{ buildId?: string; sha256?: string }> {
  await using file = await open(path);
  const buildId = await readBuildId(file);
  return buildId === undefined ? { sha256: await hashContent(file, size) } : { buildId };
}
