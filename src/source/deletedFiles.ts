/** Files without a name that are in use: their content goes along, and has to fit where they were. */
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { BLOCK_BYTES, DELETED, mapFile, type Holder } from './files.ts';

export const deletedFilesSchema = z.strictObject({
  /** Where they had their names, and are made again. */
  directory: z.string().startsWith('/').max(4096),
  /** What they take of the disk, holes left out. */
  bytes: z.int().min(0),
});

export type DeletedFiles = z.infer<typeof deletedFilesSchema>;

/** These look the same, and are memory. */
const isMemory = (path: string): boolean => /^\/(memfd:|dev\/zero|SYSV|\[aio\]|anon_hugepage)/.test(path);

interface Use {
  path: string;
  source: string;
}

const usesOf = (holder: Holder): Use[] => [
  ...holder.mappings.map((mapping) => ({ path: mapping.path, source: mapFile(holder.pid, mapping) })),
  ...holder.descriptors.map(({ fd, link }) => ({ path: link, source: `/proc/${holder.pid}/fd/${fd}` })),
  { path: holder.exe, source: `/proc/${holder.pid}/exe` },
];

/** One entry a directory. What has another name (a hard link) is opened by that. */
export async function collectDeletedFiles(holders: Holder[]): Promise<DeletedFiles[]> {
  const seen = new Set<string>();
  const bytes = new Map<string, number>();
  for (const { path, source } of holders.flatMap(usesOf)) {
    const info = path.startsWith('/') && path.endsWith(DELETED) && !isMemory(path) ? await stat(source).catch(() => undefined) : undefined;
    const id = `${info?.dev}:${info?.ino}`;
    if (info === undefined || !info.isFile() || info.nlink > 0 || seen.has(id)) {
      continue;
    }
    seen.add(id);
    const directory = dirname(path);
    bytes.set(directory, (bytes.get(directory) ?? 0) + info.blocks * BLOCK_BYTES);
  }
  return [...bytes].map(([directory, sum]) => ({ directory, bytes: sum }));
}
