/** TCP connections, one by one: what src/tcp.ts is made of. */
import { Handle, must, native, open } from './library.ts';

/** Drops the packets of connections until it is closed, or its process ends. */
export interface TcpLock {
  add(fd: number): void;
  close(): void;
}

export interface TcpConnections {
  pause(fd: number): void;
  /** Of a paused socket. */
  save(fd: number): Buffer;
  /** A new socket, paused. */
  restore(saved: Uint8Array): number;
  resume(fd: number): void;
  lock(): TcpLock;
}

const TCP_BYTES = 1 << 18;

class LibraryTcpLock extends Handle implements TcpLock {
  add(fd: number): void {
    must((error) => native().tcpLockAdd(this.pointer, fd, error));
  }
}

export const tcp: TcpConnections = {
  pause: (fd) => void must((error) => native().tcpPause(fd, error)),
  save: (fd) => {
    let buffer = Buffer.alloc(TCP_BYTES);
    let size = Number(must((error) => Number(native().tcpSave(fd, buffer, buffer.length, error))));
    if (size > buffer.length) {
      buffer = Buffer.alloc(size);
      size = Number(must((error) => Number(native().tcpSave(fd, buffer, buffer.length, error))));
    }
    return buffer.subarray(0, size);
  },
  restore: (saved) => must((error) => native().tcpRestore(saved, saved.length, error)),
  resume: (fd) => void must((error) => native().tcpResume(fd, error)),
  lock: () => new LibraryTcpLock(open((ret, error) => native().tcpLockOpen(ret, error)), (pointer) => native().tcpLockClose(pointer)),
};
