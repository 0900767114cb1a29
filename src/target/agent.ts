/**
 * The agent on the host that receives: a service on a unix socket, or one session on stdin and stdout that
 * ssh has started. A process that it holds is never lost with the link: such an agent stays, on a socket of
 * its own, until the source or the operator has decided.
 */
import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { hostname, release } from 'node:os';
import { dirname } from 'node:path';
import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { Control, connectControl, controlServer, type Handlers } from '../control.ts';
import { Tracer } from '../engine/tracer.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { lastState } from '../journal.ts';
import { PROTOCOL_VERSION, type OutcomeState, type Params, type Result } from '../messages.ts';
import { version } from '../version.ts';
import { preflight } from './preflight.ts';
import { DISCARD, RELEASE } from './revive.ts';
import type { TargetNews, TargetOrder } from './worker.ts';

const RUN_DIRECTORY = '/run/phaul';

/** Where an agent listens that holds a process whose source is gone. */
const heldSocket = (id: string): string => `${RUN_DIRECTORY}/held-${id}.sock`;

interface Arrival {
  tracer: Tracer<TargetNews, void>;
  state: OutcomeState;
  held?: Server;
}

const arrivals = new Map<string, Arrival>();

function listenOn(path: string, onConnection: (duplex: Duplex) => void): Promise<Server> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  rmSync(path, { force: true });
  const server = createServer(onConnection);
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => reject(new PhaulError('ERR_AGENT_SOCKET', `The agent can't listen on ${path}: ${cause.message}.`, { cause })));
    server.listen(path, () => {
      chmodSync(path, 0o600);
      resolve(server);
    });
  });
}

async function prepare({ id, key, ...order }: Params<'prepare'>): Promise<Result<'prepare'>> {
  if (arrivals.has(id)) {
    throw new PhaulError('ERR_BUSY', `Migration ${id} is here already.`);
  }
  const tracer = new Tracer<TargetNews, void>(
    new URL('./worker.ts', import.meta.url),
    { id, key: Buffer.from(key, 'base64'), ...order } satisfies TargetOrder,
    (news) => {
      arrival.state = news.type;
    },
  );
  const arrival: Arrival = { tracer, state: 'preparing' };
  arrivals.set(id, arrival);
  tracer.result
    .catch(() => {
      arrival.state = 'discarded';
    })
    .finally(() => {
      arrival.held?.close();
      rmSync(heldSocket(id), { force: true });
    })
    .catch(() => {});
  return { port: await tracer.port() };
}

/** What became of a migration that this agent doesn't have: another agent holds it, or the journal knows. */
async function elsewhere(id: string, method: 'outcome' | 'commit' | 'abort'): Promise<{ state: OutcomeState }> {
  if (existsSync(heldSocket(id))) {
    try {
      const control = await connectControl(connect(heldSocket(id)), `the agent that holds ${id}`);
      try {
        return await control.ask(method, { id });
      } finally {
        control.close();
      }
    } catch (thrown) {
      if (asPhaulError(thrown).code !== 'ERR_REACH_AGENT_EXITED') {
        throw thrown;
      }
    }
  }
  const state = lastState(id, 'target');
  if (state === 'running' || state === 'discarded') {
    return { state };
  }
  // A husk or a held process dies with its agent, and "running" is on disk before the process is let go.
  return { state: state === undefined ? 'unknown' : 'discarded' };
}

async function decide(id: string, method: 'commit' | 'abort'): Promise<{ state: OutcomeState }> {
  const arrival = arrivals.get(id);
  if (arrival === undefined) {
    return elsewhere(id, method);
  }
  if (arrival.state === 'held') {
    arrival.tracer.latch.order(method === 'commit' ? RELEASE : DISCARD);
    await arrival.tracer.result.catch(() => {});
  } else if (method === 'abort' && arrival.state === 'preparing') {
    arrival.tracer.cancel();
    await arrival.tracer.result.catch(() => {});
  }
  return { state: arrival.state };
}

/** The source's connection is gone: what isn't complete is discarded, what is held waits where it can be found. */
async function leave(ids: Set<string>): Promise<void> {
  for (const id of ids) {
    const arrival = arrivals.get(id);
    if (arrival === undefined) {
      continue;
    }
    if (arrival.tracer.cancel()) {
      await arrival.tracer.result.catch(() => {});
    } else if (arrival.state !== 'running' && arrival.state !== 'discarded') {
      arrival.held = await listenOn(heldSocket(id), controls.serve);
    }
  }
}

function accept(socket: WebSocket): Control {
  const mine = new Set<string>();
  const handlers: Handlers = {
    hello: ({ protocol, version: theirs, hostname: peer }) => {
      if (protocol !== PROTOCOL_VERSION) {
        throw new PhaulError('ERR_PEER_VERSION', `${hostname()} has phaul ${version} (protocol ${PROTOCOL_VERSION}), ${peer} has ${theirs} (protocol ${protocol}): install the same version on both.`);
      }
      return { protocol: PROTOCOL_VERSION, version, hostname: hostname(), kernel: release() };
    },
    preflight: async ({ plan }) => ({ obstacles: await preflight(plan) }),
    prepare: async (params) => {
      mine.add(params.id);
      return prepare(params);
    },
    outcome: async ({ id }) => {
      const arrival = arrivals.get(id);
      return arrival === undefined ? elsewhere(id, 'outcome') : { state: arrival.state };
    },
    commit: async ({ id }) => decide(id, 'commit'),
    abort: async ({ id }) => decide(id, 'abort'),
  };
  const control = new Control(socket, 'the source', handlers);
  sessions.add(control);
  void control.closed.then(async () => {
    await leave(mine);
    sessions.delete(control);
  });
  return control;
}

const sessions = new Set<Control>();
const controls = controlServer(accept);

/** Until the session is over and nothing is held. */
export async function serveStdio(): Promise<void> {
  const duplex = Duplex.from({ readable: process.stdin, writable: process.stdout });
  for (const signal of ['SIGHUP', 'SIGPIPE'] as const) {
    process.on(signal, () => {}); // ssh went away: whatever is held must not die of that
  }
  process.stdout.on('error', () => {});
  const over = new Promise<void>((resolve) => {
    duplex.once('close', resolve);
    duplex.once('end', resolve);
    duplex.on('error', () => resolve());
  });
  controls.serve(duplex);
  await over;
  duplex.destroy();
  do {
    await Promise.all([...sessions].map(({ closed }) => closed));
    await new Promise(setImmediate);
    await Promise.all([...arrivals.values()].map(({ tracer }) => tracer.result.catch(() => {})));
  } while (sessions.size > 0);
}

/** Until it is told to end (SIGTERM, SIGINT); what is held dies with it. */
export async function serveSocket(path: string): Promise<void> {
  const server = await listenOn(path, controls.serve);
  process.stderr.write(`phaul agent ${version} on ${hostname()} listens on ${path}\n`);
  await new Promise<void>((resolve) => {
    process.once('SIGTERM', resolve);
    process.once('SIGINT', resolve);
  });
  server.close();
  rmSync(path, { force: true });
}
