/**
 * npm run chaos [-- --rounds N --seed S --only MISHAP --step STEP --service --break ACTIVITY.EVENT=NEXT]: moves self-checking processes while something
 * happens to phaul, its agent, the link or a host at a step of the move, and looks after each how many copies there are, with
 * one `phaul resolve` where phaul asks for it. Prints each step and mishap with what came of them, and a last line of
 * JSON: rounds, exactlyOne, lost, doubled, corrupt, stuck, misreported. --break changes a rule of src/handover/rules.ts in a copy of
 * phaul, to see that chaos finds it. SIGINT ends it after the round that is under way.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import type { FaultPoint } from '../src/fault.ts';
import { FaultBed, until, type Departure, type Ending } from '../test/faults/bed.ts';
import { copyProgram, mishaps, OWN_PROGRAM, pick, pickMishap, randomOf, type Mishap } from './mishaps.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '50' }, seed: { type: 'string', default: '1' }, only: { type: 'string' }, step: { type: 'string' }, service: { type: 'boolean', default: false }, break: { type: 'string' } },
});
const ROUNDS = Number(values.rounds);

/** Whatever happens, a phaul has ended by then. */
const END_MS = 240_000;
const SETTLE_MS = 15_000;

/** Of rounds whose agent is a service, in hundredths. */
const SERVICES = 25;

class ChaosBed extends FaultBed {
  override async up(): Promise<void> {
    await super.up();
    for (const host of ['alpha', 'beta'] as const) {
      await this.on(host, 'sh', '-c', 'mkdir -p "$PHAUL_JOURNAL" && mount -t tmpfs -o size=32m,mode=700 tmpfs "$PHAUL_JOURNAL"');
      await copyProgram(this, host);
    }
  }

  protected override program(victim: string): string {
    return victim === 'own' ? OWN_PROGRAM : super.program(victim);
  }
}

/** A phaul with another rule. */
function brokenCopy(change: string): string {
  const [, activity = '', event = '', next = ''] = /^(\w+)\.(\w+)=(\w+)$/.exec(change) ?? [];
  const root = mkdtempSync(join(tmpdir(), 'phaul-broken-'));
  for (const part of ['src', 'bin', 'proto', 'package.json']) {
    cpSync(part, join(root, part), { recursive: true });
  }
  for (const part of ['build', 'node_modules']) {
    symlinkSync(join(process.cwd(), part), join(root, part));
  }
  const path = join(root, 'src/handover/rules.ts');
  const rules = readFileSync(path, 'utf8');
  const broken = rules.replace(new RegExp(`(\\n  ${activity}: \\{[^}]*\\b${event}: )'\\w+'`), `$1'${next}'`);
  if (broken === rules) {
    throw new Error(`--break ${change}: there is no such rule`);
  }
  writeFileSync(path, broken);
  return root;
}

/** STUCK: the copies are right, but an agent doesn't end. */
type Result = 'stayed' | 'moved' | 'resolved here' | 'resolved there' | 'chosen here' | 'LOST' | 'DOUBLED' | 'CORRUPT' | 'STUCK';

interface Round {
  step: FaultPoint;
  mishap: string;
  result: Result;
  /** phaul said something else than what was found. */
  misreported: boolean;
  ms: number;
  detail: string;
}

async function depart(bed: FaultBed, point: FaultPoint, { act, after, mib, cgroup, ownProgram }: Mishap, victim: string, isService: boolean): Promise<Departure> {
  const isInside = typeof act === 'string';
  const action = isInside ? act : `stall:${bed.gate}`;
  if (!isInside) {
    bed.shutGate();
  }
  if (cgroup !== undefined) {
    mkdirSync(cgroup, { recursive: true });
    writeFileSync(`${cgroup}/memory.limit_in_bytes`, '-1');
  }
  if (isService) {
    const within = cgroup === undefined ? [] : ['sh', '-c', `echo 0 >${cgroup}/cgroup.procs; exec "$@"`, 'sh'];
    await bed.startService(point.startsWith('target:') ? point : 'target:discarding', point.startsWith('target:') ? action : 'stall:0', ...within);
  }
  const departure = await bed.depart(point, action, [], ownProgram === true ? 'own' : victim, mib === undefined ? [] : [String(mib)]);
  // One that never comes to the step has failed before.
  if (!isInside && (await Promise.race([bed.arrived(departure).then(() => true, () => false), departure.ending.then(() => false)]))) {
    await act(bed, departure);
    bed.openGate();
    await after?.(bed, departure);
  }
  return departure;
}

type Places = { alpha: string; beta: string };

const look = async (bed: FaultBed, pid: number): Promise<Places> => {
  const [alpha, beta] = await Promise.all([bed.place('alpha', pid), bed.place('beta', pid)]);
  return { alpha, beta };
};

const isOne = ({ alpha, beta }: Places): boolean => (alpha === 'runs' && beta === 'gone') || (alpha === 'gone' && beta === 'runs');
const isTwo = ({ alpha, beta }: Places): boolean => alpha === 'runs' && beta === 'runs';

/** As soon as exactly one copy is there, or what it is after a while. */
async function places(bed: FaultBed, pid: number, isTaken: boolean): Promise<Places> {
  for (const sinceMs = performance.now(); ; await sleep(100)) {
    const seen = await look(bed, pid);
    const found = isTaken && seen.beta === 'runs' ? { ...seen, beta: 'gone' } : seen;
    if (isOne(found) || isTwo(found) || performance.now() - sinceMs > SETTLE_MS || found.alpha === 'stopped') {
      return found;
    }
  }
}

async function conclude(bed: FaultBed, { pid, name }: Departure, { exitCode, done }: Ending, isTaken: boolean): Promise<Pick<Round, 'result' | 'misreported' | 'detail'>> {
  const first = await places(bed, pid, isTaken);
  let now = first;
  let how = '';
  const said: string[] = [`exit ${exitCode}, alpha ${first.alpha}, beta ${first.beta}`, done?.error?.message ?? ''];
  if (!isOne(first)) {
    const settled = await bed.resolve(pid);
    said.push(settled.text);
    how = 'resolved';
    if (settled.exitCode === 3 && /--keep here/.test(settled.text)) {
      said.push((await bed.resolve(pid, '--keep', 'here')).text);
      how = 'chosen';
    }
    now = await places(bed, pid, isTaken);
  }
  const detail = said.filter((text) => text !== '').join(' | ');
  const misreported = (exitCode === 0 && first.beta !== 'runs') || (exitCode === 1 && first.alpha !== 'runs') || (exitCode === 3 && first.alpha !== 'stopped');
  if (isTwo(first) || isTwo(now)) {
    return { result: 'DOUBLED', misreported, detail };
  }
  if (!isOne(now)) {
    return { result: 'LOST', misreported, detail: `${detail} | then alpha ${now.alpha}, beta ${now.beta}` };
  }
  const host = now.alpha === 'runs' ? 'alpha' : 'beta';
  const verdict = await bed.verdict(host, pid, name);
  const lines = bed.lines(name).filter((line) => line !== 'ready' && line !== 'ok');
  if (verdict !== 'ok' || lines.length > 0) {
    return { result: 'CORRUPT', misreported, detail: `${detail} | ${lines.join(', ')}` };
  }
  const where = host === 'alpha' ? 'here' : 'there';
  return { result: how === '' ? (host === 'alpha' ? 'stayed' : 'moved') : (`${how} ${where}` as Result), misreported, detail };
}

/** What an agent that doesn't end waits for. */
async function whyStuck(bed: FaultBed): Promise<string> {
  const look = 'for pid in $(pgrep -f "cli.ts agent"); do echo "agent $pid:"; for task in /proc/$pid/task/*; do echo "$(cat $task/comm) $(cat $task/wchan) $(cat $task/syscall)"; done; done; phaul status';
  const { stdout } = await bed.on('beta', 'sh', '-c', look);
  await bed.on('beta', 'pkill', '-KILL', '-f', 'cli.ts agent');
  return `${stdout}${readFileSync(bed.report('service.log'), { encoding: 'utf8', flag: 'a+' })}`;
}

/** Returns what is wrong with what is left. */
async function endRound(bed: FaultBed, { undo, cgroup }: Mishap): Promise<string> {
  let stuck = '';
  bed.openGate();
  await undo?.(bed);
  try {
    await bed.stopServices();
    await until('the end of all agents', async () => (await bed.agents()).length === 0, 60_000);
  } catch (thrown) {
    stuck = `${(thrown as Error).message}\n${await whyStuck(bed)}`;
  }
  if (cgroup !== undefined) {
    await until('the end of the memory group', () => {
      try {
        rmdirSync(cgroup);
        return true;
      } catch {
        return false;
      }
    });
  }
  return stuck;
}

async function round(bed: FaultBed, random: () => number): Promise<Round> {
  const name = values.only ?? pickMishap(random);
  const mishap = mishaps[name] as Mishap;
  const step = pick(random, mishap.points.filter((point) => values.step === undefined || point === values.step));
  const victim = random() < 0.3 ? 'tree' : 'patient';
  const isService = random() * 100 < SERVICES || mishap.cgroup !== undefined || values.service;
  const startMs = performance.now();
  const departure = await depart(bed, step, mishap, victim, isService);
  const ending = await Promise.race([departure.ending, sleep(END_MS, undefined, { ref: false })]);
  const about = { step, mishap: name, ms: Math.round(performance.now() - startMs) };
  if (ending === undefined) {
    return { ...about, result: 'LOST', misreported: true, detail: `phaul has not ended after ${END_MS / 1000} s` };
  }
  const concluded = await conclude(bed, departure, ending, name === 'pid taken there');
  const stuck = await endRound(bed, mishap);
  return stuck === '' ? { ...about, ...concluded } : { ...about, result: 'STUCK', misreported: false, detail: `${concluded.result}, ${concluded.detail} | ${stuck}` };
}

/** Each step and mishap that came together, and what came of it, how often. */
function table(rounds: Round[]): string {
  const rows = new Map<string, Map<Result, number>>();
  for (const { step, mishap, result } of rounds) {
    const key = `${mishap.padEnd(22)} ${step.padEnd(22)}`;
    const counts = rows.get(key) ?? new Map<Result, number>();
    rows.set(key, counts.set(result, (counts.get(result) ?? 0) + 1));
  }
  return [...rows].toSorted(([a], [b]) => a.localeCompare(b)).map(([key, counts]) => `${key} ${[...counts].map(([result, count]) => `${count} ${result}`).join(', ')}`).join('\n');
}

const root = values.break === undefined ? process.cwd() : brokenCopy(values.break);
const bed = new ChaosBed(`chaos-${process.pid}`, join(root, 'bin/phaul'));
const random = randomOf(Number(values.seed));
const rounds: Round[] = [];
/** The machine was too slow for what looks at it, which says nothing about phaul; what each was is printed. */
let unjudged = 0;
let goes = true;
process.once('SIGINT', () => (goes = false));
try {
  await bed.up();
  while (goes && rounds.length < ROUNDS) {
    const one = await round(bed, random).catch(async (thrown: unknown) => {
      unjudged++;
      process.stdout.write(`      a round could not be judged: ${(thrown as Error).message}\n      ${await whyStuck(bed)}\n`);
      await bed.stopServices();
      bed.openGate();
      await Promise.all(Object.values(mishaps).map(async ({ undo }) => undo?.(bed)));
    });
    if (one === undefined) {
      continue;
    }
    rounds.push(one);
    const isBad = one.misreported || ['LOST', 'DOUBLED', 'CORRUPT', 'STUCK'].includes(one.result);
    process.stdout.write(`${String(rounds.length).padStart(4)}  ${one.mishap} at ${one.step}: ${one.result}${one.misreported ? ', MISREPORTED' : ''}, ${one.ms} ms${isBad ? `\n      ${one.detail}` : ''}\n`);
  }
} finally {
  await bed.down();
  if (root !== process.cwd()) {
    rmSync(root, { recursive: true });
  }
}
const count = (...results: Result[]): number => rounds.filter(({ result }) => results.includes(result)).length;
process.stdout.write(`\n${table(rounds)}\n\n`);
const bad = { lost: count('LOST'), doubled: count('DOUBLED'), corrupt: count('CORRUPT'), stuck: count('STUCK'), misreported: rounds.filter(({ misreported }) => misreported).length };
process.stdout.write(`${JSON.stringify({ rounds: rounds.length, exactlyOne: rounds.length - bad.lost - bad.doubled, ...bad, ...(unjudged > 0 && { unjudged }) })}\n`);
process.exitCode = Object.values(bad).some((some) => some > 0) ? 1 : 0;
