/** The tracing thread of the side that gives a process away. */
import { engine } from '../engine/libphaul.ts';
import type { Channel, Source } from '../engine/engine.ts';
import { trace, type Tracing } from '../engine/tracing.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import type { SourceState } from '../handover/evidence.ts';
import { follow } from '../handover/follow.ts';
import { sourceRules } from '../handover/rules.ts';
import { instanceOf, Journal } from '../journal.ts';
import { ABORT, lastWords, say } from '../notes.ts';
import type { Verdict } from './converge.ts';
import { formatBytes } from '../events.ts';
import { alongside } from './alongside.ts';
import { commit, hand, phasesOf, sendStragglers, type Arrived, type Handed } from './cutover.ts';
import { Hook } from './hook.ts';
import { ANSWERS, type Answer, type SourceNews, type SourceOrder, type SourceResult } from './order.ts';
import { precopy, type Way } from './precopy.ts';

const CONNECT_TIMEOUT_MS = 10_000;

/** What is thrown after the commit, or while the process is given back, changes nothing about where it is. */
function quietly(...steps: (() => unknown)[]): void {
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

/** How long a cut link may take to come back while the process stands still on both sides. */
const DOUBT_LIMIT_MS = 60_000;
const DOUBT_RETRY_MS = 500;

/** The main thread always answers; it has its own limits. */
const ORDER_TIMEOUT_MS = 2 * 60_000;

/** Committed, and no answer: asks by way of control, until it is known or the limit is reached. */
class Doubt {
  readonly #tracing: Tracing<SourceNews>;
  #sinceMs: number | undefined;

  constructor(tracing: Tracing<SourceNews>) {
    this.#tracing = tracing;
  }

  begin(why: string): void {
    this.#sinceMs = engine.nowMs();
    this.#tracing.tell({ type: 'doubt', why });
  }

  ask(question: 'commit' | 'abort'): Answer {
    this.#tracing.tell({ type: 'ask', question });
    return ANSWERS[this.#tracing.latch.takeOrder(ORDER_TIMEOUT_MS) - 1] ?? 'unanswered';
  }

  askAgain(): Answer | 'late' {
    const answer = this.ask('commit');
    if (answer === 'unanswered' && engine.nowMs() - (this.#sinceMs ?? 0) > DOUBT_LIMIT_MS) {
      return 'late';
    }
    if (answer === 'unanswered') {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, DOUBT_RETRY_MS);
    }
    return answer;
  }
}

const OUTCOMES = { moved: 'moved', returned: 'thawed', unknown: 'unknown' } as const;

function give(source: Source, channel: Channel, order: SourceOrder, journal: Journal<SourceState>, tracing: Tracing<SourceNews>): SourceResult {
  const hook = new Hook(order);
  const doubt = new Doubt(tracing);
  const way: Way = { bandwidth: 0 };
  const files = alongside(order, channel);
  const sendFiles = (): number => files.pass(order.bandwidth ?? 0);
  const copy = (): Verdict => {
    channel.limit(order.bandwidth ?? 0);
    const verdict = precopy(source, channel, order, tracing, way);
    channel.limit(0);
    return verdict;
  };
  let handed = undefined as Handed | undefined;
  let arrived = undefined as Arrived | undefined;
  let bound = false;
  let why: unknown;
  const stands = (still: boolean): void => tracing.tell({ type: 'stands', still });
  const giveBack = (act: () => void): void => {
    quietly(act, () => stands(false), () => journal.write('thawed'));
    noticing(tracing, () => hook.undo());
  };
  const end = follow(
    sourceRules,
    'copying',
    {
      copying: () => {
        hook.run('pre-dump');
        const bytes = sendFiles();
        if (bytes > 0) {
          tracing.tell({ type: 'notice', text: `Files go along: ${formatBytes(bytes)} were sent to ${order.host}.` });
        }
        tracing.tell({ type: 'arm', stopMs: source.arm(), tracker: order.tracker });
        fault('source:armed');
        tracing.tell({ type: 'freeze', ...copy() });
        sendFiles();
        handed = hand(source, channel, order, { copyAgain: copy, sendFiles: () => files.pass(0), stands });
        hook.run('network-lock');
        fault('source:before-commit');
        return 'ready';
      },
      noting: () => {
        journal.write('committing', { locks: source.locks() });
        // As late as it can be said that the process runs on, even if that disk hangs.
        if (!tracing.latch.decide()) {
          throw new PhaulError('ERR_INTERRUPTED', 'The migration was cancelled.');
        }
      },
      stopping: () => {
        source.commit();
        bound = true;
      },
      promising: () => journal.write('committed'),
      waiting: () => {
        arrived = commit(source, channel, order, handed as Handed);
        return 'running';
      },
      asking: () => doubt.askAgain(),
      recalling: () => doubt.ask('abort'),
      ending: () => {
        if (arrived !== undefined) {
          tracing.tell({ type: 'commit' });
          arrived.said.forEach((sentence) => tracing.tell({ type: 'notice', text: `On ${order.host} ${sentence}.` }));
          quietly(() => order.addresses !== '' && sendStragglers(source, channel));
        }
        quietly(() => source.kill(), () => journal.write('gone'));
        noticing(tracing, () => hook.run('post-resume'));
      },
      thawing: () => {
        giveBack(() => (bound ? source.abandon(false) : source.thaw()));
        why = asPhaulError(why).code === 'ERR_LINK_LOST' ? (lastWords(channel, order.host) ?? onTheWay(order.host, why)) : why;
        quietly(() => say(channel, ABORT));
      },
      returning: () => giveBack(() => source.abandon(false)),
      leaving: () => quietly(() => source.abandon(true), () => journal.write('unknown')),
    },
    {
      begins: (activity) => {
        fault(`source:${activity}`);
        if (activity === 'asking' || activity === 'ending' || activity === 'thawing') {
          engine.setPriority('normal');
        }
      },
      failed: (thrown, activity) => {
        if (activity === 'waiting') {
          tracing.tell({ type: 'commit' });
          doubt.begin(asPhaulError(thrown).message);
        } else {
          why ??= thrown;
        }
      },
    },
  );
  files.close();
  if (end === 'kept') {
    throw why;
  }
  const { freeze } = handed as Handed;
  return {
    outcome: OUTCOMES[end],
    downtimeMs: arrived?.downtimeMs ?? engine.nowMs() - freeze.frozenAtMs,
    phases: phasesOf(handed as Handed, arrived),
    lastBytes: freeze.last.bytesSent,
    lastPages: freeze.last.pagesDirty,
  };
}

trace<SourceOrder, SourceNews>((order, tracing) => {
  const journal = new Journal<SourceState>(order.id, 'source', {
    comm: order.comm,
    host: order.host,
    process: instanceOf(order.pid),
    by: instanceOf(process.pid),
    original: order.original,
  });
  let channel: Channel | undefined;
  let source: Source | undefined;
  try {
    source = engine.openSource(order.pid, order, order.addresses, order.cgroups);
    source.trackBy(order.tracker);
    if (order.output !== undefined) {
      source.sendOutputTo(order.output);
    }
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
