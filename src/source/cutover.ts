/** From the freeze to the moment when the process runs elsewhere: the only part of a migration that is felt. */
import { engine } from '../engine/library.ts';
import type { Channel, Freeze, Source } from '../engine/engine.ts';
import type { Latch } from '../engine/latch.ts';
import { PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import type { Journal, SourceState } from '../journal.ts';
import { APPLIED, COMMIT, hear, PING, PONG, READY, RUNNING, say, STRAGGLERS_MS } from '../notes.ts';
import type { Hook } from './hook.ts';
import type { SourceOrder } from './order.ts';

const FREEZE_TIMEOUT_MS = 5_000;

/** For the target to build. It has as long as the process may reasonably stand still. */
const READY_TIMEOUT_MS = 15_000;

/** A released process answers at once; after this the answer is looked for another way. */
const RUNNING_TIMEOUT_MS = 5_000;

const PINGS = 3;

/** Some ms: a child that has just been forked has less. */
const FRESH_PAGES_MAX = 2_000;

const FREEZE_TRIES = 20;

/** For handshakes with clients that are farther away; those of slower ones are reset. */
const QUIESCE_MS = 200;

const EAGAIN = -11;
const ACCEPT_MS = 3;

export interface Cutover {
  /** Undefined while it isn't known whether the target runs the process. */
  downtimeMs: number | undefined;
  phases: Record<string, number>;
  freeze: Freeze;
  /** Why it isn't known. */
  doubt?: string;
  /** What the process has lost on the way, in sentences. */
  said: string[];
}

/** There and back, in ms. */
function roundTrip(channel: Channel, host: string): number {
  let best = Infinity;
  for (let i = 0; i < PINGS; i++) {
    const startMs = engine.nowMs();
    say(channel, PING);
    hear(channel, PONG, READY_TIMEOUT_MS, host);
    best = Math.min(best, engine.nowMs() - startMs);
  }
  return best;
}

/**
 * Processes that the last round did not know would have all their memory to be sent while they stand still. They go on,
 * and rounds are made until a freeze would be short again.
 */
function freezeKnown(source: Source, order: SourceOrder, copyAgain: () => void): Freeze {
  for (let tries = 1; ; tries++) {
    const freeze = source.freeze(FREEZE_TIMEOUT_MS);
    if (freeze.freshPages <= FRESH_PAGES_MAX) {
      return freeze;
    }
    source.thaw();
    if (tries === FREEZE_TRIES) {
      throw new PhaulError('ERR_DIVERGES', `Process ${order.pid} (${order.comm}) has new children whenever it is stopped to be moved: try again when it has fewer.`);
    }
    copyAgain();
    engine.setPriority('freeze');
  }
}

const isTransient = (thrown: unknown): boolean => thrown instanceof PhaulError && (thrown.cause as { errno?: number } | undefined)?.errno === EAGAIN;

/** A server that is stopped at the wrong moment, with connections that it has not accepted yet, goes on to accept them. */
function freezeAndSend(source: Source, channel: Channel, order: SourceOrder, copyAgain: () => void): { freeze: Freeze; sums: string } {
  for (let tries = 1; ; tries++) {
    const freeze = freezeKnown(source, order, copyAgain);
    fault('source:frozen');
    try {
      const sums = order.verify ? source.checksum() : '';
      source.final(channel);
      return { freeze, sums };
    } catch (thrown) {
      if (tries === FREEZE_TRIES || !isTransient(thrown)) {
        throw thrown;
      }
      source.yield();
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ACCEPT_MS);
    }
  }
}

/** Everything before the commit: whatever fails here, the caller thaws. */
function hand(source: Source, channel: Channel, order: SourceOrder, copyAgain: () => void): { freeze: Freeze; builtMs: number } {
  const { freeze, sums } = freezeAndSend(source, channel, order, copyAgain);
  fault('source:final-sent');
  const applied = hear(channel, APPLIED, READY_TIMEOUT_MS, order.host);
  if (order.verify && applied.sums !== sums) {
    throw new PhaulError('ERR_VERIFY', `The memory on ${order.host} differs from process ${order.pid}'s: ${firstDifference(sums, applied.sums ?? '')}. Please report this.`);
  }
  const { buildMs } = hear(channel, READY, READY_TIMEOUT_MS, order.host);
  return { freeze, builtMs: buildMs };
}

const firstDifference = (here: string, there: string): string => {
  const lines = there.split('\n');
  return here.split('\n').find((line, i) => line !== lines[i]) ?? 'mappings are missing here';
};

/** Until all neighbours know where the address is now, packets come here. What is lost of them is sent again. */
function sendStragglers(source: Source, channel: Channel): void {
  try {
    for (const ms of STRAGGLERS_MS) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
      source.packets(channel);
    }
  } catch {
    // The process runs, whatever becomes of the link now.
  }
}

export function cutover(source: Source, channel: Channel, order: SourceOrder, journal: Journal<SourceState>, latch: Latch, hook: Hook, copyAgain: () => void): Cutover {
  const rttMs = roundTrip(channel, order.host);
  engine.setPriority('freeze');
  channel.setPriority('freeze');
  try {
    source.quiesce(QUIESCE_MS);
    const { freeze, builtMs } = hand(source, channel, order, copyAgain);
    const readyMs = engine.nowMs();
    hook.run('network-lock');
    fault('source:before-commit');
    if (!latch.decide()) {
      throw new PhaulError('ERR_INTERRUPTED', 'The migration was cancelled.');
    }
    journal.write('committed');
    source.commit(); // The point of no return: from here on the original must not run again.
    const result: Cutover = { downtimeMs: undefined, said: [], freeze, phases: phasesOf(freeze, builtMs, readyMs) };
    try {
      if (order.addresses !== '') {
        source.packets(channel);
      }
      say(channel, COMMIT);
      fault('source:after-commit');
      result.said = hear(channel, RUNNING, RUNNING_TIMEOUT_MS, order.host).said;
    } catch (thrown) {
      return { ...result, doubt: thrown instanceof Error ? thrown.message : String(thrown) };
    }
    const runningMs = engine.nowMs();
    result.downtimeMs = runningMs - freeze.frozenAtMs - rttMs / 2;
    result.phases['commit'] = runningMs - readyMs - rttMs / 2;
    if (order.addresses !== '') {
      sendStragglers(source, channel);
    }
    return result;
  } finally {
    engine.setPriority('normal');
  }
}

/** In the order of time; what is between the state's departure and READY, but for the building, is the way. */
const phasesOf = ({ frozenAtMs, stopMs, scanMs, sendMs, dumpMs }: Freeze, buildMs: number, readyMs: number): Record<string, number> => ({
  stop: stopMs,
  scan: scanMs,
  send: sendMs,
  dump: dumpMs,
  build: buildMs,
  wait: Math.max(0, readyMs - frozenAtMs - stopMs - scanMs - sendMs - dumpMs - buildMs),
});
