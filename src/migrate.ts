/** One migration from the first look to the report. */
import { randomBytes } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { addressText, findMoved } from './addresses.ts';
import { cgroupText } from './cgroups.ts';
import { filesComing, localFindings, preflightEvent } from './check.ts';
import { PAGE_BYTES, type TrackerName } from './engine/engine.ts';
import { failedEvent } from './done.ts';
import { asPhaulError, PhaulError } from './errors.ts';
import { plural, type DoneEvent, type Emit, type EventInput } from './events.ts';
import { fault } from './fault.ts';
import { forgetOldJournals } from './journal.ts';
import type { Result } from './messages.ts';
import type { Migrate, MigrateOptions } from './options.ts';
import { Peer } from './peer.ts';
import { SourceAgent, type Departure } from './source/agent.ts';
import { tellClocks } from './source/clocks.ts';
import { discardLeftovers, refuseUnsettled, stoppedOf } from './source/leftovers.ts';
import { readPlan, type Plan } from './source/plan.ts';
import type { SourceOrder } from './source/order.ts';
import { trackingFindings } from './source/tracking.ts';

const KEY_BYTES = 32;

/** For a target that is told how it ended. */
const TOLD_TIMEOUT_MS = 1_000;

/** For a target that is told that all is off, before the operator is. */
const ABORT_TIMEOUT_MS = 3_000;

/** Aborted, with the sentence for the operator, by a stop request or by the end of --timeout, which covers all before the commit. */
function stopOf({ pid, timeoutMs }: MigrateOptions, signal: AbortSignal): { stop: AbortSignal; forget: () => void } {
  const controller = new AbortController();
  const onSignal = (): void => controller.abort(new PhaulError('ERR_INTERRUPTED', `Stopped by ${String(signal.reason)} before the commit: process ${pid} runs on here.`));
  if (signal.aborted) {
    onSignal();
  }
  signal.addEventListener('abort', onSignal);
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => controller.abort(new PhaulError('ERR_TIMEOUT', `The migration took longer than the ${timeoutMs / 1000} s of --timeout: process ${pid} runs on here.`)), timeoutMs);
  return {
    stop: controller.signal,
    forget: () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onSignal);
    },
  };
}

function onceStopped(stop: AbortSignal, act: (why: PhaulError) => void): void {
  if (stop.aborted) {
    act(stop.reason as PhaulError);
  }
  stop.addEventListener('abort', () => act(stop.reason as PhaulError), { once: true });
}

const unlessStopped = <T>(work: Promise<T>, stop: AbortSignal): Promise<T> => Promise.race([work, new Promise<never>((_, reject) => onceStopped(stop, reject))]);

const tcpFlags = ({ tcp }: MigrateOptions): { tcpClose: boolean; tcpEstablished: boolean } => ({ tcpClose: tcp === 'close', tcpEstablished: tcp === 'established' });

/** All obstacles of both hosts in one error. What phaul itself left in the way there is cleared away first. */
async function preflight(options: MigrateOptions, plan: Plan, peer: Peer, emit: Emit): Promise<{ tracker: TrackerName; copy: string[] }> {
  await refuseUnsettled(options.pid, plan.comm);
  const tracking = trackingFindings(options.tracker);
  const here = localFindings(options.pid, { ...tcpFlags(options), stdioElsewhere: options.place.output !== undefined }, tracking);
  const look = async (): Promise<Result<'preflight'>> => peer.control.ask('preflight', { plan, place: options.place, files: filesComing(options) });
  let there = await look();
  if (here.obstacles.length === 0 && (await discardLeftovers(plan, options.pid, there.arriving, peer, emit))) {
    there = await look();
  }
  if (there.obstacles.length > 0 && there.obstacles.every(({ code }) => code === 'PID_TAKEN_BY_PHAUL')) {
    emit({ event: 'log', level: 'info', text: `the agent on ${peer.host} has a pid that the process needs; once more, with another agent` });
    await peer.open();
    there = await look();
  }
  const obstacles = [...here.obstacles, ...there.obstacles];
  const { at: _at, ...event } = preflightEvent(plan, options.pid, peer.host, obstacles, here.notices);
  emit(event);
  if (obstacles.length > 0) {
    throw new PhaulError('ERR_OBSTACLES', `Process ${options.pid} (${plan.comm}) can't move from ${hostname()} to ${peer.host}: ${plural(obstacles.length, 'obstacle')}.`, { obstacles });
  }
  return { tracker: tracking.tracker, copy: there.copy };
}

/** Behind a jump host, it may be a name that only the jump host knows. */
async function addressOf({ address, host }: Peer): Promise<string> {
  try {
    return (await lookup(address)).address;
  } catch (cause) {
    throw new PhaulError('ERR_REACH_RESOLVE', `Pages go to ${host} by themselves, not through ssh, and its name ${address} has no address here.`, { cause });
  }
}

/** Until the target has a husk, and waits for pages. */
async function approach(options: MigrateOptions, peer: Peer, emit: Emit): Promise<{ plan: Plan; order: SourceOrder }> {
  const movedAddresses = findMoved(options.moveIps);
  const { id, pid, streams, verify } = options;
  const [plan, hello] = await Promise.all([readPlan(pid, { tcp: options.tcp, movedAddresses, cpuCheck: options.cpuCheck, stdio: options.place.output === undefined, files: options.files !== 'check' }), peer.open()]);
  emit({ event: 'connect', host: peer.host, agentVersion: hello.version, kernel: hello.kernel });
  const { tracker, copy } = await preflight(options, plan, peer, emit);
  const key = randomBytes(KEY_BYTES);
  const address = await addressOf(peer);
  emit({ event: 'log', level: 'info', text: `migration ${id} of ${plan.rssBytes / PAGE_BYTES} resident pages` });
  const clocks = await tellClocks(pid, () => peer.control.ask('clock', {}));
  fault('source:preflighted');
  const { port } = await peer.control.ask('prepare', { id, pid: plan.pid, comm: plan.comm, from: hostname(), key: key.toString('base64'), streams, verify, address, addresses: addressText(movedAddresses, 'deviceThere'), cgroups: cgroupText(options.cgroups), ...clocks });
  const addresses = addressText(movedAddresses, 'device');
  const hook = options.hook === undefined ? {} : { hook: options.hook };
  const { destination, acceptNewHostKey, identityFile, sshConfigFile } = options;
  const reach = { destination, acceptNewHostKey, ...(identityFile !== undefined && { identityFile: resolve(identityFile) }), ...(sshConfigFile !== undefined && { sshConfigFile: resolve(sshConfigFile) }) };
  const order: SourceOrder = {
    id,
    pid,
    processes: plan.processes,
    comm: plan.comm,
    host: peer.host,
    address,
    port,
    key,
    streams,
    connections: plan.connections,
    tracker,
    otherKernel: plan.vdso !== hello.vdso,
    files: { mode: options.files, list: plan.files.map(({ path, writable }) => ({ path, how: !copy.includes(path) ? 'same' : writable ? 'changing' : 'steady' })) },
    maxDowntimeMs: options.maxDowntimeMs,
    ...(options.freezeTimeoutMs !== undefined && { freezeTimeoutMs: options.freezeTimeoutMs }),
    ...(options.bandwidth !== undefined && { bandwidth: options.bandwidth }),
    onDiverge: options.onDiverge,
    verify,
    ...tcpFlags(options),
    ...(options.place.output !== undefined && { output: options.place.output }),
    addresses,
    cgroups: cgroupText({ ...options.cgroups, roots: [] }),
    ...hook,
    original: { reach, address, addresses, ...hook, stopped: await stoppedOf(plan.processes) },
  };
  return { plan, order };
}

const unknownText = ({ host, pid, processes, comm, id }: SourceOrder): string =>
  `${host} was sent the commit for process ${pid} (${comm}), and can't be asked what became of it. The original${processes.length > 1 ? ', with its children,' : ''} is stopped on ${hostname()}, and must not go on ` +
  `unless it is certain that it doesn't run on ${host}. Run "phaul resolve ${id}" on ${hostname()} when ${host} can be reached: it asks ${host}, and lets one of them go on.`;

/** Runs the source's side; a stop request, a time limit or a lost control link cancels it while that is possible. */
async function depart(agent: SourceAgent, order: SourceOrder, peer: Peer, stop: AbortSignal): Promise<Departure> {
  const { control } = peer;
  onceStopped(stop, (why) => agent.cancel(why));
  void control.closed.then((why) => agent.cancel(why));
  try {
    return await agent.run(order, () => peer.reopened());
  } catch (thrown) {
    if (thrown instanceof PhaulError && thrown.code === 'ERR_UNKNOWN_OUTCOME') {
      throw new PhaulError(thrown.code, unknownText(order), { cause: thrown });
    }
    // The tracing thread has said so, if it could; this waits until the husk is gone, too.
    await control.ask('abort', { id: order.id }, ABORT_TIMEOUT_MS).catch(() => {});
    throw thrown;
  }
}

function report(order: SourceOrder, plan: Plan, { result, rounds }: Departure, startedAt: number): DoneEvent {
  const { outcome, downtimeMs, phases, lastBytes } = result;
  return {
    event: 'done',
    at: Date.now(),
    side: 'source',
    outcome: outcome === 'thawed' ? 'failed' : outcome,
    pid: order.pid,
    comm: plan.comm,
    host: outcome === 'thawed' ? hostname() : order.host,
    downtimeMs,
    totalMs: Date.now() - startedAt,
    rounds,
    bytesSent: rounds.reduce((sum, { bytesSent }) => sum + bytesSent, lastBytes),
    rssBytes: plan.rssBytes,
    phases,
    ...(outcome === 'unknown' && { error: { code: 'ERR_UNKNOWN_OUTCOME' as const, message: unknownText(order) } }),
    ...(outcome === 'thawed' && {
      error: { code: 'ERR_PEER' as const, message: `${order.host} lost the process after the commit and before it ran there: process ${order.pid} (${plan.comm}) runs on here.` },
    }),
  };
}

/** What is shown there must neither end nor delay what is done. */
async function tellPeer(peer: Peer, id: string, event: EventInput): Promise<void> {
  if (event.event !== 'log' && peer.isOpen) {
    await peer.control.ask('event', { id, event: { at: Date.now(), ...event } }, TOLD_TIMEOUT_MS).catch(() => {});
  }
}

export const migrate: Migrate = async (options, tell, signal) => {
  const startedAt = Date.now();
  const emit: Emit = (event) => {
    try {
      tell(event);
      tellThere(event);
    } catch {
      // What is shown must not end what is done.
    }
  };
  const { stop, forget } = stopOf(options, signal);
  const peer = new Peer(options);
  const before: EventInput[] = [];
  /** To whoever watches the target; what was said before it was reached comes with the next. */
  const tellThere = (event: EventInput): void => {
    before.push({ at: Date.now(), ...event });
    for (const one of peer.isOpen ? before.splice(0) : []) {
      void tellPeer(peer, options.id, one);
    }
  };
  const agent = new SourceAgent(emit); // loads its modules meanwhile
  try {
    const { plan, order } = await unlessStopped(approach(options, peer, emit), stop);
    const done = report(order, plan, await depart(agent, order, peer, stop), startedAt);
    await tellPeer(peer, options.id, done);
    return done;
  } catch (thrown) {
    await tellPeer(peer, options.id, failedEvent(options.pid, asPhaulError(thrown)));
    throw thrown;
  } finally {
    forget();
    agent.end();
    peer.close();
    forgetOldJournals();
  }
};
