/** What a process takes of a host's huge pages (hugetlb): all that its mappings have reserved, touched or not. */
import { stat } from 'node:fs/promises';
import { z } from 'zod';
import { kilobytes, parseFields, readProc } from '../proc.ts';
import type { Holder } from './files.ts';

export const hugePagesSchema = z.strictObject({
  /** Of one: 2 MiB, 1 GiB. */
  pageBytes: z.int().min(4096),
  /** At least so many are needed. */
  bytes: z.int().min(0),
});

export type HugePages = z.infer<typeof hugePagesSchema>;

/** Something that is there once, whoever maps it. */
interface Held extends HugePages {
  id: string;
}

/** Names of such memory, and of some other. Files of a mounted hugetlbfs are on the other host already. */
const MAY_BE_HUGE = /^\/(anon_hugepage|memfd:)/;

const HEAD = /^([0-9a-f]+)-([0-9a-f]+) ...([sp]) \S+ \S+ (\d+) +(\/.*)$/m;

/** Of the text of a process's smaps. A mapping takes its pages when it is made, one with MAP_NORESERVE when they are touched. */
export function parseHugeMappings(pid: number, smaps: string): Held[] {
  return smaps.split(/^(?=[0-9a-f]+-)/m).flatMap((text) => {
    const [, start = '', end = '', shared, inode, path = ''] = HEAD.exec(text) ?? [];
    const fields = parseFields(text);
    const flags = fields.get('VmFlags')?.split(' ') ?? [];
    if (!MAY_BE_HUGE.test(path) || !flags.includes('ht')) {
      return [];
    }
    const touched = kilobytes(fields.get('Private_Hugetlb')) + kilobytes(fields.get('Shared_Hugetlb'));
    return {
      id: shared === 's' ? `inode ${inode}` : `pid ${pid} ${start}`,
      pageBytes: kilobytes(fields.get('KernelPageSize')),
      bytes: flags.includes('nr') ? touched : Number(BigInt(`0x${end}`) - BigInt(`0x${start}`)),
    };
  });
}

/** stat() gives sizes in these. */
const BLOCK_BYTES = 512;

/** Memfds may hold what nobody maps. */
async function descriptorsOf({ pid, descriptors }: Holder, smallBytes: number): Promise<Held[]> {
  const memfds = descriptors.filter(({ link }) => link.startsWith('/memfd:')).map(async ({ fd }) => {
    const info = await stat(`/proc/${pid}/fd/${fd}`).catch(() => undefined);
    return info === undefined || info.blksize <= smallBytes ? [] : { id: `inode ${info.ino}`, pageBytes: info.blksize, bytes: info.blocks * BLOCK_BYTES };
  });
  return (await Promise.all(memfds)).flat();
}

/** smaps are read only where there may be huge pages: it takes 10 ms per GiB. */
async function mappingsOf({ pid, mappings }: Holder): Promise<Held[]> {
  if (!mappings.some(({ path }) => MAY_BE_HUGE.test(path))) {
    return [];
  }
  return parseHugeMappings(pid, (await readProc(pid, 'smaps').catch(() => Buffer.of())).toString());
}

/** Of what is mapped or held more than once the largest counts. */
export function sumHugePages(all: Held[]): HugePages[] {
  const largest = new Map<string, Held>();
  for (const held of all) {
    if (held.bytes >= (largest.get(held.id)?.bytes ?? 0)) {
      largest.set(held.id, held);
    }
  }
  const sums = new Map<number, number>();
  for (const { pageBytes, bytes } of largest.values()) {
    sums.set(pageBytes, (sums.get(pageBytes) ?? 0) + bytes);
  }
  return [...sums].map(([pageBytes, bytes]) => ({ pageBytes, bytes }));
}

export async function collectHugePages(holders: Holder[], smallBytes: number): Promise<HugePages[]> {
  const all = await Promise.all(holders.flatMap((holder) => [mappingsOf(holder), descriptorsOf(holder, smallBytes)]));
  return sumHugePages(all.flat());
}
