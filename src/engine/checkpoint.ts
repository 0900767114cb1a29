/** Trees to a directory and back, by the library. */
import type { Checkpoint, Engine, Outcome, Restoring, Written } from './engine.ts';
import { pointerOf } from './channel.ts';
import { flagBits, LEAVE_STOPPED } from './flags.ts';
import { Handle, ms, must, native, open, said, type Numbers, type Pointer } from './library.ts';

const OUTCOMES: Record<Outcome, number> = { abandon: 0, run: 1, stop: 2, kill: 3 };

type RawWritten = Numbers<'pages' | 'written' | 'processes' | 'threads'>;

const asWritten = ({ pages, written, processes, threads }: RawWritten): Written => ({ processes, threads, pages: Number(pages), written: Number(written) });

class LibraryCheckpoint implements Checkpoint {
  #pointer: Pointer;

  constructor(pointer: Pointer) {
    this.#pointer = pointer;
  }

  write(): Written {
    const raw = {} as RawWritten;
    must((error) => native().checkpointWrite(this.#pointer, raw, error));
    return asWritten(raw);
  }

  close(outcome: Outcome): number {
    const pointer = this.#pointer;
    this.#pointer = null;
    const frozen = [0];
    must((error) => native().checkpointClose(pointer, OUTCOMES[outcome], frozen, error));
    return ms(frozen[0] ?? 0);
  }
}

class LibraryRestoring extends Handle implements Restoring {
  readonly pid: number;

  constructor(pointer: Pointer, pid: number) {
    super(pointer, (freed) => native().restoreClose(freed));
    this.pid = pid;
  }

  release(stopped: boolean): void {
    must((error) => native().restoreRelease(this.pointer, stopped ? LEAVE_STOPPED : 0, error));
  }

  said(): string[] {
    return said((buffer) => native().restoreSaid(this.pointer, buffer, buffer.length));
  }
}

export const openCheckpoint: Engine['openCheckpoint'] = (pid, directory, server, flags, cgroups, timeoutMs) =>
  new LibraryCheckpoint(open((ret, error) => native().checkpointOpen(pid, directory, pointerOf(server), flagBits(flags), cgroups, timeoutMs, ret, error)));

export const preDump: Engine['preDump'] = (pid, directory, server) => {
  const raw = {} as RawWritten;
  must((error) => native().predump(pid, directory, pointerOf(server), raw, error));
  return asWritten(raw);
};

export const receivePages: Engine['receivePages'] = (channel, directory) => {
  const bytes = [0];
  must((error) => native().pageServer(pointerOf(channel), directory, bytes, error));
  return Number(bytes[0] ?? 0);
};

export const dedup: Engine['dedup'] = (directory) => {
  const pages = [0];
  must((error) => native().dedup(directory, pages, error));
  return Number(pages[0] ?? 0);
};

export const dumpCpu: Engine['dumpCpu'] = (directory) => void must((error) => native().cpuinfoDump(directory, error));

export const checkCpu: Engine['checkCpu'] = (directory, { registers, instructions, same }) =>
  void must((error) => native().cpuinfoCheck(directory, (registers ? 1 : 0) | (instructions ? 2 : 0) | (same ? 4 : 0), error));

export const openRestore: Engine['openRestore'] = (directory, flags, cgroups) => {
  const pid = [0];
  const pointer = open((ret, error) => native().restoreOpen(directory, flagBits(flags), cgroups, ret, pid, error));
  return new LibraryRestoring(pointer, pid[0] ?? 0);
};
