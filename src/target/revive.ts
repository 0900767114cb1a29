/** The last steps: built and held, then, at the source's word, let go. */
import { engine } from '../engine/library.ts';
import type { Channel, Target } from '../engine/engine.ts';
import type { Latch } from '../engine/tracer.ts';
import type { Tracing } from '../engine/tracing.ts';
import { PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import type { Journal, TargetState } from '../journal.ts';
import { ABORT, COMMIT, READY, RUNNING, say } from '../notes.ts';
import type { TargetNews } from './worker.ts';

/** Orders of the main thread, which the source reached by way of control. */
export const RELEASE = 1;
export const DISCARD = 2;

/** Between two looks whether an order came another way. */
const LISTEN_MS = 500;

/** A held process waits for the source's word for as long as it takes: it must be lost by no time-out. */
function sourceSaysGo(channel: Channel, latch: Latch): boolean {
  for (let linked = true; ; ) {
    const order = linked ? latch.ordered : latch.waitForOrder(2 ** 31 - 1);
    if (order !== 0) {
      return order === RELEASE;
    }
    try {
      const note = linked ? channel.receive(LISTEN_MS) : undefined;
      if (note !== undefined) {
        if (note.kind === COMMIT || note.kind === ABORT) {
          return note.kind === COMMIT;
        }
        throw new PhaulError('ERR_PROTOCOL', `note ${note.kind} instead of a commit`);
      }
    } catch {
      linked = false;
    }
  }
}

export function revive(target: Target, channel: Channel, state: Buffer, journal: Journal<TargetState>, { latch, tell }: Tracing<TargetNews>): void {
  fault('target:final-round');
  engine.setPriority('freeze');
  try {
    const built = target.build(state);
    fault('target:built');
    if (!latch.decide()) {
      throw new PhaulError('ERR_INTERRUPTED', 'The source went away before the process was complete.');
    }
    journal.write('held');
    say(channel, READY, built);
    tell({ type: 'held' });
    fault('target:ready-sent');
    if (!sourceSaysGo(channel, latch)) {
      throw new PhaulError('ERR_INTERRUPTED', 'The source gave up before the commit.');
    }
    fault('target:commit-received');
    journal.write('running');
    const startMs = engine.nowMs();
    target.release();
    try {
      say(channel, RUNNING, { releaseMs: engine.nowMs() - startMs });
    } catch {
      // The source will ask by way of control.
    }
    tell({ type: 'running' });
    fault('target:running');
  } finally {
    engine.setPriority('normal');
  }
}
