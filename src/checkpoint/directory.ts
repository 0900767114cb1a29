/** The directory of a checkpoint, and the one before it that a link "parent" in it leads to. */
import { closeSync, existsSync, lstatSync, mkdirSync, openSync, readdirSync, readlinkSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { PhaulError } from '../errors.ts';

const IMAGE = /\.img$/;
const PARENT = 'parent';

const usage = (sentence: string, cause?: unknown): PhaulError => new PhaulError('ERR_USAGE', sentence, { cause });

export const imagesIn = (directory: string): string[] => readdirSync(directory).filter((name) => IMAGE.test(name));

/** What a dump left that failed is of no use, and in the way of the next try. */
export function removeImages(directory: string): void {
  for (const name of [...imagesIn(directory), PARENT]) {
    rmSync(join(directory, name), { force: true });
  }
}

function requireEmpty(directory: string): void {
  const images = imagesIn(directory);
  if (images.length > 0) {
    throw usage(
      images.includes('inventory.img')
        ? `${directory} holds images already: name another directory, or remove them.`
        : `${directory} holds images of a dump that was not completed: name another directory, or remove them.`,
    );
  }
  if (lstatSync(join(directory, PARENT), { throwIfNoEntry: false }) !== undefined) {
    throw usage(`${directory} has a link "${PARENT}" already, to ${readlinkSync(join(directory, PARENT))}: remove it, and name the checkpoint before with --prev-images-dir.`);
  }
}

/** `previous` is seen from `directory`, as criu has it. */
function linkParent(directory: string, previous: string): void {
  const parent = resolve(directory, previous);
  const found = statSync(parent, { throwIfNoEntry: false });
  if (found === undefined || !found.isDirectory()) {
    const meant = existsSync(resolve(previous)) ? ` (--prev-images-dir is relative to the image directory, not to where phaul is run: ${resolve(previous)} does exist)` : '';
    throw usage(`${parent}, the checkpoint before by --prev-images-dir ${previous}, is no directory${meant}.`);
  }
  if (!existsSync(join(parent, 'inventory.img'))) {
    throw usage(`${parent}, the checkpoint before by --prev-images-dir ${previous}, holds no images that were completed: inventory.img is missing.`);
  }
  symlinkSync(previous, join(directory, PARENT));
}

/** Opens it for a dump that is to follow `previous`, if there is one. */
export function openEmpty(directory: string, previous: string | undefined): number {
  try {
    if (!existsSync(directory)) {
      mkdirSync(directory, { mode: 0o700 }); // not recursive, which never returns below /proc
    }
    requireEmpty(directory);
    const fd = openSync(directory, 'r');
    if (previous !== undefined) {
      linkParent(directory, previous);
    }
    return fd;
  } catch (thrown) {
    throw thrown instanceof PhaulError ? thrown : usage(`${directory} can't be used for images: ${(thrown as Error).message}.`, thrown);
  }
}

/** For what reads one: fails if there is no checkpoint. */
export function withCheckpoint<T>(directory: string, use: (fd: number) => T): T {
  let fd: number;
  try {
    fd = openSync(directory, 'r');
  } catch (cause) {
    throw usage(`${directory} can't be read: ${(cause as Error).message}.`, cause);
  }
  try {
    const images = imagesIn(directory);
    if (!images.includes('pstree.img')) {
      throw usage(
        images.includes('inventory.img')
          ? `${directory} holds a pre-dump, which is memory alone: restore the dump that follows it.`
          : `${directory} holds no checkpoint: pstree.img is missing.`,
      );
    }
    return use(fd);
  } finally {
    closeSync(fd);
  }
}
