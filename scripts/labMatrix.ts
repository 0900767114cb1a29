/**
 * npm run lab [-- --quick] [--only kernels | newer | cpus | wan | peer]: moves programs between kernels and CPUs, in QEMU guests beside the
 * machine's own kernel, and prints a table of what came of it. The last line is JSON: cases, asExpected. Guests are emulated: of
 * downtimes only those of one table compare.
 */
import { parseArgs } from 'node:util';
import { formatMs, type DoneEvent } from '../src/events.ts';
import { cpuCases, kernelCases, newerCases, type Case, type Part } from './labCases.ts';
import { Lab } from './labHosts.ts';
import { compareWithCriu, PEER_HEADER } from './labPeer.ts';
import { testNatively } from './labNative.ts';
import { printHeader, printRow, type Row } from './labTable.ts';
import { moveOverWan } from './labWan.ts';
import { workloads } from './workloads.ts';

const PARTS = { kernels: kernelCases, newer: newerCases, cpus: cpuCases };

const { values } = parseArgs({ options: { quick: { type: 'boolean', default: false }, only: { type: 'string' } } });
const lab = new Lab();

const HEADER = ['from', 'to', 'tracker', 'what', 'outcome', 'downtime', 'as the program saw it', 'total'];

const SHOWN = 90;

/** Obstacles by their code and what they name. */
function refusal({ error }: DoneEvent): string {
  const found = (error?.obstacles ?? []).map(({ code, subject }) => `${code}: ${subject}`);
  return `refused: ${found.length > 0 ? found.join(', ') : (error?.message ?? 'for no reason')}`;
}

/** A CPU may lack very much. */
const shortened = (text: string): string => (text.length > SHOWN ? `${text.slice(0, SHOWN).replace(/[ ,]+[^ ,]*$/, '')} …` : text);

/** What it is called in the table. */
const what = ({ workload, options = [] }: Case): string => [workload, ...options].join(' ');

async function run(one: Case): Promise<Row> {
  const { from, to, tracker, workload, options = [], refused, kernels, backFrom } = one;
  const running = await workloads[workload](lab, backFrom ?? from);
  if (one.asCheckpoint) {
    await lab.carry(from, running.pid, to);
    const { verdict } = await running.check(to);
    return { cells: [...kernels, '', what(one), verdict === 'ok' ? 'restored' : verdict, '', '', ''], asExpected: verdict === 'ok' };
  }
  if (backFrom !== undefined) {
    await lab.migrate(backFrom, running.pid, from);
  }
  const done = await lab.migrate(from, running.pid, to, ...(tracker === undefined ? [] : ['--tracker', tracker]), ...options);
  const moved = done.outcome === 'moved';
  const { verdict, gapMs } = await running.check(moved ? to : from);
  const outcome = moved ? 'moved' : done.outcome === 'failed' ? refusal(done) : done.outcome;
  // A busy guest makes it wait besides, so that it may well have seen more.
  const clockIsRight = gapMs === undefined || !moved || gapMs > done.downtimeMs / 2;
  const asExpected = verdict === 'ok' && clockIsRight && (refused === undefined ? moved : refused.test(outcome));
  const times = moved ? [formatMs(done.downtimeMs), gapMs === undefined ? '' : formatMs(gapMs), formatMs(done.totalMs)] : ['', '', ''];
  return { cells: [...kernels, tracker ?? '', what(one), verdict === 'ok' ? shortened(outcome) : `${outcome}, ${verdict}`, ...times], asExpected };
}

const rows: Row[] = [];

function tell(row: Row): void {
  rows.push(row);
  printRow(row);
}

/** `cells` say what was tried, if it fails before it is told how it went. */
async function attempt(cells: string[], work: () => Promise<Row[]>): Promise<void> {
  try {
    (await work()).forEach(tell);
  } catch (thrown) {
    tell({ cells: [...cells, (thrown as Error).message], asExpected: false });
  }
}

/** What takes long is left out of --quick, unless it is asked for. */
const wants = (part: string, long = true): boolean => (values.only === undefined ? !(values.quick && long) : values.only === part);

try {
  printHeader(HEADER);
  for (const [name, { guests, tested, cases, long }] of Object.entries<Part>(PARTS)) {
    if (wants(name, long ?? false)) {
      await lab.up(...guests);
      if (tested !== undefined && !values.quick) {
        await attempt([tested.kernel, '', '', 'native tests'], () => testNatively(lab, tested.host, tested.kernel));
      }
      for (const one of cases.filter(({ quick }) => !values.quick || quick)) {
        await attempt([...one.kernels, one.tracker ?? '', what(one)], async () => [await run(one)]);
      }
      await lab.down();
    }
  }
  if (wants('wan')) {
    await attempt(['wan'], () => moveOverWan(lab));
    await lab.down();
  }
  if (wants('peer')) {
    printHeader(PEER_HEADER);
    await attempt(['peer'], () => compareWithCriu(lab, values.quick ? [64] : [64, 256]));
  }
} finally {
  await lab.down();
}
const asExpected = rows.filter((row) => row.asExpected).length;
process.stdout.write(`${JSON.stringify({ cases: rows.length, asExpected })}\n`);
process.exitCode = asExpected === rows.length ? 0 : 1;
