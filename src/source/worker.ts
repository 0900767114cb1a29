/** The tracing thread of the side that gives a process away. */
import { engine } from '../engine/library.ts';
import type { Channel, Source } from '../engine/engine.ts';
import { trace, type Tracing } from '../engine/tracing.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import { instanceOf, Journal, type SourceState } from '../journal.ts';
import { ABORT, lastWords, say } from '../notes.ts';
import { cutover, type Cutover } from './cutover.ts';
import { Hook } from './hook.ts';
import { ABANDON, KILL, THAW, type SourceNews, type SourceOrder, type SourceResult } from './order.ts';
import { precopy } from './precopy.ts';

const CONNECT_TIMEOUT_MS = 10_000;

/** The main thread always gives an order; it has its own limits. */
const ORDER_TIMEOUT_MS = 10 * 60_000;

/** What is thrown after the commit, or while the process is given back, changes nothing about where it is. */
function quietly(...steps: (() => void)[]): void {
  for (const step of steps) {
    try {
      step();
    } catch {
      // A journal that can't be written any more, or a process that has ended meanwhile.
    }
  }
}

/** What the operator's program can't do is for the operator to do. */
function noticing({ tell }: Tracing<SourceNews>, act: () => void): void {
  try {
    act();
  } catch (thrown) {
    tell({ type: 'notice', text: asPhaulError(thrown).message });
  }
}

/** The engine doesn't know the other host's name. */
const onTheWay = (host: string, thrown: unknown): PhaulError => new PhaulError('ERR_LINK_LOST', `The way to ${host} ended: ${asPhaulError(thrown).message}`, { cause: thrown });

/** The agent may have failed, or gone, before it took the connection; then its control link says so, or ends. */
function connect({ host, address, port, key, streams }: SourceOrder): Channel {
  try {
    return engine.connect(address, port, key, streams, CONNECT_TIMEOUT_MS);
  } catch (thrown) {
    throw new PhaulError('ERR_LINK_LOST', `${host} can't be reached for pages: ${asPhaulError(thrown).message}`, { cause: thrown });
  }
}

/** Never throws: what fails here is not what became of the process. */
function settle(source: Source, journal: Journal<SourceState>, doubt: string | undefined, { latch, tell }: Tracing<SourceNews>): SourceResult['outcome'] {
  let order = KILL;
  if (doubt !== undefined) {
    tell({ type: 'doubt', why: doubt });
    order = latch.takeOrder(ORDER_TIMEOUT_MS) || ABANDON;
  }
  if (order === KILL) {
    quietly(() => source.kill(), () => journal.write('gone'));
    return 'moved';
  }
  const outcome = order === THAW ? 'thawed' : 'unknown';
  quietly(() => source.abandon(order === ABANDON), () => journal.write(outcome));
  return outcome;
}

function give(source: Source, channel: Channel, order: SourceOrder, journal: Journal<SourceState>, tracing: Tracing<SourceNews>): SourceResult {
  let committed: Cutover;
  const hook = new Hook(order);
  try {
    hook.run('pre-dump');
    tracing.tell({ type: 'arm', stopMs: source.arm() });
    fault('source:armed');
    const { reason, predictedMs } = precopy(source, channel, order, tracing);
    tracing.tell({ type: 'freeze', reason, predictedMs });
    committed = cutover(source, channel, order, journal, tracing.latch, hook, () => void precopy(source, channel, order, tracing));
  } catch (thrown) {
    quietly(() => source.thaw(), () => journal.write('thawed'));
    noticing(tracing, () => hook.undo());
    const why = asPhaulError(thrown).code === 'ERR_LINK_LOST' ? (lastWords(channel, order.host) ?? onTheWay(order.host, thrown)) : thrown;
    quietly(() => say(channel, ABORT));
    throw why;
  }
  tracing.tell({ type: 'commit' });
  committed.said.forEach((sentence) => tracing.tell({ type: 'notice', text: `On ${order.host} ${sentence}.` }));
  const outcome = settle(source, journal, committed.doubt, tracing);
  noticing(tracing, () => (outcome === 'moved' ? hook.run('post-resume') : outcome === 'thawed' ? hook.undo() : undefined));
  return {
    outcome,
    downtimeMs: committed.downtimeMs ?? engine.nowMs() - committed.freeze.frozenAtMs,
    phases: committed.phases,
    lastBytes: committed.freeze.last.bytesSent,
    lastPages: committed.freeze.last.pagesDirty,
  };
}

trace<SourceOrder, SourceNews>((order, tracing) => {
  const journal = new Journal<SourceState>(order.id, 'source', {
    comm: order.comm,
    host: order.host,
    process: instanceOf(order.pid),
    by: instanceOf(process.pid),
  });
  let channel: Channel | undefined;
  let source: Source | undefined;
  try {
    source = engine.openSource(order.pid, order, order.addresses, order.cgroups);
    channel = connect(order);
    tracing.opened(channel);
    fault('source:connected');
    if (tracing.latch.cancelled) {
      throw new PhaulError('ERR_INTERRUPTED', 'The migration was cancelled.');
    }
    return give(source, channel, order, journal, tracing);
  } finally {
    tracing.closing();
    source?.close();
    channel?.close();
    journal.close();
  }
});
