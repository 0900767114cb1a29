/** The checkpoints before one, to which links "parent" lead, and how much of its memory is in which. */
import { existsSync, lstatSync, readdirSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { PAGE_BYTES } from './engine/engine.ts';
import { PhaulError } from './errors.ts';
import { readEntries } from './images.ts';

const PE_PARENT = 1;
const number = z.union([z.number(), z.string()]).transform(Number).default(0);
const pagemap = z.object({ nr_pages: number, compat_nr_pages: number, flags: number, in_parent: z.boolean().default(false) });

const PAGEMAP = /^(pagemap(?:-shmem)?-(\d+))\.img$/;
const PAGES = /^pages-\d+\.img$/;
const BLOCK_BYTES = 512;

export interface InspectedMemory {
  /** All pages that the image tells of. */
  bytes: number;
  /** Of these, that are in a checkpoint before. */
  parentBytes: number;
}

export interface InspectedLink {
  directory: string;
  /** What the link "parent" says that leads there; the first has none. */
  link?: string;
  /** A checkpoint can be restored, a pre-dump is memory alone. */
  kind: 'checkpoint' | 'pre-dump';
  /** Of processes. */
  pids: number[];
  /** Pages that were written there. */
  writtenBytes: number;
  /** Of the disk: less if a dedup has punched holes. */
  diskBytes: number;
}

/** `name` without ".img", such as "pagemap-12". */
export function memoryOf(directory: string, name: string): InspectedMemory {
  const memory = { bytes: 0, parentBytes: 0 };
  for (const { nr_pages, compat_nr_pages, flags, in_parent } of readEntries(directory, name, 'pagemap_entry', pagemap, 'pagemap_head')) {
    const bytes = (nr_pages || compat_nr_pages) * PAGE_BYTES;
    memory.bytes += bytes;
    memory.parentBytes += in_parent || (flags & PE_PARENT) !== 0 ? bytes : 0;
  }
  return memory;
}

function linkOf(directory: string, link: string | undefined): InspectedLink {
  const files = readdirSync(directory);
  if (!files.includes('inventory.img')) {
    throw new PhaulError('ERR_USAGE', `${directory} holds no checkpoint that was completed: inventory.img is missing.`);
  }
  const pagemaps = files.map((file) => PAGEMAP.exec(file)).filter((match) => match !== null);
  const memories = pagemaps.map(([, name = '']) => memoryOf(directory, name));
  return {
    directory,
    ...(link !== undefined && { link }),
    kind: files.includes('pstree.img') ? 'checkpoint' : 'pre-dump',
    pids: pagemaps.filter(([file]) => !file.startsWith('pagemap-shmem')).map(([, , pid]) => Number(pid)).toSorted((a, b) => a - b),
    writtenBytes: memories.reduce((sum, { bytes, parentBytes }) => sum + bytes - parentBytes, 0),
    diskBytes: files.filter((file) => PAGES.test(file)).reduce((sum, file) => sum + statSync(join(directory, file)).blocks * BLOCK_BYTES, 0),
  };
}

/** The directory itself first. */
export function inspectChain(directory: string): InspectedLink[] {
  const chain: InspectedLink[] = [];
  const seen = new Set<string>();
  let link: string | undefined;
  for (let at = directory; ; at = join(at, 'parent')) {
    if (!existsSync(at)) {
      throw new PhaulError('ERR_USAGE', chain.length === 0 ? `${at} doesn't exist.` : `${at} leads nowhere (to ${link ?? '?'}): the checkpoint before is missing.`);
    }
    const real = realpathSync(at);
    if (seen.has(real)) {
      throw new PhaulError('ERR_USAGE', `${at} leads back to ${real}: the chain of checkpoints has no first one.`);
    }
    seen.add(real);
    chain.push(linkOf(real, link));
    const parent = lstatSync(join(at, 'parent'), { throwIfNoEntry: false });
    if (parent === undefined) {
      return chain;
    }
    link = parent.isSymbolicLink() ? readlinkSync(join(at, 'parent')) : undefined;
  }
}
