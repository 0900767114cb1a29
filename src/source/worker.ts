/** The tracing thread of the side that gives a process away. */
import { engine } from '../engine/library.ts';
import type { Channel, Source } from '../engine/engine.ts';
import { trace, type Tracing } from '../engine/tracing.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import { Journal, type SourceState } from '../journal.ts';
import { ABORT, lastWords, say } from '../notes.ts';
import { cutover, type Cutover } from './cutover.ts';
import { ABANDON, KILL, THAW, type SourceNews, type SourceOrder, type SourceResult } from './order.ts';
import { precopy } from './precopy.ts';

const CONNECT_TIMEOUT_MS = 10_000;

/** The main thread always gives an order; it has its own limits. */
const ORDER_TIMEOUT_MS = 10 * 60_000;

function settle(source: Source, journal: Journal<SourceState>, result: Cutover, { latch, tell }: Tracing<SourceNews>): SourceResult['outcome'] {
  tell({ type: 'commit' });
  let order = KILL;
  if (result.downtimeMs === undefined) {
    tell({ type: 'doubt', why: result.doubt ?? 'no answer' });
    order = latch.waitForOrder(ORDER_TIMEOUT_MS) || ABANDON;
  }
  if (order === KILL) {
    source.kill();
    journal.write('gone');
    return 'moved';
  }
  source.abandon(order === ABANDON);
  const outcome = order === THAW ? 'thawed' : 'unknown';
  journal.write(outcome);
  return outcome;
}

function give(source: Source, channel: Channel, order: SourceOrder, journal: Journal<SourceState>, tracing: Tracing<SourceNews>): SourceResult {
  let committed: Cutover;
  try {
    tracing.tell({ type: 'arm', stopMs: source.arm() });
    fault('source:armed');
    const { reason } = precopy(source, channel, order, tracing);
    tracing.tell({ type: 'freeze', reason });
    committed = cutover(source, channel, order, journal, tracing.latch);
  } catch (thrown) {
    source.thaw();
    journal.write('thawed');
    const why = asPhaulError(thrown).code === 'ERR_LINK_LOST' ? (lastWords(channel, order.host) ?? thrown) : thrown;
    try {
      say(channel, ABORT);
    } catch {
      // The link is gone: the target notices by itself.
    }
    throw why;
  }
  const outcome = settle(source, journal, committed, tracing);
  return {
    outcome,
    downtimeMs: committed.downtimeMs ?? 0,
    phases: committed.phases,
    lastBytes: committed.freeze.last.bytesSent,
    lastPages: committed.freeze.last.pagesDirty,
  };
}

trace<SourceOrder, SourceNews>((order, tracing) => {
  const { address, port, key, streams } = order;
  const journal = new Journal<SourceState>(order.id, 'source', { pid: order.pid, comm: order.comm, host: order.host });
  let channel: Channel | undefined;
  let source: Source | undefined;
  try {
    source = engine.openSource(order.pid, { tcpClose: order.tcpClose });
    channel = engine.connect(address, port, key, streams, CONNECT_TIMEOUT_MS);
    tracing.opened(channel);
    fault('source:connected');
    if (tracing.latch.cancelled) {
      throw new PhaulError('ERR_INTERRUPTED', 'The migration was cancelled.');
    }
    return give(source, channel, order, journal, tracing);
  } finally {
    tracing.closed();
    source?.close();
    channel?.close();
    journal.close();
  }
});
