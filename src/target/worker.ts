/** The tracing thread of the side that receives a process. */
import { engine } from '../engine/libphaul.ts';
import { NOTE_FILES, NOTE_LAYOUT, NOTE_STATE, NOTE_THREADS, type Built, type Channel, type ReceivedFiles, type Target } from '../engine/engine.ts';
import { trace, type Tracing } from '../engine/tracing.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { fault } from '../fault.ts';
import type { TargetState } from '../handover/evidence.ts';
import { follow } from '../handover/follow.ts';
import { targetRules } from '../handover/rules.ts';
import { instanceOf, Journal } from '../journal.ts';
import { isInside } from '../pidNamespace.ts';
import { filesLog } from '../places.ts';
import { ABORT, fail, PING, PONG, READY, say } from '../notes.ts';
import { letGo, Word } from './revive.ts';
import { stageRound } from './staging.ts';
import { requireUnchanged, type Mark } from './unchanged.ts';

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
  /** What the process's clocks showed at least, when that was by CLOCK_MONOTONIC here, and how much more they may have shown. */
  clocks: string;
  clocksAt: string;
  clocksUnsureNs: number;
  /** As they were when they were compared. */
  files: Mark[];
  /** Those that come along and may take another's place; undefined: none come. */
  replaceable?: string[];
}

export interface TargetNews {
  id: string;
  state: 'held' | 'running';
}

const ACCEPT_TIMEOUT_MS = 30_000;

/** Between two notes: a round of a large process over a slow link takes its time. */
const NOTE_TIMEOUT_MS = 10 * 60_000;

/** Returns what the source sends when the process stands still. */
function receive(target: Target, channel: Channel, files: ReceivedFiles | undefined, order: TargetOrder): Buffer {
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
    } else if (note.kind === NOTE_FILES && files !== undefined) {
      files.receive(channel);
    } else if (note.kind === NOTE_THREADS) {
      target.threads(note.payload);
    } else if (note.kind === NOTE_STATE) {
      return note.payload;
    } else if (note.kind === PING) {
      requireUnchanged(order.files, order.comm);
      // The freeze is about to begin: it ends this, or this thread does.
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

function build(target: Target, channel: Channel, files: ReceivedFiles | undefined, order: TargetOrder, { latch }: Tracing<TargetNews>): Built {
  channel.accept(ACCEPT_TIMEOUT_MS);
  target.receive(channel);
  const state = receive(target, channel, files, order);
  fault('target:final-round');
  const built = target.build(state);
  fault('target:built');
  if (!latch.decide()) {
    throw new PhaulError('ERR_INTERRUPTED', 'The source went away before the process was complete.');
  }
  return built;
}

function take(target: Target, channel: Channel, files: ReceivedFiles | undefined, order: TargetOrder, journal: Journal<TargetState>, tracing: Tracing<TargetNews>, sayings: string[]): void {
  const { id } = order;
  const word = new Word(target, channel, tracing.latch, sayings);
  let built: Built | undefined;
  let releaseMs = 0;
  let why: unknown = new PhaulError('ERR_INTERRUPTED', `${order.from} gave up before the commit.`);
  const end = follow(
    targetRules,
    'receiving',
    {
      receiving: () => {
        built = build(target, channel, files, order, tracing);
        return 'built';
      },
      noting: () => journal.write('held'),
      announcing: () => {
        say(channel, READY, built);
        tracing.tell({ id, state: 'held' });
      },
      held: () => {
        fault('target:ready-sent');
        return word.next();
      },
      promising: () => {
        fault('target:commit-received');
        journal.write('releasing');
      },
      releasing: () => {
        releaseMs = letGo(target);
      },
      running: () => {
        word.answer(releaseMs);
        tracing.tell({ id, state: 'running' });
        journal.write('running');
        fault('target:released');
      },
      discarding: () => journal.write('discarded'),
    },
    {
      begins: (activity) => fault(`target:${activity}`),
      failed: (thrown, activity) => {
        if (activity === 'held' || activity === 'promising') {
          fail(channel, asPhaulError(thrown)); // the source asks again, by way of control
        } else if (activity !== 'running' && activity !== 'discarding') {
          why = thrown;
        }
      },
    },
  );
  if (end === 'discarded') {
    throw why;
  }
  files?.keep();
  if (order.addresses !== '') {
    word.takeStragglers();
  }
}

trace<TargetOrder, TargetNews>((order, tracing) => {
  let channel: Channel | undefined;
  let target: Target | undefined;
  const files = order.replaceable === undefined ? undefined : engine.openReceivedFiles(order.replaceable, filesLog(order.id));
  let journal: Journal<TargetState> | undefined;
  try {
    target = engine.openTarget(order.pid, order.addresses, order.cgroups, order.clocks, BigInt(order.clocksAt), order.clocksUnsureNs);
    const instance = instanceOf(order.pid);
    journal = new Journal<TargetState>(order.id, 'target', {
      comm: order.comm,
      host: order.from,
      process: instance,
      ...(isInside && { pidInside: order.pid }),
      by: instanceOf(process.pid),
    });
    channel = listen(order);
    tracing.opened(channel);
    fault('target:prepared');
    take(target, channel, files, order, journal, tracing, isInside ? [`it runs in a pid namespace of its own, as pid ${order.pid}; all others there see it as pid ${instance.pid}`] : []);
  } catch (thrown) {
    if (channel !== undefined) {
      fail(channel, asPhaulError(thrown));
    }
    throw thrown;
  } finally {
    engine.setPriority('normal');
    tracing.closing();
    channel?.close();
    target?.close();
    files?.close();
    journal?.close();
  }
});
