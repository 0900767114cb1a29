/** The tracing thread of the side that receives a process. */
import { engine } from '../engine/library.ts';
import { NOTE_LAYOUT, NOTE_STATE, NOTE_THREADS, type Channel, type Target } from '../engine/engine.ts';
import { trace, type Tracing } from '../engine/tracing.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import { instanceOf, Journal, type TargetState } from '../journal.ts';
import { ABORT, fail, PING, PONG, say } from '../notes.ts';
import { revive } from './revive.ts';
import { stageRound } from './staging.ts';

export interface TargetOrder {
  id: string;
  pid: number;
  comm: string;
  from: string;
  address: string;
  key: Uint8Array;
  streams: number;
  verify: boolean;
  /** That come with the process, in the words of the engine. */
  addresses: string;
  cgroups: string;
  /** What the process's clocks showed, and when that was by process.hrtime here. */
  clocks: string;
  clocksAt: bigint;
}

export interface TargetNews {
  id: string;
  state: 'held' | 'running';
}

const ACCEPT_TIMEOUT_MS = 30_000;

/** Between two notes: a round of a large process over a slow link takes its time. */
const NOTE_TIMEOUT_MS = 10 * 60_000;

function serve(target: Target, channel: Channel, order: TargetOrder, journal: Journal<TargetState>, tracing: Tracing<TargetNews>): void {
  for (let rounds = 0; ; ) {
    const note = channel.receive(NOTE_TIMEOUT_MS);
    if (note === undefined) {
      throw new PhaulError('ERR_TIMEOUT', `Nothing came from ${order.from} for ${NOTE_TIMEOUT_MS / 60_000} minutes.`);
    }
    if (note.kind === NOTE_LAYOUT) {
      stageRound(target, channel, note.payload, order.verify);
      if (++rounds === 1) {
        fault('target:round-1');
      }
    } else if (note.kind === NOTE_THREADS) {
      target.threads(note.payload);
    } else if (note.kind === NOTE_STATE) {
      return revive(target, channel, note.payload, journal, tracing, order);
    } else if (note.kind === PING) {
      // The freeze is about to begin: revive() ends this, or this thread does.
      engine.setPriority('freeze');
      channel.setPriority('freeze');
      say(channel, PONG);
    } else if (note.kind === ABORT) {
      throw new PhaulError('ERR_INTERRUPTED', `${order.from} gave up.`);
    } else {
      throw new PhaulError('ERR_PROTOCOL', `${order.from} sent note ${note.kind}, which is unknown.`);
    }
  }
}

/** They went on. */
function clocksNow({ clocks, clocksAt }: TargetOrder): string {
  const age = process.hrtime.bigint() - clocksAt;
  return clocks.split(' ').map((clock) => BigInt(clock) + age).join(' ');
}

/** The address by which the source came here may be a router's: then pages come to any. */
function listen({ address, key, streams }: TargetOrder): Channel {
  let failure: unknown;
  for (const place of [address, '::', '0.0.0.0']) {
    try {
      return engine.listen(place, key, streams);
    } catch (thrown) {
      failure ??= thrown;
    }
  }
  throw failure;
}

trace<TargetOrder, TargetNews>((order, tracing) => {
  let channel: Channel | undefined;
  let target: Target | undefined;
  let journal: Journal<TargetState> | undefined;
  try {
    target = engine.openTarget(order.pid, order.addresses, order.cgroups, clocksNow(order));
    journal = new Journal<TargetState>(order.id, 'target', {
      comm: order.comm,
      host: order.from,
      process: instanceOf(order.pid),
      by: instanceOf(process.pid),
    });
    channel = listen(order);
    tracing.opened(channel);
    fault('target:prepared');
    channel.accept(ACCEPT_TIMEOUT_MS);
    target.receive(channel);
    serve(target, channel, order, journal, tracing);
  } catch (thrown) {
    discard(journal, channel, thrown);
    throw thrown;
  } finally {
    tracing.closing();
    channel?.close();
    target?.close();
    journal?.close();
  }
});

/** What fails while the process is let go, or later, leaves nothing to be discarded. */
function discard(journal: Journal<TargetState> | undefined, channel: Channel | undefined, why: unknown): void {
  if (journal !== undefined && journal.state !== 'releasing' && journal.state !== 'running') {
    try {
      journal.write('discarded');
    } catch {
      // On a full disk the last state stays, which says the same once this agent is done.
    }
  }
  if (channel !== undefined) {
    fail(channel, asPhaulError(why));
  }
}
