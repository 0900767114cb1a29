/** The main thread of another process, borrowed: what src/remote.ts is made of. */
import { Handle, must, native, open } from './library.ts';

export interface RemoteThread {
  call(nr: number, args: bigint[]): bigint;
  batch(calls: { nr: number; args: bigint[] }[]): bigint[];
  read(at: bigint, size: number): Buffer;
  write(at: bigint, bytes: Uint8Array): void;
  take(fd: number): number;
  run(code: Uint8Array, argument: bigint): bigint;
  /** Detaches. */
  close(): void;
}

const WORDS_A_CALL = 7;

class LibraryRemoteThread extends Handle implements RemoteThread {
  call(nr: number, args: bigint[]): bigint {
    const ret = new BigInt64Array(1);
    must((error) => native().remoteCall(this.pointer, nr, wordsOf(args), ret, error));
    return ret[0] ?? 0n;
  }

  batch(calls: { nr: number; args: bigint[] }[]): bigint[] {
    const words = new BigUint64Array(calls.length * WORDS_A_CALL);
    calls.forEach(({ nr, args }, i) => words.set([BigInt(nr), ...wordsOf(args)], i * WORDS_A_CALL));
    const ret = new BigInt64Array(calls.length);
    must((error) => native().remoteBatch(this.pointer, words, calls.length, ret, error));
    return [...ret];
  }

  read(at: bigint, size: number): Buffer {
    const bytes = Buffer.alloc(size);
    must((error) => native().remoteRead(this.pointer, at, bytes, size, error));
    return bytes;
  }

  write(at: bigint, bytes: Uint8Array): void {
    must((error) => native().remoteWrite(this.pointer, at, bytes, bytes.length, error));
  }

  take(fd: number): number {
    return must((error) => native().remoteTake(this.pointer, fd, error));
  }

  run(code: Uint8Array, argument: bigint): bigint {
    const ret = new BigUint64Array(1);
    must((error) => native().remoteRun(this.pointer, code, code.length, BigInt.asUintN(64, argument), ret, error));
    return ret[0] ?? 0n;
  }
}

/** Negative ones as the kernel takes them. */
const wordsOf = (args: bigint[]): BigUint64Array => BigUint64Array.from({ length: WORDS_A_CALL - 1 }, (_, i) => BigInt.asUintN(64, args[i] ?? 0n));

export const attach = (pid: number): RemoteThread =>
  new LibraryRemoteThread(open((ret, error) => native().remoteAttach(pid, ret, error)), (pointer) => void must((error) => native().remoteDetach(pointer, error)));
