/**
 * What the target has to know before anything is moved: the plan travels in the first messages and is
 * checked there by preflight. Everything comes from /proc; the process isn't stopped.
 */
import { readlink } from 'node:fs/promises';
import { arch, hostname, release } from 'node:os';
import { basename } from 'node:path';
import { z } from 'zod';
import { engine } from '../engine/libphaul.ts';
import { PhaulError } from '../errors.ts';
import { bootId } from '../journal.ts';
import {
  hashVdso,
  innermostPid,
  kilobytes,
  listThreads,
  listTree,
  procError,
  readCpuFlags,
  readDescriptors,
  readHardLimits,
  readMaps,
  readPageSize,
  readProc,
  readStatus,
  type Descriptor,
} from '../proc.ts';
import { CPU_CHECKS, type CpuCheck } from '../options.ts';
import { movedAddressSchema, type MovedAddress } from '../addresses.ts';
import { PROTOCOLS, readBoundSockets, readConnections, type BoundSocket } from '../sockets.ts';
import { collectDeletedFiles, deletedFilesSchema } from './deletedFiles.ts';
import { collectFiles, planFileSchema, sharedMemoryOf, type Holder } from './files.ts';
import { collectHugePages, hugePagesSchema } from './hugePages.ts';
import { residentBytes } from './resident.ts';

// Bounds of what a peer may send: Linux itself allows no more, or no real process comes near.
const PIDS_MAX = 2 ** 22;
const THREADS_MAX = 32_768;
export const FILES_MAX = 65_536;
const PATH_MAX = 4096;
const ADDRESSES_MAX = 1024;
const HUGE_SIZES_MAX = 16;

const pid = z.int().min(1).max(PIDS_MAX);
const size = z.int().min(0);
const id = z.int().min(0).max(0xffffffff);
const word = z.string().max(64);

export const planSchema = z.strictObject({
  /** As the process itself sees it, which may differ from what the operator typed. */
  pid,
  /** All that move with it, itself first. */
  processes: z.array(pid).min(1).max(THREADS_MAX),
  /** All threads of all of them. */
  tids: z.array(pid).min(1).max(THREADS_MAX),
  /** What operators know it by; see nameOf. */
  comm: word,
  cmdline: z.array(z.string().max(PATH_MAX)).max(1024),
  exe: z.string().max(PATH_MAX),
  cwd: z.string().max(PATH_MAX),
  /** 0 if all are root's. */
  uid: id,
  gid: id,
  rssBytes: size,
  swapBytes: size,
  /** One entry for each size of huge pages (hugetlb). */
  hugePages: z.array(hugePagesSchema).max(HUGE_SIZES_MAX),
  vszBytes: size,
  /** Private writable memory, which a host that doesn't overcommit must reserve. */
  dataBytes: size,
  /** Of the one that has the most. */
  mappings: z.int().min(1).max(2 ** 31),
  /** The highest hard limits of any, by short name ("nofile"); null is unlimited. */
  limits: z.record(word, z.number().min(0).nullable()),
  sockets: z
    .array(z.strictObject({ protocol: z.enum(PROTOCOLS), address: word, port: z.int().min(1).max(65_535) }))
    .max(FILES_MAX),
  /** TCP connections that are to live on, and the addresses that they have here. */
  connections: size,
  connectionAddresses: z.array(word).max(FILES_MAX),
  /** That come along. */
  movedAddresses: z.array(movedAddressSchema).max(ADDRESSES_MAX),
  /** Files in /dev/shm, which come along. */
  sharedMemory: z.array(z.string().max(PATH_MAX)).max(FILES_MAX),
  /** Pseudo terminals that come along, by their number. */
  terminals: z.array(size).max(FILES_MAX),
  files: z.array(planFileSchema).max(FILES_MAX),
  deletedFiles: z.array(deletedFilesSchema).max(FILES_MAX),
  host: z.string().max(255),
  arch: word,
  kernel: z.string().max(256),
  pageSize: z.int().min(1).max(2 ** 20),
  cpuFlags: z.array(word).max(1024),
  /** That XSAVE writes; 0: there is no such instruction. */
  xsaveBytes: size,
  cpuCheck: z.enum(CPU_CHECKS),
  /** Another one after each start of the host. */
  bootId: word,
  /** sha256, or "" if the process has no vdso. */
  vdso: z.string().max(64),
});

export type Plan = z.infer<typeof planSchema>;

/** One process of the tree, as it is now. */
interface Member extends Holder {
  status: Map<string, string>;
  tids: number[];
  limits: Record<string, number | null>;
}

async function readMember(pid: number): Promise<Member> {
  const [status, tids, mappings, descriptors, limits, exe, cwd, root] = await Promise.all([
    readStatus(pid),
    readInnermostTids(pid),
    readMaps(pid),
    readDescriptors(pid),
    readHardLimits(pid),
    readLink(pid, 'exe'),
    readLink(pid, 'cwd'),
    readLink(pid, 'root'),
  ]);
  return { pid, status, tids, mappings, descriptors, limits, exe, cwd, root, watched: engine.watched(pid) };
}

async function readLink(pid: number, name: string): Promise<string> {
  try {
    return await readlink(`/proc/${pid}/${name}`);
  } catch (error) {
    throw procError(pid, name, error);
  }
}

/** Of a descendant that has ended there is a pid at most. */
async function readDescendant(pid: number): Promise<Member | { status: Map<string, string> } | undefined> {
  try {
    return await readMember(pid);
  } catch {
    return readStatus(pid).then((status) => ({ status }), () => undefined);
  }
}

/** What goes along beside the process. */
export interface Company {
  tcp: 'established' | 'close' | 'refuse';
  movedAddresses: MovedAddress[];
  cpuCheck?: CpuCheck;
  /** What stdin, stdout and stderr are goes along as well. */
  stdio: boolean;
  /** Files that the process may write to are identified, too: they are to be copied. */
  files: boolean;
}

/** All members without what the first has as stdin, stdout and stderr. */
function withoutStdio<T extends { descriptors: Descriptor[] }>(members: [T, ...T[]]): [T, ...T[]] {
  const links = members[0].descriptors.filter(({ fd }) => fd <= 2).map(({ link }) => link);
  const isStdio = ({ fd, link }: Descriptor): boolean => links.includes(link) && (fd <= 2 || !link.startsWith('/'));
  return members.map((member) => ({ ...member, descriptors: member.descriptors.filter((one) => !isStdio(one)) })) as [T, ...T[]];
}

export async function readPlan(pid: number, { tcp, movedAddresses, stdio, files, cpuCheck = 'used' }: Company = { tcp: 'refuse', movedAddresses: [], stdio: true, files: false }): Promise<Plan> {
  const { engine } = await import('../engine/libphaul.ts'); // which --help does without
  const [root, cmdline, pageSize, cpuFlags, sockets, connections, tree] = await Promise.all([
    readMember(pid),
    readProc(pid, 'cmdline'),
    readPageSize(pid),
    readCpuFlags(),
    readBoundSockets(pid),
    tcp === 'established' ? readConnections(pid) : [],
    listTree(pid),
  ]);
  if (root.mappings.length === 0) {
    throw new PhaulError('ERR_NO_PROCESS', `Process ${pid} on ${hostname()} has no memory: it has ended, or it is a kernel thread.`);
  }
  const descendants = (await Promise.all(tree.slice(1).map(readDescendant))).filter((some) => some !== undefined);
  const all: [Member, ...Member[]] = [root, ...descendants.filter((some) => 'mappings' in some).filter(({ mappings }) => mappings.length > 0)];
  const members = stdio ? all : withoutStdio(all);
  const held = socketsOf(members.flatMap(({ descriptors }) => descriptors), connections);
  const sum = (of: (member: Member) => number): number => members.reduce((total, member) => total + of(member), 0);
  return {
    pid: innermostPid(root.status),
    processes: [root, ...descendants].map(({ status }) => innermostPid(status)),
    tids: [...new Set([...members.flatMap(({ tids }) => tids), ...descendants.map(({ status }) => innermostPid(status))])],
    comm: nameOf(root.status.get('Name') ?? '', splitArguments(cmdline)),
    cmdline: splitArguments(cmdline),
    exe: root.exe,
    cwd: root.cwd,
    uid: Math.max(...members.map(({ status }) => effective(status.get('Uid')))),
    gid: Math.max(...members.map(({ status }) => effective(status.get('Gid')))),
    rssBytes: await residentBytes([root, ...members.slice(1)]),
    swapBytes: sum(({ status }) => kilobytes(status.get('VmSwap'))),
    hugePages: await collectHugePages(members, pageSize),
    vszBytes: sum(({ status }) => kilobytes(status.get('VmSize'))),
    dataBytes: sum(({ status }) => kilobytes(status.get('VmData')) + kilobytes(status.get('VmStk'))),
    mappings: Math.max(...members.map(({ mappings }) => mappings.length)),
    limits: highestLimits(members),
    sockets: socketsOf(members.flatMap(({ descriptors }) => descriptors), sockets),
    connections: held.length,
    connectionAddresses: [...new Set(held.map(({ address }) => address))],
    movedAddresses,
    sharedMemory: sharedMemoryOf(members),
    terminals: [...new Set(members.flatMap(({ descriptors }) => descriptors.flatMap(({ terminal }) => terminal ?? [])))],
    files: await collectFiles(members, files),
    deletedFiles: await collectDeletedFiles(members),
    host: hostname(),
    arch: arch(),
    kernel: release(),
    pageSize,
    cpuFlags,
    xsaveBytes: engine.xsaveBytes(),
    cpuCheck,
    bootId: bootId(),
    vdso: await hashVdso(pid, root.mappings),
  };
}

/** null is unlimited. */
function highestLimits(members: Member[]): Plan['limits'] {
  const highest: Plan['limits'] = {};
  for (const [name, hard] of members.flatMap(({ limits }) => Object.entries(limits))) {
    const known = highest[name];
    highest[name] = known === null || hard === null ? null : Math.max(known ?? 0, hard);
  }
  return highest;
}

/** A thread that ends meanwhile is left out: the freeze takes the list that counts. */
async function readInnermostTids(pid: number): Promise<number[]> {
  const read = (await listThreads(pid)).map(async (tid) => {
    try {
      return innermostPid(await readStatus(`${pid}/task/${tid}`));
    } catch {
      return undefined;
    }
  });
  return (await Promise.all(read)).filter((tid) => tid !== undefined);
}

/** Arguments beyond the bounds of the schema are cut: they are only shown. */
const splitArguments = (cmdline: Buffer): string[] =>
  cmdline.toString().replace(/\0$/, '').split('\0').slice(0, 1024).map((text) => text.slice(0, PATH_MAX));

/**
 * The name that the kernel has, unless the program gave its first thread another ("MainThread" of
 * node): then what it was started as.
 */
function nameOf(comm: string, [program = '']: string[]): string {
  const started = basename(program.split(' ')[0] ?? '').slice(0, 64);
  return program.includes(comm) || started === '' ? comm : started;
}

/** "Uid: real effective saved fs" */
const effective = (ids: string | undefined): number => Number(ids?.split(/\s+/)[1]);

function socketsOf(descriptors: Descriptor[], sockets: BoundSocket[]): Plan['sockets'] {
  const held = new Set(descriptors.map(({ link }) => /^socket:\[(\d+)\]$/.exec(link)?.[1]));
  return sockets
    .filter((socket) => held.has(String(socket.inode)) && socket.port > 0)
    .map(({ protocol, address, port }) => ({ protocol, address, port }));
}
