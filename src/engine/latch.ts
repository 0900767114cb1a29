/** What the main thread and a tracing thread share, so that neither has to wait for the other to listen. */

/** Word 0: cancelling and passing the point of no return exclude each other. */
const DECISION = 0;
const OPEN = 0;
const CANCELLED = 1;
const DECIDED = 2;

/** Word 1: an order to a tracer that waits; 0 is none. */
const ORDER = 1;

/** Word 2: the channel must not be freed while the main thread aborts it. */
const CHANNEL = 2;
const ABSENT = 0;
const PRESENT = 1;
const IN_USE = 2;

const WORDS = 3;

export class Latch {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(WORDS * Int32Array.BYTES_PER_ELEMENT)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
  }

  /** False if it is too late. */
  cancel(): boolean {
    return Atomics.compareExchange(this.#words, DECISION, OPEN, CANCELLED) !== DECIDED;
  }

  /** False if it was cancelled. */
  decide(): boolean {
    return Atomics.compareExchange(this.#words, DECISION, OPEN, DECIDED) !== CANCELLED;
  }

  get cancelled(): boolean {
    return Atomics.load(this.#words, DECISION) === CANCELLED;
  }

  get decided(): boolean {
    return Atomics.load(this.#words, DECISION) === DECIDED;
  }

  /** What the main thread wants of a tracer that waits; not 0. A later order replaces one that wasn't taken. */
  order(what: number): void {
    Atomics.store(this.#words, ORDER, what);
    Atomics.notify(this.#words, ORDER);
  }

  /** The order that wasn't taken yet; 0 if there is none in time. */
  takeOrder(timeoutMs = 0): number {
    Atomics.wait(this.#words, ORDER, 0, timeoutMs);
    return Atomics.exchange(this.#words, ORDER, 0);
  }

  channelOpened(): void {
    Atomics.store(this.#words, CHANNEL, PRESENT);
  }

  /** Returns when the main thread doesn't use it, and won't any more. */
  channelClosing(): void {
    while (Atomics.compareExchange(this.#words, CHANNEL, PRESENT, ABSENT) === IN_USE) {
      Atomics.wait(this.#words, CHANNEL, IN_USE);
    }
  }

  /** Does nothing if there is no channel any more. */
  withChannel(use: () => void): void {
    if (Atomics.compareExchange(this.#words, CHANNEL, PRESENT, IN_USE) === PRESENT) {
      use();
      Atomics.store(this.#words, CHANNEL, PRESENT);
      Atomics.notify(this.#words, CHANNEL);
    }
  }
}
