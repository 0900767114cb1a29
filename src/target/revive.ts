/** The last steps: held, then, at the source's word, let go. */
import { engine } from '../engine/libphaul.ts';
import { NOTE_PACKETS, type Channel, type Target } from '../engine/engine.ts';
import type { Latch } from '../engine/latch.ts';
import { ABORT, COMMIT, RUNNING, say, STRAGGLERS_MS } from '../notes.ts';

/** Orders of the main thread, which the source, or an operator, reached by way of control. */
export const ORDERS = { commit: 1, abort: 2 } as const;

/** Between two looks whether an order came another way. */
const LISTEN_MS = 500;
/** The source sends them some ms after it has heard that the process runs. */
const STRAGGLER_TIMEOUT_MS = 1_000;
const FOREVER_MS = 2 ** 31 - 1;

/** What the source has to say of a process that is held, by whichever way it comes: no time-out may lose it. */
export class Word {
  readonly #target: Target;
  readonly #channel: Channel;
  readonly #latch: Latch;
  readonly #sayings: string[];
  #linked = true;

  /** `sayings`: for the operator, beside the engine's. */
  constructor(target: Target, channel: Channel, latch: Latch, sayings: string[]) {
    this.#target = target;
    this.#channel = channel;
    this.#latch = latch;
    this.#sayings = sayings;
  }

  /** Packets that go along are kept. */
  next(): 'commit' | 'abort' {
    for (;;) {
      const order = this.#latch.takeOrder(this.#linked ? 0 : FOREVER_MS);
      if (order === ORDERS.commit || order === ORDERS.abort) {
        return order === ORDERS.commit ? 'commit' : 'abort';
      }
      try {
        const { kind, payload } = (this.#linked ? this.#channel.receive(LISTEN_MS) : undefined) ?? {};
        if (kind === NOTE_PACKETS && payload !== undefined) {
          this.#target.packets(payload);
        }
        if (kind === COMMIT || kind === ABORT) {
          return kind === COMMIT ? 'commit' : 'abort';
        }
      } catch {
        this.#linked = false;
        engine.setPriority('normal');
      }
    }
  }

  /** The process runs; a source that can't be told asks by way of control. */
  answer(releaseMs: number): void {
    try {
      say(this.#channel, RUNNING, { releaseMs, said: [...this.#target.said(), ...this.#sayings] });
    } catch {
      this.#linked = false;
    }
  }

  /** Packets that came to the source after the release: they are late already. */
  takeStragglers(): void {
    try {
      for (const _ of this.#linked ? STRAGGLERS_MS : []) {
        const note = this.#channel.receive(STRAGGLER_TIMEOUT_MS);
        if (note?.kind === NOTE_PACKETS) {
          this.#target.packets(note.payload);
        }
      }
    } catch {
      // The source has nothing more to say.
    }
  }
}

/** Returns how long it took. */
export function letGo(target: Target): number {
  const startMs = engine.nowMs();
  target.release();
  return engine.nowMs() - startMs;
}
