/** The last steps: built and held, then, at the source's word, let go. */
import { engine } from '../engine/library.ts';
import { NOTE_PACKETS, type Channel, type Target } from '../engine/engine.ts';
import type { Latch } from '../engine/latch.ts';
import type { Tracing } from '../engine/tracing.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import type { Journal, TargetState } from '../journal.ts';
import { ABORT, COMMIT, fail, READY, RUNNING, say, STRAGGLERS_MS } from '../notes.ts';
import type { TargetNews, TargetOrder } from './worker.ts';

/** Orders of the main thread, which the source reached by way of control. */
export const RELEASE = 1;
export const DISCARD = 2;

/** Between two looks whether an order came another way. */
const LISTEN_MS = 500;
/** The source sends them some ms after it has heard that the process runs. */
const STRAGGLER_TIMEOUT_MS = 1_000;
const FOREVER_MS = 2 ** 31 - 1;

/** A held process waits for the source's word for as long as it takes: it must be lost by no time-out. */
class Word {
  readonly #channel: Channel;
  readonly #latch: Latch;
  #linked = true;

  constructor(channel: Channel, latch: Latch) {
    this.#channel = channel;
    this.#latch = latch;
  }

  /** `keep` takes the packets that go along. */
  next(keep: (packets: Buffer) => void): typeof RELEASE | typeof DISCARD {
    for (;;) {
      const order = this.#latch.takeOrder(this.#linked ? 0 : FOREVER_MS);
      if (order === RELEASE || order === DISCARD) {
        return order;
      }
      try {
        const { kind, payload } = (this.#linked ? this.#channel.receive(LISTEN_MS) : undefined) ?? {};
        if (kind === NOTE_PACKETS && payload !== undefined) {
          keep(payload);
        }
        if (kind === COMMIT || kind === ABORT) {
          return kind === COMMIT ? RELEASE : DISCARD;
        }
      } catch {
        this.#linked = false;
        engine.setPriority('normal');
      }
    }
  }
}

/** Returns when the source has committed, and that is on disk. Nothing but its abort discards what is held. */
function hold(target: Target, channel: Channel, journal: Journal<TargetState>, latch: Latch): void {
  const word = new Word(channel, latch);
  for (;;) {
    try {
      fault('target:ready-sent');
      if (word.next((packets) => target.packets(packets)) === DISCARD) {
        break;
      }
      fault('target:commit-received');
      journal.write('releasing');
      return;
    } catch (thrown) {
      fail(channel, asPhaulError(thrown)); // the source asks again, by way of control
    }
  }
  throw new PhaulError('ERR_INTERRUPTED', 'The source gave up before the commit.');
}

/** Packets that came to the source after the release: they are late already. */
function takeStragglers(target: Target, channel: Channel): void {
  try {
    for (const _ of STRAGGLERS_MS) {
      const note = channel.receive(STRAGGLER_TIMEOUT_MS);
      if (note?.kind === NOTE_PACKETS) {
        target.packets(note.payload);
      }
    }
  } catch {
    // The source has nothing more to say.
  }
}

export function revive(target: Target, channel: Channel, state: Buffer, journal: Journal<TargetState>, { latch, tell }: Tracing<TargetNews>, { id, addresses }: TargetOrder): void {
  fault('target:final-round');
  try {
    const built = target.build(state);
    fault('target:built');
    if (!latch.decide()) {
      throw new PhaulError('ERR_INTERRUPTED', 'The source went away before the process was complete.');
    }
    journal.write('held');
    say(channel, READY, built);
    tell({ id, state: 'held' });
    hold(target, channel, journal, latch);
    const startMs = engine.nowMs();
    target.release();
    try {
      say(channel, RUNNING, { releaseMs: engine.nowMs() - startMs, said: target.said() });
    } catch {
      // The source will ask by way of control.
    }
    tell({ id, state: 'running' });
    journal.write('running');
    if (addresses !== '') {
      takeStragglers(target, channel);
    }
    fault('target:running');
  } finally {
    engine.setPriority('normal');
  }
}
