/** A process tree in a directory, and back: what a migration does, without another host and without rounds. */
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { cgroupText } from './cgroups.ts';
import { localFindings } from './check.ts';
import { PAGE_BYTES, type Restored } from './engine/engine.ts';
import { engine } from './engine/library.ts';
import { PhaulError } from './errors.ts';
import { plural } from './events.ts';
import type { DumpOptions, RestoreOptions } from './options.ts';

const FREEZE_TIMEOUT_MS = 10_000;
const IMAGE = /\.img$/;

export interface Dumped {
  pid: number;
  directory: string;
  processes: number;
  bytes: number;
  frozenMs: number;
}

const imagesIn = (directory: string): string[] => readdirSync(directory).filter((name) => IMAGE.test(name));

/** The images of half a process are of no use, and in the way of the next try. */
function removeImages(directory: string): void {
  for (const name of imagesIn(directory)) {
    rmSync(join(directory, name), { force: true });
  }
}

function openEmpty(directory: string): number {
  try {
    if (!existsSync(directory)) {
      mkdirSync(directory, { mode: 0o700 }); // not recursive, which never returns below /proc
    }
    if (imagesIn(directory).length > 0) {
      throw new PhaulError('ERR_USAGE', `${directory} holds images already: name another directory, or remove them.`);
    }
    return openSync(directory, 'r');
  } catch (thrown) {
    throw thrown instanceof PhaulError ? thrown : new PhaulError('ERR_USAGE', `${directory} can't be used for images: ${(thrown as Error).message}.`, { cause: thrown });
  }
}

/** Whatever fails leaves the process running as before, and no images. */
export function dump({ pid, directory, tcp, leaveRunning, cgroups, ...others }: DumpOptions): Dumped {
  const flags = { tcpClose: tcp === 'close', tcpEstablished: tcp === 'established', ...others };
  const { obstacles } = localFindings(pid, { ...flags, toDirectory: true });
  if (obstacles.length > 0) {
    throw new PhaulError('ERR_OBSTACLES', `Process ${pid} on ${hostname()} can't be written to a directory: ${plural(obstacles.length, 'obstacle')}.`, { obstacles });
  }
  const fd = openEmpty(directory);
  try {
    const { pages, processes, frozenMs } = engine.dump(pid, fd, { ...flags, leaveRunning }, cgroupText(cgroups), FREEZE_TIMEOUT_MS);
    return { pid, directory, processes, bytes: pages * PAGE_BYTES, frozenMs };
  } catch (thrown) {
    removeImages(directory);
    throw thrown;
  } finally {
    closeSync(fd);
  }
}

export function restore({ directory, tcp, cgroups }: RestoreOptions): Restored {
  let fd: number;
  try {
    fd = openSync(directory, 'r');
  } catch (cause) {
    throw new PhaulError('ERR_USAGE', `${directory} can't be read: ${(cause as Error).message}.`, { cause });
  }
  try {
    if (!imagesIn(directory).includes('pstree.img')) {
      throw new PhaulError('ERR_USAGE', `${directory} holds no checkpoint: pstree.img is missing.`);
    }
    return engine.restore(fd, { tcpClose: tcp === 'close' }, cgroupText(cgroups));
  } finally {
    closeSync(fd);
  }
}
