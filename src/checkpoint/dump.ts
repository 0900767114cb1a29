/** A process tree into a directory: what a migration does, without another host and without rounds. */
import { closeSync } from 'node:fs';
import { hostname } from 'node:os';
import { cgroupText } from '../cgroups.ts';
import { localFindings } from '../check.ts';
import { PAGE_BYTES, type Checkpoint, type Written } from '../engine/engine.ts';
import { engine } from '../engine/library.ts';
import { PhaulError } from '../errors.ts';
import { plural } from '../events.ts';
import type { DumpOptions, PreDumpOptions } from '../options.ts';
import { ActionScripts } from './actionScripts.ts';
import { dedup } from './dedup.ts';
import { openEmpty, removeImages } from './directory.ts';

const FREEZE_TIMEOUT_MS = 10_000;

export interface PreDumped {
  pid: number;
  directory: string;
  /** Of memory. */
  bytes: number;
  /** Of these; what the checkpoint before has the same isn't written again. */
  writtenBytes: number;
}

export interface Dumped extends PreDumped {
  processes: number;
  frozenMs: number;
}

/** Whatever fails leaves no images. */
function into<T>({ directory, previous, autoDedup }: PreDumpOptions, write: (fd: number) => T): T {
  const fd = openEmpty(directory, previous);
  let written: T;
  try {
    written = write(fd);
  } catch (thrown) {
    removeImages(directory);
    throw thrown;
  } finally {
    closeSync(fd);
  }
  if (autoDedup && previous !== undefined) {
    dedup(directory);
  }
  return written;
}

function write(checkpoint: Checkpoint, scripts: ActionScripts): Written {
  try {
    scripts.run('network-lock');
    const written = checkpoint.write();
    scripts.run('post-dump');
    return written;
  } catch (thrown) {
    checkpoint.close('abandon');
    throw thrown;
  }
}

function freezeAndWrite({ pid, directory, afterwards }: DumpOptions, checkpoint: Checkpoint, scripts: ActionScripts): Dumped {
  let goesOn = true;
  try {
    const { pages, written, processes } = write(checkpoint, scripts);
    const frozenMs = checkpoint.close(afterwards);
    goesOn = afterwards === 'run';
    return { pid, directory, processes, bytes: pages * PAGE_BYTES, writtenBytes: written * PAGE_BYTES, frozenMs };
  } finally {
    if (goesOn) {
      scripts.run('network-unlock');
    }
  }
}

/** Whatever fails leaves the process running as before, and no images. */
export function dump(options: DumpOptions, warn: (sentence: string) => void): Dumped {
  const { pid, directory, tcp, linkRemap, fileLocks, skipInFlight } = options;
  const flags = { tcpClose: tcp === 'close', tcpEstablished: tcp === 'established', linkRemap, fileLocks, skipInFlight, toDirectory: true };
  const { obstacles } = localFindings(pid, flags);
  if (obstacles.length > 0) {
    throw new PhaulError('ERR_OBSTACLES', `Process ${pid} on ${hostname()} can't be written to a directory: ${plural(obstacles.length, 'obstacle')}.`, { obstacles });
  }
  return into(options, (fd) => {
    const scripts = new ActionScripts(options.actionScripts, directory, warn);
    scripts.pid = pid;
    scripts.run('pre-dump');
    return freezeAndWrite(options, engine.openCheckpoint(pid, fd, flags, cgroupText(options.cgroups), FREEZE_TIMEOUT_MS), scripts);
  });
}

/** The memory of processes that go on running: what a dump that follows finds here, and unchanged, it does not write again. */
export function preDump(options: PreDumpOptions): PreDumped {
  const { pid, directory } = options;
  return into(options, (fd) => {
    const { pages, written } = engine.preDump(pid, fd);
    return { pid, directory, bytes: pages * PAGE_BYTES, writtenBytes: written * PAGE_BYTES };
  });
}
