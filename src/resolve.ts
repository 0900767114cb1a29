/**
 * phaul resolve: what became of a process whose move was not seen through, and the one step that is left. On the source's host
 * the target is asked for what it knows; on the target's host, the source's if there is a way to it.
 */
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { engine } from './engine/libphaul.ts';
import { asPhaulError, PhaulError } from './errors.ts';
import type { Side } from './events.ts';
import { sourceEvidence } from './handover/look.ts';
import { verdict, type Verdict } from './handover/verdict.ts';
import { addToJournal, listJournals, readJournal, type Entry } from './journal.ts';
import type { OutcomeState } from './messages.ts';
import type { ReachOptions, Resolution, ResolveOptions } from './options.ts';
import { Peer } from './peer.ts';
import { listTree } from './proc.ts';
import { Hook } from './source/hook.ts';
import { answer } from './target/arrivals.ts';

/** The agent that is asked may have to ask another one, and that to end a process. */
const ANSWER_TIMEOUT_MS = 12_000;

/** For an agent that has just lost its source to notice, and for a killed process to be gone. */
const PATIENCE_MS = 15_000;
const LOOK_MS = 250;

/** Asks, is answered, decides, and asks at most once more. */
const STEPS_MAX = 4;

interface Case {
  id: string;
  entry: Entry;
  pid: number;
  comm: string;
  /** The other one. */
  host: string;
  options: ResolveOptions;
}

/** `id` may be the beginning of one. */
function findCase(options: ResolveOptions): { side: Side; one: Case } {
  const matches = listJournals().filter(({ id }) => id.startsWith(options.id));
  const ids = [...new Set(matches.map(({ id }) => id))];
  const [id] = ids;
  if (id === undefined || ids.length > 1) {
    throw new PhaulError('ERR_USAGE', id === undefined ? `${hostname()} knows no migration ${options.id}: "phaul status --all" lists those that it knows.` : `${options.id} may be ${ids.join(' or ')}: give more of it.`);
  }
  const entry = readJournal(id, 'source') ?? readJournal(id, 'target');
  const side = readJournal(id, 'source') === undefined ? 'target' : 'source';
  const { process, comm = '?', host = '?' } = entry?.about ?? {};
  return { side, one: { id, entry: entry as Entry, pid: process?.pid ?? 0, comm, host, options } };
}

const settled = ({ id, pid, comm }: Case, where: string, text: string): Resolution => ({ id, pid, comm, settled: true, where, text });
const unsettled = ({ id, pid, comm }: Case, text: string): Resolution => ({ id, pid, comm, settled: false, where: 'unknown', text });

const busy = (one: Case, because: string): PhaulError => new PhaulError('ERR_BUSY', `Migration ${one.id} of process ${one.pid} (${one.comm}) can't be settled now: ${because}. Try again in a moment.`);

/** The way to the other host, if there is one. */
class Other {
  readonly #peer: Peer;
  why = '';

  constructor(reach: ReachOptions) {
    this.#peer = new Peer(reach);
  }

  async ask<T>(question: (peer: Peer) => Promise<T>): Promise<T | undefined> {
    try {
      await this.#peer.reopened();
      return await question(this.#peer);
    } catch (thrown) {
      this.why = asPhaulError(thrown).message;
      return undefined;
    }
  }

  close(): void {
    this.#peer.close();
  }
}

/** Until the tree has gone, or has run again for a moment. */
async function until(condition: () => Promise<boolean>): Promise<boolean> {
  for (const sinceMs = engine.nowMs(); engine.nowMs() - sinceMs < PATIENCE_MS; await sleep(LOOK_MS)) {
    if (await condition()) {
      return true;
    }
  }
  return false;
}

async function end(one: Case): Promise<void> {
  engine.endOriginal(one.pid);
  if (!(await until(async () => (await sourceEvidence(one.id)).original === 'gone'))) {
    throw new PhaulError('ERR_ENGINE', `Process ${one.pid} on ${hostname()} was killed, and is not gone after ${PATIENCE_MS / 1000} s: it waits for something that can't be interrupted (state D). It does not run any more.`);
  }
  addToJournal(one.id, 'source', 'gone');
}

/** What it has lost, in sentences. */
function resume(one: Case): string {
  const { original, locks } = one.entry.about;
  const lost = engine.resumeOriginal(one.pid, original?.addresses ?? '', original?.stopped ?? [], locks ?? '');
  addToJournal(one.id, 'source', 'thawed');
  const { id, pid, comm, host } = one;
  new Hook({ id, pid, comm, host, address: original?.address ?? '', ...(original?.hook !== undefined && { hook: original.hook }) }, true).undo();
  return lost.map((lock) => ` Somebody else has the lock on ${lock} by now, and the process goes on without it: see that the two don't write there at the same time.`).join('');
}

const inDoubt = async (one: Case, { because }: Verdict, why: string): Promise<Resolution> => {
  const { id, pid, comm, host } = one;
  const tree = (await listTree(pid)).join(' ');
  return unsettled(
    one,
    `Process ${pid} (${comm}) stands still on ${hostname()}, and ${because}${why === '' ? '' : ` (${why})`}. If it runs on ${host}, run "phaul resolve ${id} --keep there" here, which ends ${tree} here. ` +
      `If ${host} was restarted since or is gone for good, so that nothing of it can run there, run "phaul resolve ${id} --keep here": it goes on here as it was at ${new Date(one.entry.at).toISOString()}. ` +
      `Otherwise run "phaul resolve ${id}" again when ${host} answers.`,
  );
};

const onlyCopy = (one: Case, { because }: Verdict): Resolution =>
  unsettled(
    one,
    `Process ${one.pid} (${one.comm}) is not on ${hostname()} any more, and ${one.host} holds a complete copy: ${because}. To let that go on, as the process was at ${new Date(one.entry.at).toISOString()}, ` +
      `run "phaul resolve ${one.id} --keep there"; to discard it, "phaul resolve ${one.id} --keep here".`,
  );

const twice = (one: Case): Resolution =>
  unsettled(
    one,
    `Process ${one.pid} (${one.comm}) runs on ${one.host}, to which it was moved, and on ${hostname()} too, where it was stopped until somebody let it go on. End one of them: here with "kill -KILL ${one.pid}", ` +
      `unless what it did here since must be kept; there with the same command on ${one.host}.`,
  );

/** There is an original here, or was. */
async function resolveOriginal(one: Case, other: Other): Promise<Resolution> {
  const { id, pid, comm, host, options } = one;
  const ask = (question: 'outcome' | 'commit' | 'abort') => other.ask(async ({ control }): Promise<OutcomeState> => (await control.ask(question, { id }, ANSWER_TIMEOUT_MS)).state);
  let there = await ask('outcome');
  const sinceMs = engine.nowMs();
  for (let steps = 0; steps < STEPS_MAX; ) {
    const here = await sourceEvidence(id);
    const found = verdict(here, there);
    switch (found.step) {
      case 'commit':
      case 'abort':
        steps++;
        there = await ask(found.step);
        break;
      case 'end':
        await end(one);
        return settled(one, host, `Process ${pid} (${comm}) runs on ${host}: ${found.because}. The original was stopped here, and is ended now.`);
      case 'resume':
        return settled(one, hostname(), `Process ${pid} (${comm}) runs on ${hostname()} again: ${found.because}.${resume(one)}`);
      case 'wait':
        if (here.phaul || here.original === 'held' || engine.nowMs() - sinceMs > PATIENCE_MS) {
          throw busy(one, found.because);
        }
        await sleep(LOOK_MS);
        there = await ask('outcome');
        break;
      case 'twice':
        return twice(one);
      case 'choose':
        if (options.keep === undefined) {
          return here.original === 'stopped' ? inDoubt(one, found, other.why) : onlyCopy(one, found);
        }
        if (here.original === 'stopped') {
          return keep(one, options.keep);
        }
        steps++;
        there = await ask(options.keep === 'there' ? 'commit' : 'abort');
        break;
      case 'none':
        return nothingLeft(one, here.original === 'running' || here.original === 'stopped', there, found, other.why);
    }
  }
  return inDoubt(one, verdict(await sourceEvidence(id), undefined), other.why);
}

async function keep(one: Case, where: 'here' | 'there'): Promise<Resolution> {
  const { pid, comm, host } = one;
  if (where === 'there') {
    await end(one);
    return settled(one, host, `The original of process ${pid} (${comm}) was stopped here, and is ended now, as you said that it runs on ${host}.`);
  }
  return settled(one, hostname(), `Process ${pid} (${comm}) runs on ${hostname()} again, as you said that it can't run on ${host}.${resume(one)}`);
}

function nothingLeft(one: Case, isHere: boolean, there: OutcomeState | undefined, { because }: Verdict, why: string): Resolution {
  const { id, pid, comm, host } = one;
  if (isHere) {
    addToJournal(id, 'source', 'thawed');
    const rest = there === undefined ? ` ${host} can't be asked (${why}): it may hold a copy, which will never run, until "phaul resolve ${id}" is run again.` : '';
    return settled(one, hostname(), `Process ${pid} (${comm}) is on ${hostname()}: ${because}.${rest}`);
  }
  if (there === 'running' || one.entry.state === 'gone') {
    addToJournal(id, 'source', 'gone');
    return settled(one, host, `Process ${pid} (${comm}) was moved to ${host}: ${because}.`);
  }
  return there === undefined
    ? unsettled(one, `Process ${pid} (${comm}) is not on ${hostname()} any more, and ${host} can't be asked whether it has it (${why}): run "phaul resolve ${id}" again when it answers, or on ${host}.`)
    : settled(one, 'ended', `Process ${pid} (${comm}) is on neither host: ${because}, and ${host} has no copy that could run.`);
}

/** There is a copy here, or was. */
async function resolveCopy(one: Case, other: Other | undefined): Promise<Resolution> {
  const { id, pid, comm, host, options } = one;
  const { state } = await answer(id, 'outcome');
  if (state === 'running' || state === 'discarded') {
    const text = state === 'running' ? `was let go here: it runs here, or has ended since` : `never ran here`;
    return settled(one, state === 'running' ? hostname() : host, `The copy of process ${pid} (${comm}) from ${host} ${text}. If it is still stopped on ${host}, run "phaul resolve ${id}" there.`);
  }
  if (state !== 'held') {
    return unsettled(one, state === 'preparing' ? `Process ${pid} (${comm}) is on its way from ${host}, where it runs.` : `Process ${pid} (${comm}) is not here, and ${hostname()} can't tell whether its copy has run: run "phaul resolve ${id}" on ${host}.`);
  }
  const original = await other?.ask(async ({ control }) => control.ask('original', { id }, ANSWER_TIMEOUT_MS));
  const found = original === undefined ? undefined : verdict(original, 'held');
  if (found?.step === 'wait') {
    throw busy(one, `on ${host}, ${found.because}`);
  }
  const step = found === undefined || found.step === 'choose' ? stepOf(options.keep) : found.step;
  if (step !== 'commit' && step !== 'abort') {
    const why = other === undefined ? '' : ` (${other.why === '' ? (found?.because ?? '') : other.why})`;
    return unsettled(
      one,
      `Process ${pid} (${comm}) from ${host} is held here, complete, and may only go on if it is certain that it doesn't run on ${host}${why}. Run "phaul resolve ${id}" on ${host}, which knows. ` +
        `If ${host} is gone for good, or was restarted, run "phaul resolve ${id} --keep here": it goes on here as it was when it was moved.`,
    );
  }
  const { state: now } = await answer(id, step);
  if (now !== (step === 'commit' ? 'running' : 'discarded')) {
    return unsettled(one, `The agent here was told to ${step}, and the process is ${now}: run "phaul resolve ${id}" again.`);
  }
  const because = found === undefined || found.step === 'choose' ? 'you said so' : found.because;
  return now === 'running'
    ? settled(one, hostname(), `Process ${pid} (${comm}) goes on here, as ${because}. What is left of it on ${host}, stopped, is ended by "phaul resolve ${id}" there.`)
    : settled(one, host, `The copy of process ${pid} (${comm}) is discarded, as ${because}.`);
}

const stepOf = (keeps: ResolveOptions['keep']): 'commit' | 'abort' | undefined => (keeps === undefined ? undefined : keeps === 'here' ? 'commit' : 'abort');

export async function resolve(options: ResolveOptions): Promise<Resolution> {
  const { side, one } = findCase(options);
  const reach = options.reach ?? one.entry.about.original?.reach;
  const other = reach === undefined ? undefined : new Other(reach);
  try {
    if (side === 'target') {
      return await resolveCopy(one, other);
    }
    if (other === undefined) {
      throw new PhaulError('ERR_USAGE', `The journal of migration ${one.id} doesn't tell how to reach ${one.host}: run "phaul resolve ${one.id} [USER@]HOST".`);
    }
    return await resolveOriginal(one, other);
  } finally {
    other?.close();
  }
}
