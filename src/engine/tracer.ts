/**
 * The thread that traces. ptrace belongs to the OS thread that seized, so that all calls of one migration on
 * one side are made by one Worker, synchronously; the main thread hears of it by messages, and speaks to it
 * through a latch and by aborting the page channel.
 */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import { asPhaulError, isErrorCode, PhaulError, type Obstacle } from '../errors.ts';
import { Latch } from './latch.ts';
import { engine } from './libphaul.ts';

interface Failure {
  code: string;
  message: string;
  obstacles: Obstacle[];
}

export type TracerMessage<M> =
  | { type: 'channel'; address: bigint; port: number }
  | { type: 'news'; news: M }
  | { type: 'result'; result: unknown }
  | { type: 'failure'; failure: Failure };

/** For the Worker: an error that keeps its code on its way to the main thread. */
export function failureOf(thrown: unknown): Failure {
  const { code, message, obstacles } = asPhaulError(thrown);
  return { code, message, obstacles };
}

/**
 * Workers that have done what they were told to, by their modules: the next finds them loaded, and koffi never gives back the 40 KiB of a
 * thread that has ended. One that failed isn't asked again: its end gives back what it had of other processes.
 */
const idle = new Map<string, Worker[]>();
const IDLE_MAX = 4;

/** After its termination a thread is given so long to leave the kernel. */
const HANG_MS = 2_000;

/** D: what the Worker is told, M: what it tells meanwhile, R: what it returns. */
export class Tracer<D, M, R> {
  readonly latch = new Latch();
  /** What the Worker's module returned. */
  readonly result: Promise<R>;
  readonly #url: string;
  readonly #worker: Worker;
  #isOurs = true;
  #hasBegun = false;
  #channel: bigint | undefined;
  readonly #port: Promise<number>;
  #fail: (why: PhaulError) => void = () => {};

  /**
   * The Worker is worker.ts beside the module `url`, or worker.js where phaul is installed as a package. It loads its
   * modules, which takes a while, and waits for begin().
   */
  constructor(url: string, onNews: (news: M) => void) {
    const worker = idle.get(url)?.pop() ?? new Worker(new URL(`worker${extname(url)}`, url));
    worker.removeAllListeners();
    worker.ref();
    this.#url = url;
    this.#worker = worker;
    let tellPort: (port: number) => void = () => {};
    this.#port = new Promise((resolve) => {
      tellPort = resolve;
    });
    this.result = new Promise((resolve, reject) => {
      this.#fail = reject;
      worker.on('message', (message: TracerMessage<M>) => {
        if (message.type === 'channel') {
          this.#channel = message.address;
          tellPort(message.port);
          if (this.latch.cancelled) {
            this.#abort();
          }
        } else if (message.type === 'news') {
          onNews(message.news);
        } else if (message.type === 'result') {
          this.#giveBack();
          resolve(message.result as R);
        } else {
          const { code, message: sentence, obstacles } = message.failure;
          reject(new PhaulError(isErrorCode(code) ? code : 'ERR_BUG', sentence, { obstacles }));
        }
      });
      const ended = (why: string): void => {
        this.#isOurs = false; // nor anybody's: there is none to be given back
        reject(this.#ended(why));
      };
      worker.on('error', (error) => ended(asPhaulError(error).message));
      worker.on('exit', () => ended('it said nothing'));
    });
    this.result.catch(() => {});
  }

  begin(data: D): void {
    this.#hasBegun = true;
    this.#worker.postMessage({ latch: this.latch.buffer, data });
  }

  /** Where the channel listens; rejects if the Worker fails before. */
  async port(): Promise<number> {
    return Promise.race([this.#port, this.result.then(() => 0)]);
  }

  /** False if the point of no return is passed. Otherwise the Worker fails soon, and undoes what it did. */
  cancel(): boolean {
    if (!this.latch.cancel()) {
      return false;
    }
    this.#abort();
    return true;
  }

  /**
   * For a Worker that is not needed, or that doesn't react: the kernel undoes what its thread did to others. One that hangs in
   * the kernel (a disk that doesn't answer) can't be ended, and what it has stopped stands still: then all of phaul ends.
   */
  end(): void {
    if (!this.#isOurs) {
      return;
    }
    if (!this.#hasBegun) {
      this.#giveBack();
      return;
    }
    const timer = setTimeout(() => {
      this.#fail(this.#ended('it hangs in the kernel'));
      this.#worker.unref();
      process.once('exit', () => process.kill(process.pid, 'SIGKILL'));
    }, HANG_MS).unref();
    void this.#worker.terminate().then(() => clearTimeout(timer));
  }

  #giveBack(): void {
    const others = idle.get(this.#url) ?? [];
    this.#isOurs = false;
    this.#worker.removeAllListeners();
    if (others.length >= IDLE_MAX) {
      void this.#worker.terminate();
      return;
    }
    this.#worker.unref();
    idle.set(this.#url, [...others, this.#worker]);
    const forget = (): void => void idle.set(this.#url, (idle.get(this.#url) ?? []).filter((worker) => worker !== this.#worker));
    this.#worker.once('error', forget).once('exit', forget);
  }

  #abort(): void {
    const address = this.#channel;
    if (address !== undefined) {
      this.latch.withChannel(() => engine.abort(address));
    }
  }

  #ended(why: string): PhaulError {
    return new PhaulError(this.latch.decided ? 'ERR_UNKNOWN_OUTCOME' : 'ERR_BUG', `The tracing thread ended too early (${why}).`);
  }
}
