/**
 * npm run bench [-- --quick] [--json FILE]: downtime as phaul reports it and as the moved process sees it, page
 * streams against a plain TLS stream, and what tracking costs the process. Figures of one run compare; absolute
 * ones say as much about the machine. CRIU=/path/to/criu adds the same victims by criu dump, copy and restore.
 * What CRIU takes in the way of P.Haul is known from npm run lab.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { engine } from '../src/engine/libphaul.ts';
import { PAGE_BYTES } from '../src/engine/engine.ts';
import type { DoneEvent, PhaulEvent } from '../src/events.ts';
import { $, directory, on, Victim } from './benchVictim.ts';
import { kept, told } from './criuMeasured.ts';

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false }, json: { type: 'string' } } });
const RUNS = values.quick ? 3 : 7;
const SIZES_MIB = values.quick ? [64, 1024] : [64, 1024, 4096];
const PAGES_A_SECOND = 10_000;

/** These rather sleep than write. */
const MANY_THREADS = 1000;
const MANY_MIB = 64;
const MANY_PAGES_A_SECOND = 1000;

/** Of one process: each is a socket of both ends of half as many connections. */
const SOCKETS = values.quick ? [1000] : [1000, 10_000];
const CONNECTION_RUNS = 3;

const BASELINE_BYTES = 2 ** 30;
const BASELINE_MIB = 1024;
const STREAM_RUNS = 5;

/** Before the rounds, to compare with. */
const UNTRACKED_MS = 1000;

const CRIU = process.env['CRIU'];

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;
const rounded = (value: number): number => Number(value.toFixed(3));

/** `hear` gets events as they come. */
async function migrate(pid: string, hear: (event: PhaulEvent) => void = () => {}): Promise<DoneEvent> {
  const moving = on('alpha', 'phaul', 'migrate', pid, 'root@beta', '--json');
  let rest = '';
  let last: PhaulEvent | undefined;
  moving.stdout.on('data', (bytes: Buffer) => {
    const lines = (rest + bytes.toString()).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      last = JSON.parse(line) as PhaulEvent;
      hear(last);
    }
  });
  const { stderr } = await moving;
  if (last?.event !== 'done') {
    throw new Error(stderr);
  }
  return last;
}

interface Run {
  done: DoneEvent;
  observedMs: number;
}

/** Thread ids of a process may be taken on the other host: that is luck, and another process has others. */
const TRIES = 5;

async function run(mib: number, rate: number, threads: number): Promise<Run> {
  for (let attempt = 1; ; attempt++) {
    const victim = new Victim();
    try {
      await victim.start(mib, rate, threads - 1);
      victim.mark();
      // What the first rounds cost is another figure: here it is about the freeze.
      const done = await migrate(victim.pid, ({ event }) => event === 'round' && victim.mark());
      if (done.outcome === 'moved') {
        return { done, observedMs: await victim.largestGapMs() };
      }
      if (attempt === TRIES || !done.error?.obstacles?.every(({ code }) => code.startsWith('PID_TAKEN'))) {
        throw new Error(done.error?.message);
      }
    } finally {
      await victim.end();
    }
  }
}

async function downtimeOf(rssMiB: number, threads: number, rate: number) {
  const runs: Run[] = [];
  for (let i = 0; i < RUNS; i++) {
    runs.push(await run(rssMiB, rate, threads));
  }
  const of = (pick: (run: Run) => number): number => rounded(median(runs.map(pick)));
  const row = {
    rssMiB,
    threads,
    medianMs: of(({ done }) => done.downtimeMs),
    observedMedianMs: of(({ observedMs }) => observedMs),
    totalMs: of(({ done }) => done.totalMs),
    rounds: of(({ done }) => done.rounds.length),
    sentRatio: of(({ done }) => done.bytesSent / done.rssBytes),
  };
  const phases = Object.keys(runs[0]?.done.phases ?? {}).map((name) => `${name} ${median(runs.map(({ done }) => done.phases[name] ?? 0)).toFixed(1)}`);
  console.log(
    `${String(rssMiB).padStart(5)} ${String(threads).padStart(8)} ${row.medianMs.toFixed(1).padStart(10)} ${row.observedMedianMs.toFixed(1).padStart(10)} ${(row.totalMs / 1000).toFixed(1).padStart(8)} ` +
      `${String(row.rounds).padStart(7)} ${row.sentRatio.toFixed(2).padStart(9)}   ${phases.join(', ')}`,
  );
  return row;
}

/** Each connection costs as many system calls as another, so that it is the time for one that compares. */
async function connectionsOf(sockets: number) {
  const downtimes: number[] = [];
  for (let i = 0; i < CONNECTION_RUNS; i++) {
    const victim = new Victim();
    try {
      await victim.startAs('connections', sockets / 2);
      const { outcome, downtimeMs, error } = await migrate(victim.pid);
      if (outcome !== 'moved') {
        throw new Error(error?.message);
      }
      downtimes.push(downtimeMs);
      await victim.signal('beta', 'TERM');
      await victim.hear('ok');
    } finally {
      await victim.end();
    }
  }
  const medianMs = rounded(median(downtimes));
  const usEach = rounded((medianMs * 1000) / sockets);
  console.log(`${sockets} TCP sockets: downtime ${medianMs.toFixed(0)} ms, ${usEach.toFixed(0)} us each`);
  return { sockets, medianMs, usEach };
}

/** So that a virtual machine has the memory that comes next: to get it from its host takes longer than to fill it. */
async function touchMemory(mib: number): Promise<void> {
  await $`head -c ${mib}M /dev/zero | tail -c 1`;
}

/** An idle process, so that streams have both CPUs; the plain stream right before. */
async function tlsRatio(): Promise<number> {
  const ratios: number[] = [];
  for (let i = 0; i < STREAM_RUNS; i++) {
    await touchMemory(3 * BASELINE_MIB);
    const plain = engine.tlsBaseline(BASELINE_BYTES);
    const first = (await run(BASELINE_MIB, 0, 1)).done.rounds[0];
    ratios.push(((first?.pagesDirty ?? 0) * PAGE_BYTES * 1000) / (first?.ms ?? Infinity) / plain);
  }
  return rounded(median(ratios));
}

/** Pages a second before it is tracked, by those in the first rounds; 1 is no slow-down. */
async function slowdown(): Promise<number> {
  const victim = new Victim();
  try {
    await victim.start(BASELINE_MIB, PAGES_A_SECOND, 0);
    await victim.signal('alpha', 'USR2');
    await victim.hear('wrote', 1);
    await sleep(UNTRACKED_MS);
    const signals: Promise<unknown>[] = [];
    await migrate(victim.pid, ({ event }) => {
      if (event === 'arm' || (event === 'round' && signals.length === 1)) {
        signals.push(victim.signal('alpha', 'USR2').then());
      }
    });
    await Promise.all(signals);
    const rate = async (from: number): Promise<number> => {
      const [[pages = 0, at = 0], [morePages = 0, later = 0]] = [await victim.hear('wrote', from), await victim.hear('wrote', from + 1)];
      return (morePages - pages) / (later - at);
    };
    return rounded((await rate(1)) / (await rate(2)));
  } finally {
    await victim.end();
  }
}

/** Stopped from the beginning of the dump: what people do without an orchestrator. */
async function criuDowntime(rssMiB: number): Promise<number> {
  const gaps: number[] = [];
  for (let i = 0; i < RUNS; i++) {
    const victim = new Victim();
    const [images, copy] = [join(directory, 'criu'), join(directory, 'criu-copy')];
    try {
      await victim.start(rssMiB, PAGES_A_SECOND, 0);
      victim.mark();
      mkdirSync(images);
      for (const [host, command] of [
        ['alpha', [CRIU ?? '', 'dump', '-t', victim.pid, '-D', images, '-v0']],
        ['alpha', ['cp', '-r', images, copy]],
        ['beta', [CRIU ?? '', 'restore', '-D', copy, '-d', '-v0']],
      ] as const) {
        const { exitCode, stderr } = await on(host, ...command);
        if (exitCode !== 0) {
          throw new Error(`${command.join(' ')}: ${stderr}`);
        }
      }
      gaps.push(await victim.largestGapMs());
    } finally {
      await victim.end();
      rmSync(images, { recursive: true, force: true });
      rmSync(copy, { recursive: true, force: true });
    }
  }
  return rounded(median(gaps));
}

try {
  await $`scripts/two-hosts up`;
  console.log(`  MiB  threads  downtime   observed    total  rounds  sent/RSS   phases (medians of ${RUNS}, ms; total s)`);
  const downtime = [];
  for (const mib of SIZES_MIB) {
    downtime.push(await downtimeOf(mib, 1, PAGES_A_SECOND));
  }
  downtime.push(await downtimeOf(MANY_MIB, MANY_THREADS, MANY_PAGES_A_SECOND));
  const connections = [];
  for (const sockets of SOCKETS) {
    connections.push(await connectionsOf(sockets));
  }
  const ratio = await tlsRatio();
  console.log(`page streams: ${ratio.toFixed(2)} of a plain TLS 1.3 stream`);
  const slower = await slowdown();
  console.log(`a writer of ${PAGES_A_SECOND} pages/s is slowed down ${slower.toFixed(3)} times by the rounds`);
  const criu = [];
  for (const mib of CRIU === undefined ? [] : SIZES_MIB) {
    const observedMedianMs = await criuDowntime(mib);
    const ours = downtime.find(({ rssMiB }) => rssMiB === mib)?.observedMedianMs ?? NaN;
    console.log(`criu dump, copy and restore of ${mib} MiB: ${observedMedianMs.toFixed(0)} ms, ${(observedMedianMs / ours).toFixed(0)} times as long`);
    criu.push({ rssMiB: mib, observedMedianMs });
  }
  const measured = kept();
  if (measured !== undefined) {
    console.log(told(measured));
  }
  if (values.json !== undefined) {
    writeFileSync(values.json, `${JSON.stringify({ downtime, connections, streams: { tlsRatio: ratio }, writer: { slowdown: slower }, ...(criu.length > 0 && { criu }) })}\n`);
  }
} finally {
  await $`scripts/two-hosts down`;
  rmSync(directory, { recursive: true, force: true });
}
