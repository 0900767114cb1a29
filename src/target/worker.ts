/** The tracing thread of the side that receives a process. */
import { engine } from '../engine/library.ts';
import { NOTE_LAYOUT, NOTE_STATE, type Channel, type Target } from '../engine/engine.ts';
import { trace, type Tracing } from '../engine/tracing.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import { Journal, type TargetState } from '../journal.ts';
import { FAILED, say } from '../notes.ts';
import { revive } from './revive.ts';
import { stageRound } from './staging.ts';
import { ABORT, PING, PONG } from '../notes.ts';

export interface TargetOrder {
  id: string;
  pid: number;
  comm: string;
  from: string;
  address: string;
  key: Uint8Array;
  streams: number;
  verify: boolean;
}

export type TargetNews = { type: 'held' } | { type: 'running' };

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
    } else if (note.kind === NOTE_STATE) {
      return revive(target, channel, note.payload, journal, tracing);
    } else if (note.kind === PING) {
      say(channel, PONG);
    } else if (note.kind === ABORT) {
      throw new PhaulError('ERR_INTERRUPTED', `${order.from} gave up.`);
    } else {
      throw new PhaulError('ERR_PROTOCOL', `${order.from} sent note ${note.kind}, which is unknown.`);
    }
  }
}

trace<TargetOrder, TargetNews>((order, tracing) => {
  const journal = new Journal<TargetState>(order.id, 'target', { pid: order.pid, comm: order.comm, from: order.from });
  let channel: Channel | undefined;
  let target: Target | undefined;
  try {
    target = engine.openTarget(order.pid);
    channel = engine.listen(order.address, order.key, order.streams);
    tracing.opened(channel);
    fault('target:prepared');
    channel.accept(ACCEPT_TIMEOUT_MS);
    target.receive(channel);
    serve(target, channel, order, journal, tracing);
  } catch (thrown) {
    const { code, message } = asPhaulError(thrown);
    journal.write('discarded');
    try {
      channel?.send(FAILED, Buffer.from(JSON.stringify({ code, message })));
    } catch {
      // The source is gone, or gave up itself.
    }
    throw thrown;
  } finally {
    tracing.closed();
    channel?.close();
    target?.close();
    journal.close();
  }
});
