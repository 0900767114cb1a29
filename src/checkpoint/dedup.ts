/** The disk that old pages take is freed. */
import { closeSync, openSync } from 'node:fs';
import { PAGE_BYTES } from '../engine/engine.ts';
import { engine } from '../engine/libphaul.ts';
import { PhaulError } from '../errors.ts';

/** Of what checkpoints before `directory` hold: pages that it has newer ones of. They are good for this one only, afterwards. Returns how many bytes. */
export function dedup(directory: string): number {
  let fd: number;
  try {
    fd = openSync(directory, 'r');
  } catch (cause) {
    throw new PhaulError('ERR_USAGE', `${directory} can't be read: ${(cause as Error).message}.`, { cause });
  }
  try {
    return engine.dedup(fd) * PAGE_BYTES;
  } finally {
    closeSync(fd);
  }
}
