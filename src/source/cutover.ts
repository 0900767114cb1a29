/** From the freeze to the moment when the process runs elsewhere: the only part of a migration that is felt. */
import { engine } from '../engine/libphaul.ts';
import type { Channel, Freeze, Source } from '../engine/engine.ts';
import { PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import { APPLIED, COMMIT, hear, PING, PONG, READY, RUNNING, say, STRAGGLERS_MS } from '../notes.ts';
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

/** A freeze is shorter without new children, whatever they share; who always has some is frozen with them after so many tries. */
const CHOOSY_TRIES = 5;

/** For handshakes with clients that are farther away; those of slower ones are reset. */
const QUIESCE_MS = 200;

const EAGAIN = -11;
const ACCEPT_MS = 3;

/** The target has the whole process, which stands still here. */
export interface Handed {
  freeze: Freeze;
  builtMs: number;
  rttMs: number;
  readyMs: number;
}

/** That the process runs there was heard at once, and not in answer to a question. */
export interface Arrived {
  downtimeMs: number;
  commitMs: number;
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
function freezeKnown(source: Source, order: SourceOrder, copyAgain: () => void, stands: (still: boolean) => void): Freeze {
  for (let tries = 1; ; tries++) {
    stands(true); // before: it takes longer than a freeze
    const freeze = source.freeze(FREEZE_TIMEOUT_MS);
    if ((tries <= CHOOSY_TRIES ? freeze.freshPages : freeze.freshOwnPages) <= FRESH_PAGES_MAX) {
      return freeze;
    }
    source.thaw();
    stands(false);
    if (tries === FREEZE_TRIES) {
      throw new PhaulError('ERR_DIVERGES', `Process ${order.pid} (${order.comm}) has new children whenever it is stopped to be moved: try again when it has fewer.`);
    }
    copyAgain();
    engine.setPriority('freeze');
  }
}

const isTransient = (thrown: unknown): boolean => thrown instanceof PhaulError && (thrown.cause as { errno?: number } | undefined)?.errno === EAGAIN;

/** A server that is stopped at the wrong moment, with connections that it has not accepted yet, goes on to accept them. */
function freezeAndSend(source: Source, channel: Channel, order: SourceOrder, { copyAgain, sendFiles, stands }: Steps): { freeze: Freeze; sums: string } {
  for (let tries = 1; ; tries++) {
    const freeze = freezeKnown(source, order, copyAgain, stands);
    fault('source:frozen');
    try {
      const sums = order.verify ? source.checksum() : '';
      sendFiles();
      source.final(channel);
      return { freeze, sums };
    } catch (thrown) {
      if (tries === FREEZE_TRIES || !isTransient(thrown)) {
        throw thrown;
      }
      source.yield();
      stands(false);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ACCEPT_MS);
    }
  }
}

/** What is done on the way, by whoever has the process handed over. */
export interface Steps {
  copyAgain: () => void;
  /** What has changed of the files that go along. */
  sendFiles: () => void;
  /** Told when the process is stopped, and when it goes on here. */
  stands: (still: boolean) => void;
}

/** Until nothing is left to be done but to commit. */
export function hand(source: Source, channel: Channel, order: SourceOrder, steps: Steps): Handed {
  const rttMs = roundTrip(channel, order.host);
  engine.setPriority('freeze');
  channel.setPriority('freeze');
  source.quiesce(QUIESCE_MS);
  const { freeze, sums } = freezeAndSend(source, channel, order, steps);
  fault('source:final-sent');
  const applied = hear(channel, APPLIED, READY_TIMEOUT_MS, order.host);
  if (order.verify && applied.sums !== sums) {
    throw new PhaulError('ERR_VERIFY', `The memory on ${order.host} differs from process ${order.pid}'s: ${firstDifference(sums, applied.sums ?? '')}. Please report this.`);
  }
  const { buildMs } = hear(channel, READY, READY_TIMEOUT_MS, order.host);
  return { freeze, builtMs: buildMs, rttMs, readyMs: engine.nowMs() };
}

const firstDifference = (here: string, there: string): string => {
  const lines = there.split('\n');
  return here.split('\n').find((line, i) => line !== lines[i]) ?? 'mappings are missing here';
};

/** The point of no return: from here on the target may let the process go, whatever becomes of this side. */
export function commit(source: Source, channel: Channel, order: SourceOrder, { freeze, rttMs, readyMs }: Handed): Arrived {
  source.pass();
  if (order.addresses !== '') {
    source.packets(channel);
  }
  const saidMs = engine.nowMs();
  say(channel, COMMIT);
  fault('source:after-commit');
  const { said } = hear(channel, RUNNING, RUNNING_TIMEOUT_MS, order.host);
  const runningMs = engine.nowMs();
  // A way that was slow when it was measured may have been quicker now; it didn't run before it was told.
  const releasedMs = Math.max(runningMs - rttMs / 2, saidMs);
  return { downtimeMs: releasedMs - freeze.frozenAtMs, commitMs: releasedMs - readyMs, said };
}

/** Until all neighbours know where the address is now, packets come here. What is lost of them is sent again. */
export function sendStragglers(source: Source, channel: Channel): void {
  for (const ms of STRAGGLERS_MS) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
    source.packets(channel);
  }
}

/** In the order of time; what is between the state's departure and READY, but for the building, is the way. */
export const phasesOf = ({ freeze: { frozenAtMs, stopMs, scanMs, sendMs, dumpMs }, builtMs, readyMs }: Handed, arrived: Arrived | undefined): Record<string, number> => ({
  stop: stopMs,
  scan: scanMs,
  send: sendMs,
  dump: dumpMs,
  build: builtMs,
  wait: Math.max(0, readyMs - frozenAtMs - stopMs - scanMs - sendMs - dumpMs - builtMs),
  ...(arrived !== undefined && { commit: arrived.commitMs }),
});
