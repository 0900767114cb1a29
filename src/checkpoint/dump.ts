/** A process tree into a directory: what a migration does, without another host and without rounds. */
import { closeSync } from 'node:fs';
import { hostname } from 'node:os';
import { cgroupText } from '../cgroups.ts';
import { localFindings } from '../check.ts';
import { PAGE_BYTES, type Channel, type CheckFlags, type Checkpoint, type Written } from '../engine/engine.ts';
import { engine } from '../engine/libphaul.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { plural } from '../events.ts';
import type { DumpOptions, PreDumpOptions } from '../options.ts';
import type { PageWay } from '../pageServer/client.ts';
import { STREAMS } from '../pageServer/words.ts';
import { ActionScripts } from './actionScripts.ts';
import { dedup } from './dedup.ts';
import { openEmpty, removeImages } from './directory.ts';

const FREEZE_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 10_000;

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

/** Whatever fails leaves no images. The checkpoint before a page server's is with that. */
function into<T>({ directory, previous, autoDedup }: PreDumpOptions, way: PageWay | undefined, write: (fd: number) => T): T {
  const fd = openEmpty(directory, way === undefined ? previous : undefined);
  let written: T;
  try {
    written = write(fd);
  } catch (thrown) {
    removeImages(directory);
    throw thrown;
  } finally {
    closeSync(fd);
  }
  if (autoDedup && previous !== undefined && way === undefined) {
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

const flagsOf = ({ tcp, linkRemap, fileLocks, skipInFlight }: DumpOptions): CheckFlags => ({
  tcpClose: tcp === 'close',
  tcpEstablished: tcp === 'established',
  linkRemap,
  fileLocks,
  skipInFlight,
  toDirectory: true,
});

/** Fails with all that is in the way of a dump. */
export function requireDumpable(options: DumpOptions): void {
  const { pid } = options;
  const { obstacles } = localFindings(pid, flagsOf(options));
  if (obstacles.length > 0) {
    throw new PhaulError('ERR_OBSTACLES', `Process ${pid} on ${hostname()} can't be written to a directory: ${plural(obstacles.length, 'obstacle')}.`, { obstacles });
  }
}

/** With the channel to a page server, if there is one. */
function connected<T>(way: PageWay | undefined, use: (server: Channel | undefined) => T): T {
  if (way === undefined) {
    return use(undefined);
  }
  const { host, address, port, key } = way;
  let channel: Channel | undefined;
  try {
    channel = engine.connect(address, port, key, STREAMS, CONNECT_TIMEOUT_MS);
    return use(channel);
  } catch (thrown) {
    const { code, message } = asPhaulError(thrown);
    throw channel !== undefined && code !== 'ERR_LINK_LOST' ? thrown : new PhaulError('ERR_LINK_LOST', `The way to ${host}, where the pages go, ended: ${message}`, { cause: thrown });
  } finally {
    channel?.close();
  }
}

/** `way`: to a page server, where everything goes, too. Nothing speaks against it. */
export function writeDump(options: DumpOptions, warn: (sentence: string) => void, way?: PageWay): Dumped {
  const { pid, directory } = options;
  return into(options, way, (fd) => {
    const scripts = new ActionScripts(options.actionScripts, directory, warn);
    scripts.pid = pid;
    scripts.run('pre-dump');
    return connected(way, (server) =>
      freezeAndWrite(options, engine.openCheckpoint(pid, fd, server, flagsOf(options), cgroupText(options.cgroups), FREEZE_TIMEOUT_MS), scripts),
    );
  });
}

/** Whatever fails leaves the process running as before, and no images. */
export function dump(options: DumpOptions, warn: (sentence: string) => void): Dumped {
  requireDumpable(options);
  return writeDump(options, warn);
}

/** The memory of processes that go on running: what a dump that follows finds here, and unchanged, it does not write again. */
export function preDump(options: PreDumpOptions, way?: PageWay): PreDumped {
  const { pid, directory } = options;
  return into(options, way, (fd) =>
    connected(way, (server) => {
      const { pages, written } = engine.preDump(pid, fd, server);
      return { pid, directory, bytes: pages * PAGE_BYTES, writtenBytes: written * PAGE_BYTES };
    }),
  );
}
