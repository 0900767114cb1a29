/**
 * Remote system calls by themselves: borrow the main thread of another process, make calls in it, and give it back as it was.
 * It takes root (CAP_SYS_PTRACE). All calls are synchronous, and those of one Remote belong to the OS thread that has attached.
 *
 *   using remote = Remote.attach(pid);
 *   const pid = remote.call(39);                         // getpid() there; >= 0 or -errno
 *   const at = remote.map(4096);
 *   remote.write(at, Buffer.from('/etc/hostname\\0'));
 *   const fd = remote.call(257, -100, at, 0);            // openat(AT_FDCWD, ..., O_RDONLY)
 *   const own = remote.takeDescriptor(Number(fd));
 *   remote.unmap(at, 4096);
 *
 * While it is attached, signals wait. If this program dies the process goes on; one that is in the middle of a call then is
 * lost, which takes 20 us a call (a batch isn't).
 */
import { engine } from './engine/libphaul.ts';
import type { RemoteThread } from './engine/remoteThread.ts';
import { PhaulError } from './errors.ts';

/** Numbers of linux/x86_64, asm/unistd_64.h. */
const SYS_MMAP = 9;
const SYS_MUNMAP = 11;

export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;

const MAP_PRIVATE_ANONYMOUS = 0x22;

export type Word = number | bigint;

export interface Call {
  nr: number;
  args: Word[];
}

const wordsOf = (args: Word[]): bigint[] => args.map(BigInt);

export class Remote implements Disposable {
  readonly pid: number;
  #thread: RemoteThread | undefined;

  private constructor(pid: number) {
    this.pid = pid;
    this.#thread = engine.attach(pid);
  }

  static attach(pid: number): Remote {
    return new Remote(pid);
  }

  get #attached(): RemoteThread {
    if (this.#thread === undefined) {
      throw new PhaulError('ERR_BUG', `Process ${this.pid} is detached already.`);
    }
    return this.#thread;
  }

  /** One system call: what the kernel answers, >= 0 or -errno. */
  call(nr: number, ...args: Word[]): bigint {
    return this.#attached.call(nr, wordsOf(args));
  }

  /** Many in one stop: 0.2 us each where a single one takes 20. */
  batch(calls: Call[]): bigint[] {
    return this.#attached.batch(calls.map(({ nr, args }) => ({ nr, args: wordsOf(args) })));
  }

  /** Fresh memory there, in whole pages. */
  map(bytes: number, protection: number = PROT_READ | PROT_WRITE): bigint {
    const at = this.call(SYS_MMAP, 0, bytes, protection, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (at < 0n) {
      throw new PhaulError('ERR_ENGINE', `Process ${this.pid} can't map ${bytes} bytes: error ${-at}.`);
    }
    return at;
  }

  unmap(at: bigint, bytes: number): void {
    this.call(SYS_MUNMAP, at, bytes);
  }

  /** Whatever the protection of the memory says. */
  read(at: bigint, bytes: number): Buffer {
    return this.#attached.read(at, bytes);
  }

  write(at: bigint, bytes: Uint8Array): void {
    this.#attached.write(at, bytes);
  }

  /** A descriptor of this process for what is open there. */
  takeDescriptor(fd: number): number {
    return this.#attached.take(fd);
  }

  /** Calls position-independent machine code as a function of one argument, on a stack of its own. It must return. */
  run(code: Uint8Array, argument: Word = 0): bigint {
    return this.#attached.run(code, BigInt(argument));
  }

  /** The process goes on as it was. */
  detach(): void {
    this.#thread?.close();
    this.#thread = undefined;
  }

  [Symbol.dispose](): void {
    this.detach();
  }
}
