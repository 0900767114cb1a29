/**
 * The thread that traces. ptrace belongs to the OS thread that seized, so that all calls of one migration on
 * one side are made by one Worker, synchronously; the main thread hears of it by messages, and speaks to it
 * through a latch and by aborting the page channel.
 */
import { Worker } from 'node:worker_threads';
import { asPhaulError, isErrorCode, PhaulError, type Obstacle } from '../errors.ts';
import { engine } from './library.ts';

const OPEN = 0;
const CANCELLED = 1;
const DECIDED = 2;

/** Shared between both threads: cancelling and passing the point of no return exclude each other. */
export class Latch {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(8)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
  }

  /** False if it is too late. */
  cancel(): boolean {
    const before = Atomics.compareExchange(this.#words, 0, OPEN, CANCELLED);
    return before !== DECIDED;
  }

  /** False if it was cancelled. */
  decide(): boolean {
    return Atomics.compareExchange(this.#words, 0, OPEN, DECIDED) !== CANCELLED;
  }

  get cancelled(): boolean {
    return Atomics.load(this.#words, 0) === CANCELLED;
  }

  /** What the main thread wants of a tracer that waits; not 0. */
  order(what: number): void {
    Atomics.store(this.#words, 1, what);
    Atomics.notify(this.#words, 1);
  }

  /** The last order, 0 if there is none yet. */
  get ordered(): number {
    return Atomics.load(this.#words, 1);
  }

  waitForOrder(timeoutMs: number): number {
    Atomics.wait(this.#words, 1, 0, timeoutMs);
    return this.ordered;
  }
}

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

export interface TracerData<D> {
  latch: SharedArrayBuffer;
  data: D;
}

/** For the Worker: an error that keeps its code on its way to the main thread. */
export function failureOf(thrown: unknown): Failure {
  const { code, message, obstacles } = asPhaulError(thrown);
  return { code, message, obstacles };
}

export class Tracer<M, R> {
  readonly latch = new Latch();
  /** What the Worker's module returned. */
  readonly result: Promise<R>;
  #channel: bigint | undefined;
  readonly #port: Promise<number>;

  constructor(module: URL, data: unknown, onNews: (news: M) => void) {
    const worker = new Worker(module, { workerData: { latch: this.latch.buffer, data } satisfies TracerData<unknown> });
    let tellPort: (port: number) => void = () => {};
    this.#port = new Promise((resolve) => {
      tellPort = resolve;
    });
    this.result = new Promise((resolve, reject) => {
      worker.on('message', (message: TracerMessage<M>) => {
        if (message.type === 'channel') {
          this.#channel = message.address === 0n ? undefined : message.address;
          tellPort(message.port);
          if (this.latch.cancelled) {
            this.#abort();
          }
        } else if (message.type === 'news') {
          onNews(message.news);
        } else if (message.type === 'result') {
          resolve(message.result as R);
        } else {
          const { code, message: sentence, obstacles } = message.failure;
          reject(new PhaulError(isErrorCode(code) ? code : 'ERR_BUG', sentence, { obstacles }));
        }
      });
      worker.on('error', (error) => reject(asPhaulError(error)));
      worker.on('exit', (code) => reject(new PhaulError('ERR_BUG', `The tracing thread ended with ${code} and no word.`)));
    });
    this.result.catch(() => {});
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

  #abort(): void {
    if (this.#channel !== undefined) {
      engine.abort(this.#channel);
    }
  }
}
