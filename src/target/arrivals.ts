/**
 * The migrations that come to this host, and what became of them. One that is asked about may be here, or
 * with another agent (its socket answers as long as that lives), or over: then the journal knows.
 */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { connect, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { connectControl } from '../control.ts';
import { Tracer } from '../engine/tracer.ts';
import { PhaulError } from '../errors.ts';
import { orderOf } from '../handover/evidence.ts';
import { outcomeHere } from '../handover/look.ts';
import type { OutcomeState, Params, Result } from '../messages.ts';
import { arrivalSocket } from '../places.ts';
import { settleFiles } from './leftFiles.ts';
import { listenOn } from './listen.ts';
import { ORDERS } from './revive.ts';
import { inUnit } from './unit.ts';
import type { TargetNews, TargetOrder } from './worker.ts';

/** For an agent of this host that is asked on behalf of another: it has to end a process at most. */
const OWNER_TIMEOUT_MS = 5_000;

export type TargetTracer = Tracer<TargetOrder, TargetNews, void>;

interface Arrival {
  tracer: TargetTracer;
  state: OutcomeState;
  /** Resolves when all that is left is the journal. */
  over: Promise<void>;
}

const arrivals = new Map<string, Arrival>();

/** A thread that may be told to receive something. */
export function newTracer(): TargetTracer {
  const tracer: TargetTracer = new Tracer(import.meta.url, ({ id, state }) => {
    const arrival = arrivals.get(id);
    if (arrival !== undefined) {
      arrival.state = state;
    }
  });
  return tracer;
}

/** `serve` takes connections to the arrival's own socket. */
export async function prepare(tracer: TargetTracer, { key, ...order }: Params<'prepare'>, files: Pick<TargetOrder, 'files' | 'replaceable'>, serve: (duplex: Duplex) => void): Promise<Result<'prepare'>> {
  const { id } = order;
  if (arrivals.has(id)) {
    tracer.end();
    throw new PhaulError('ERR_BUSY', `Migration ${id} is here already.`);
  }
  const listening = listenOn(arrivalSocket(id), serve);
  arrivals.set(id, { tracer, state: 'preparing', over: untilOver(id, tracer, listening) });
  await listening;
  // In a unit of its own it stays there, unless the operator says otherwise: a group of this name may be somebody else's.
  const cgroups = order.cgroups === '' && inUnit() ? 'ignore' : order.cgroups;
  tracer.begin({ key: Buffer.from(key, 'base64'), ...files, ...order, cgroups });
  return { port: await tracer.port() };
}

async function untilOver(id: string, tracer: TargetTracer, listening: Promise<Server>): Promise<void> {
  try {
    const server = await listening;
    await tracer.result.catch(() => {});
    server.close();
  } catch {
    tracer.end(); // it never began
  }
  arrivals.delete(id);
}

type Question = Parameters<typeof orderOf>[0];

/** Undefined: its agent is dead. */
async function askOwner(id: string, question: Question): Promise<{ state: OutcomeState } | undefined> {
  let socket: Socket;
  try {
    socket = connect(arrivalSocket(id));
    await once(socket, 'connect');
  } catch {
    rmSync(arrivalSocket(id), { force: true });
    return undefined;
  }
  const control = await connectControl(socket, `the agent that has migration ${id}`, OWNER_TIMEOUT_MS);
  try {
    return await control.ask(question, { id }, OWNER_TIMEOUT_MS);
  } finally {
    control.close();
  }
}

/** Answers with the state after the question was obeyed. */
export async function answer(id: string, question: Question): Promise<{ state: OutcomeState }> {
  const arrival = arrivals.get(id);
  if (arrival === undefined) {
    const owned = await askOwner(id, question);
    if (owned === undefined) {
      settleFiles(id);
    }
    return owned ?? { state: outcomeHere(id) };
  }
  const { tracer, over } = arrival;
  const order = orderOf(question, arrival.state);
  if (order !== undefined) {
    // One that isn't complete yet needs no order.
    if (order === 'commit' || !tracer.cancel()) {
      tracer.latch.order(ORDERS[order]);
    }
    await over;
  }
  return { state: arrivals.has(id) ? arrival.state : outcomeHere(id) };
}

/** The source's connection is gone: what isn't complete is discarded, what is held waits at its socket. */
export async function abandon(ids: Set<string>): Promise<void> {
  for (const id of ids) {
    const arrival = arrivals.get(id);
    if (arrival?.tracer.cancel() === true) {
      await arrival.over;
    }
  }
}

export const allOver = async (): Promise<unknown> => Promise.all([...arrivals.values()].map(({ over }) => over));

/** What keeps this agent from ending. */
export const heldHere = (): string[] => [...arrivals].filter(([, { state }]) => state === 'held').map(([id]) => id);
