/**
 * The agent on the host that receives: a service on a unix socket, or one session on stdin and stdout that
 * ssh has started. A process that it holds is never lost with the link: the agent stays, on a socket of that
 * migration's own, until the source or the operator has decided.
 */
import { hostname, release } from 'node:os';
import { Duplex } from 'node:stream';
import type { WebSocket } from 'ws';
import { Control, controlServer, type Handlers } from '../control.ts';
import { asPhaulError } from '../errors.ts';
import type { PhaulEvent } from '../events.ts';
import { sourceEvidence } from '../handover/look.ts';
import { hello, requireSameProtocol } from '../hello.ts';
import { OBSTACLES_MAX } from '../messages.ts';
import type { Place } from '../options.ts';
import { hashVdso } from '../proc.ts';
import { Record } from '../records.ts';
import { version } from '../version.ts';
import { abandon, allOver, answer, heldHere, newTracer, prepare, type TargetTracer } from './arrivals.ts';
import type { WebPlace } from '../web/server.ts';
import { arriving } from './arriving.ts';
import { delegateFor, serviceObstacles, type Delegate } from './delegate.ts';
import { settleLeftFiles } from './leftFiles.ts';
import { listenOn, listenOnPassed } from './listen.ts';
import { makeOutput, outputObstacles } from './output.ts';
import { pickUp } from './pickUp.ts';
import { filesToCopy } from './preflight/files.ts';
import { preflight } from './preflight.ts';
import { markFiles, type Mark } from './unchanged.ts';
import { hasUnits, serveInUnit } from './unit.ts';

/** Of ssh: whoever starts an agent says something at once. */
const FIRST_WORD_MS = 60_000;

/** Resolves when the session has left nothing but what is held. */
const sessions = new Map<Control, Promise<void>>();

function accept(socket: WebSocket): void {
  const mine = new Set<string>();
  const records = new Map<string, Record>();
  let tracer: TargetTracer | undefined;
  let files: Mark[] = [];
  let replaceable: string[] | undefined;
  let delegate: Promise<Delegate | undefined> | undefined;
  let wanted: Place | undefined;
  const handlers: Handlers = {
    hello: async (theirs) => {
      requireSameProtocol(theirs);
      tracer ??= newTracer(); // it loads its modules while the source still looks
      return { ...hello(), kernel: release(), vdso: await hashVdso('self') };
    },
    preflight: async ({ plan, place, files: coming }) => {
      wanted = place;
      const inTheWay = [...serviceObstacles(place, plan.comm), ...outputObstacles(place, plan.comm)];
      if (inTheWay.length > 0) {
        return { obstacles: inTheWay, arriving: [], copy: [] };
      }
      const other = await (delegate ??= delegateFor(plan, place));
      if (other !== undefined) {
        return other.control.ask('preflight', { plan, place: other.place, files: coming });
      }
      settleLeftFiles();
      const marks = markFiles(plan);
      const copy = await filesToCopy(plan, hostname(), coming);
      files = marks.filter(({ path }) => !copy.includes(path));
      replaceable = coming.allowed === 'same' ? undefined : copy;
      return {
        copy,
        obstacles: (await preflight(plan, hostname(), coming)).slice(0, OBSTACLES_MAX),
        arriving: arriving([plan.pid, ...plan.tids]),
      };
    },
    clock: async () => ({ at: String(process.hrtime.bigint()) }),
    prepare: async (params) => {
      const other = await delegate;
      if (other !== undefined) {
        return other.control.ask('prepare', params);
      }
      const ready = tracer ?? newTracer();
      tracer = undefined;
      mine.add(params.id);
      makeOutput(wanted ?? { newPidNamespace: false });
      return prepare(ready, params, { files, ...(replaceable !== undefined && { replaceable }) }, controls.serve);
    },
    event: ({ id, event }) => {
      const record = records.get(id) ?? new Record(id, 'target');
      records.set(id, record);
      record.write({ ...event, side: 'target' } as unknown as PhaulEvent);
      return {};
    },
    original: async ({ id }) => sourceEvidence(id),
    outcome: async ({ id }) => answer(id, 'outcome'),
    commit: async ({ id }) => answer(id, 'commit'),
    abort: async ({ id }) => answer(id, 'abort'),
  };
  const control = new Control(socket, 'the source', handlers);
  const over = control.closed.then(async () => {
    tracer?.end();
    // It may just be starting.
    void delegate?.then((other) => other?.control.close(), () => {});
    await abandon(mine);
    sessions.delete(control);
  });
  sessions.set(control, over);
}

const controls = controlServer(accept);

/** Closes all sessions, and returns when nothing is held any more: an agent that ends would end that, too. */
async function finish(): Promise<void> {
  const alive = setInterval(() => {}, 60_000); // Node ends when nothing but promises is left
  for (const control of sessions.keys()) {
    control.close();
  }
  await Promise.all(sessions.values());
  for (const id of heldHere()) {
    process.stderr.write(`phaul agent on ${hostname()} stays for the process that it holds for migration ${id}\n`);
  }
  for (let first = true; first || sessions.size > 0; first = false) {
    await allOver();
    await Promise.all(sessions.values()); // those that asked by a socket of what was held
  }
  clearInterval(alive);
}

/** Resolves at the first signal to end. What is held must die of no signal, closed pipe or exception. */
function endure(): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on('error', () => {});
  }
  process.on('uncaughtException', (error) => process.stderr.write(`phaul agent on ${hostname()}: ${error.stack ?? error.message}\n`));
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
      process.on(signal, () => resolve());
    }
  });
}

const serveWith = (ownUnit: boolean): ((duplex: Duplex) => void) => (ownUnit && hasUnits() ? serveInUnit : controls.serve);

/** Until the session is over and nothing is held. */
export async function serveStdio(ownUnit: boolean): Promise<void> {
  const told = endure();
  const duplex = Duplex.from({ readable: process.stdin, writable: process.stdout });
  const over = new Promise<void>((resolve) => {
    for (const event of ['close', 'end', 'error'] as const) {
      duplex.on(event, () => resolve());
    }
  });
  const serve = serveWith(ownUnit);
  const silent = new Promise<void>((resolve) => {
    setTimeout(() => serve === controls.serve && sessions.size === 0 && resolve(), FIRST_WORD_MS).unref();
  });
  serve(duplex);
  await Promise.race([over, told, silent]);
  await finish();
}

/** Until it is told to end, and nothing is held. */
/** `web`: where a page shows what moves. */
export async function serveSocket(path: string, ownUnit: boolean, web?: WebPlace): Promise<void> {
  const told = endure();
  const shown = web === undefined ? undefined : await (await import('../web/server.ts')).serveWeb(web);
  const serve = serveWith(ownUnit);
  if (serve === controls.serve) {
    const say = (sentence: string): boolean => process.stderr.write(`phaul agent on ${hostname()}: ${sentence}\n`);
    await pickUp(say).catch((thrown: unknown) => say(`the journals can't be looked through: ${asPhaulError(thrown).message}`));
  }
  const passed = await listenOnPassed(serve);
  const server = passed ?? (await listenOn(path, serve));
  process.stderr.write(`phaul agent ${version} on ${hostname()} listens on ${passed === undefined ? path : 'the socket of its service manager'}\n`);
  await told;
  server.close();
  shown?.close();
  shown?.closeAllConnections();
  await finish();
}
