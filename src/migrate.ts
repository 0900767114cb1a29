/** One migration from the first look to the report. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { localFindings, preflightEvent } from './check.ts';
import type { Control } from './control.ts';
import { PAGE_BYTES } from './engine/engine.ts';
import { PhaulError } from './errors.ts';
import { plural, type DoneEvent, type Emit } from './events.ts';
import type { Migrate, MigrateOptions } from './options.ts';
import { greet } from './peer.ts';
import { reach, type Reached } from './reach.ts';
import { SourceAgent, type Departure } from './source/agent.ts';
import { readPlan, type Plan } from './source/plan.ts';
import type { SourceOrder } from './source/order.ts';

const KEY_BYTES = 32;
const ID_BYTES = 8;

/** Ends what this side holds open to the other host, in the order of need. */
class Connection {
  reached: Reached | undefined;
  control: Control | undefined;

  close(): void {
    this.control?.close();
    this.reached?.close();
  }
}

/** All obstacles of both hosts in one error. */
async function preflight(options: MigrateOptions, plan: Plan, { control, reached }: Connection, emit: Emit): Promise<void> {
  const here = localFindings(options.pid, options.tcp);
  const there = (await control?.ask('preflight', { plan }))?.obstacles ?? [];
  const obstacles = [...here.obstacles, ...there];
  const { at: _at, ...event } = preflightEvent(plan, options.pid, reached?.host ?? '', obstacles, here.notices);
  emit(event);
  if (obstacles.length > 0) {
    throw new PhaulError('ERR_OBSTACLES', `Process ${options.pid} (${plan.comm}) can't move from ${hostname()} to ${reached?.host}: ${plural(obstacles.length, 'obstacle')}.`, { obstacles });
  }
}

/** Runs the source's side; a stop request, a time limit or a lost control link cancels it while that is possible. */
async function depart(order: SourceOrder, options: MigrateOptions, connection: Connection, emit: Emit, signal: AbortSignal): Promise<Departure> {
  let why: PhaulError | undefined;
  const agent = new SourceAgent(order, emit, async () => {
    const again = await reach(options);
    return (await greet(again)).control;
  });
  const cancel = (error: PhaulError): void => {
    if (why === undefined && agent.cancel()) {
      why = error;
    }
  };
  const onStop = (): void => cancel(new PhaulError('ERR_INTERRUPTED', `Stopped by ${String(signal.reason)} before the commit: process ${order.pid} runs on here.`));
  signal.addEventListener('abort', onStop);
  const timer =
    options.timeoutMs === undefined
      ? undefined
      : setTimeout(() => cancel(new PhaulError('ERR_TIMEOUT', `The migration took longer than the ${(options.timeoutMs ?? 0) / 1000} s of --timeout: process ${order.pid} runs on here.`)), options.timeoutMs);
  void connection.control?.closed.then(() => cancel(new PhaulError('ERR_LINK_LOST', `The connection to ${order.host} broke before the commit: process ${order.pid} runs on here.`)));
  try {
    return await agent.run();
  } catch (thrown) {
    throw why ?? thrown;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onStop);
  }
}

function report(order: SourceOrder, plan: Plan, { result, rounds }: Departure, startedAt: number): DoneEvent {
  const unknown = result.outcome === 'unknown';
  return {
    event: 'done',
    at: Date.now(),
    side: 'source',
    outcome: result.outcome === 'moved' ? 'moved' : unknown ? 'unknown' : 'failed',
    pid: order.pid,
    comm: plan.comm,
    host: result.outcome === 'thawed' ? hostname() : order.host,
    downtimeMs: result.downtimeMs,
    totalMs: Date.now() - startedAt,
    rounds,
    bytesSent: rounds.reduce((sum, { bytesSent }) => sum + bytesSent, result.lastBytes),
    rssBytes: plan.rssBytes,
    phases: result.phases,
    ...(unknown && {
      error: {
        code: 'ERR_UNKNOWN_OUTCOME' as const,
        message:
          `${order.host} got the commit for process ${order.pid} (${plan.comm}), or may have got it, and can't be reached since. The original is ` +
          `stopped on ${hostname()} and must not be continued unless it does not run on ${order.host}. Look there: if /proc/${order.pid} is ${plan.comm}, ` +
          `run "kill -KILL ${order.pid}" here; if ${order.host} has lost it, run "kill -CONT ${order.pid}" here. Migration ${order.id}.`,
      },
    }),
    ...(result.outcome === 'thawed' && {
      error: { code: 'ERR_PEER' as const, message: `${order.host} lost the process before it ran there: process ${order.pid} (${plan.comm}) runs on here.` },
    }),
  };
}

export const migrate: Migrate = async (options, emit, signal) => {
  const startedAt = Date.now();
  const connection = new Connection();
  try {
    // The first look is free; a process that can't move at all is told so without asking the other host.
    const plan = await readPlan(options.pid);
    connection.reached = await reach(options);
    const { control, hello } = await greet(connection.reached);
    connection.control = control;
    emit({ event: 'connect', host: connection.reached.host, agentVersion: hello.version, kernel: hello.kernel });
    await preflight(options, plan, connection, emit);
    signal.throwIfAborted();
    const key = randomBytes(KEY_BYTES);
    const order: Omit<SourceOrder, 'port'> = {
      id: randomBytes(ID_BYTES).toString('hex'),
      pid: options.pid,
      comm: plan.comm,
      host: connection.reached.host,
      address: connection.reached.address,
      key,
      streams: options.streams,
      maxDowntimeMs: options.maxDowntimeMs,
      onDiverge: options.onDiverge,
      verify: options.verify,
      tcpClose: options.tcp === 'close',
    };
    emit({ event: 'log', level: 'info', text: `migration ${order.id} of ${plan.rssBytes / PAGE_BYTES} resident pages` });
    const { port } = await control.ask('prepare', {
      id: order.id,
      pid: plan.pid,
      comm: plan.comm,
      from: hostname(),
      key: key.toString('base64'),
      streams: options.streams,
      verify: options.verify,
      address: order.address,
    });
    const departure = await depart({ ...order, port }, options, connection, emit, signal);
    return report({ ...order, port }, plan, departure, startedAt);
  } catch (thrown) {
    if (signal.aborted && !(thrown instanceof PhaulError)) {
      throw new PhaulError('ERR_INTERRUPTED', `Stopped by ${String(signal.reason)}: process ${options.pid} runs on here.`);
    }
    throw thrown;
  } finally {
    connection.close();
  }
};
