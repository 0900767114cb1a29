/** Files that go along, by the library. */
import type { LibraryChannel } from './channel.ts';
import type { Files, FileToSend, ReceivedFiles } from './engine.ts';
import { Handle, must, native, open } from './library.ts';

const FILE_MARKS = { steady: 'r', changing: 'w', same: '=' } as const;

class LibraryFiles extends Handle implements Files {
  send(channel: LibraryChannel, pid: number, bytesPerSecond: number): number {
    const bytes = [0];
    must((error) => native().filesSend(this.pointer, channel.pointer, pid, bytesPerSecond, bytes, error));
    return Number(bytes[0] ?? 0);
  }
}

class LibraryReceivedFiles extends Handle implements ReceivedFiles {
  receive(channel: LibraryChannel): void {
    must((error) => native().receivedFilesReceive(this.pointer, channel.pointer, error));
  }

  keep(): void {
    native().receivedFilesKeep(this.pointer);
  }
}

export function openFiles(files: FileToSend[]): Files {
  const list = Buffer.from(files.map(({ path, how }) => `${FILE_MARKS[how]}${path}\0`).join(''));
  return new LibraryFiles(open((ret, error) => native().filesOpen(list, list.length, ret, error)), (pointer) => native().filesClose(pointer));
}

export function openReceivedFiles(replaceable: string[], log: string): ReceivedFiles {
  const list = Buffer.from(replaceable.map((path) => `${path}\0`).join(''));
  return new LibraryReceivedFiles(open((ret, error) => native().receivedFilesOpen(list, list.length, log, ret, error)), (pointer) => native().receivedFilesClose(pointer));
}

export const settleFiles = (log: string, keep: boolean): void => void must((error) => native().receivedFilesSettle(log, Number(keep), error));
