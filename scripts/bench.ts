/**
 * npm run bench [-- --quick] [--json FILE]: downtime as phaul reports it and as the moved process sees it, page
 * streams against a plain TLS stream. Figures of one run compare; absolute ones say as much about the machine.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { $ as shell } from 'zx';
import { engine } from '../src/engine/library.ts';
import { PAGE_BYTES } from '../src/engine/engine.ts';
import type { DoneEvent } from '../src/events.ts';

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false }, json: { type: 'string' } } });
const RUNS = values.quick ? 3 : 5;
const SIZES_MIB = values.quick ? [64, 1024] : [64, 1024, 4096];
const PAGES_A_SECOND = 10_000;
const READY_MS = 120_000;
const BASELINE_BYTES = 2 ** 30;

const CLOSE_ALL = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done';
const $ = shell({ quiet: true, nothrow: true, env: { ...process.env, PHAUL_TWO_HOSTS: 'bench' } });
const on = (host: string, ...command: string[]) => $`scripts/two-hosts exec ${host} -- ${command}`;
const directory = mkdtempSync(join(tmpdir(), 'phaul-bench-'));
const report = join(directory, 'report');

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;

async function hear(word: string): Promise<string> {
  for (const deadline = Date.now() + READY_MS; Date.now() < deadline; await sleep(20)) {
    try {
      const line = readFileSync(report, 'utf8').trim().split('\n').find((some) => some.startsWith(word));
      if (line !== undefined) {
        return line;
      }
    } catch {
      // not written yet
    }
  }
  throw new Error(`the victim did not report "${word}"`);
}

interface Run {
  done: DoneEvent;
  observedMs: number;
}

async function run(mib: number, rate: number, threads: number): Promise<Run> {
  rmSync(report, { force: true });
  const victim = [join(process.cwd(), 'build/victims/static_writer'), report, String(mib), String(rate), String(threads)];
  const { stdout: pid } = await on('alpha', 'bash', '-c', `${CLOSE_ALL}; exec setsid "$@" </dev/null >/dev/null 2>&1 & printf $!`, 'bash', ...victim);
  try {
    await hear('ready');
    await on('alpha', 'kill', '-USR1', pid);
    const { stdout, stderr } = await on('alpha', 'phaul', 'migrate', pid, 'root@beta', '--json');
    const done = JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as DoneEvent;
    if (done.outcome !== 'moved') {
      throw new Error(stderr);
    }
    await on('beta', 'kill', '-USR2', pid);
    const observedMs = Number((await hear('gap')).split(' ')[1]);
    await on('beta', 'kill', '-TERM', pid);
    await hear('ok');
    return { done, observedMs };
  } finally {
    await on('alpha', 'kill', '-KILL', pid);
    await on('beta', 'kill', '-KILL', pid);
  }
}

async function downtimeOf(rssMiB: number, threads: number) {
  const runs: Run[] = [];
  for (let i = 0; i < RUNS; i++) {
    runs.push(await run(rssMiB, PAGES_A_SECOND, threads - 1));
  }
  const of = (pick: (run: Run) => number): number => Number(median(runs.map(pick)).toFixed(3));
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
  console.log(`${String(rssMiB).padStart(5)} MiB  downtime ${row.medianMs.toFixed(1)} ms  seen by the process ${row.observedMedianMs.toFixed(1)} ms  total ${(row.totalMs / 1000).toFixed(1)} s  ${row.rounds} rounds  sent/RSS ${row.sentRatio.toFixed(2)}  (${phases.join(', ')})`);
  return row;
}

/** An idle process, so that streams have both CPUs; the plain stream right before. */
async function tlsRatio(): Promise<number> {
  const ratios: number[] = [];
  for (let i = 0; i < 3; i++) {
    const plain = engine.tlsBaseline(BASELINE_BYTES);
    const first = (await run(1024, 0, 0)).done.rounds[0];
    ratios.push(((first?.pagesDirty ?? 0) * PAGE_BYTES * 1000) / (first?.ms ?? Infinity) / plain);
  }
  return Number(median(ratios).toFixed(3));
}

try {
  await $`scripts/two-hosts up`;
  const downtime = [];
  for (const mib of SIZES_MIB) {
    downtime.push(await downtimeOf(mib, 1));
  }
  const ratio = await tlsRatio();
  console.log(`page streams: ${ratio.toFixed(2)} of a plain TLS 1.3 stream`);
  if (values.json !== undefined) {
    writeFileSync(values.json, `${JSON.stringify({ downtime, streams: { tlsRatio: ratio } })}\n`);
  }
} finally {
  await $`scripts/two-hosts down`;
  rmSync(directory, { recursive: true, force: true });
}
