/** Links that are slow, shared or stalled, and freezes that take too long. */
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { FaultBed, until } from '../faults/bed.ts';

const bed = new FaultBed('links-test');
const MIB = 2 ** 20;

test.before(() => bed.up());
test.after.always(() => bed.down());
test.afterEach.always(async () => {
  await bed.on('alpha', 'tc', 'qdisc', 'del', 'dev', 'eth0', 'root');
  bed.openGate();
});

test.serial('--bandwidth limits the rounds', async (t) => {
  const pid = await bed.victim('static_writer.limited', '48', '100');
  const { exitCode, done, stderr } = await bed.migrate('alpha', pid, 'beta', '--bandwidth', '16M');
  t.is(exitCode, 0, stderr);
  const [first] = done.rounds;
  t.true((first?.bytesSent ?? 0) > 40 * MIB);
  t.true((first?.bandwidth ?? Infinity) < 20 * MIB, `${first?.bandwidth} bytes a second`);
  t.is(await bed.verdict('beta', pid, 'static_writer.limited'), 'ok');
});

test.serial('many at a time, in both directions, share the link evenly', async (t) => {
  const AT_ONCE = 8;
  const names = Array.from({ length: AT_ONCE }, (_, i) => `patient.shared${i}`);
  const pids = await Promise.all(names.map(async (name) => bed.victim(name, '16')));
  const there = pids.slice(0, AT_ONCE / 2);
  for (const pid of there) {
    t.is((await bed.migrate('alpha', pid, 'beta')).exitCode, 0);
  }
  const moves = await Promise.all(
    pids.map(async (pid) => (there.includes(pid) ? bed.migrate('beta', pid, 'alpha', '--bandwidth', '4M') : bed.migrate('alpha', pid, 'beta', '--bandwidth', '4M'))),
  );
  const rates = moves.map(({ done }) => done.rounds[0]?.bandwidth ?? 0);
  for (const { exitCode, stderr } of moves) {
    t.is(exitCode, 0, stderr);
  }
  t.true(Math.max(...rates) < 5 * MIB && Math.min(...rates) > Math.max(...rates) / 8, `${rates.map((rate) => (rate / MIB).toFixed(2)).join(', ')} MiB a second`);
  for (const [i, pid] of pids.entries()) {
    t.is(await bed.verdict(there.includes(pid) ? 'alpha' : 'beta', pid, names[i] ?? ''), 'ok');
  }
});

test.serial('a slow link takes its time, and --timeout ends it', async (t) => {
  const pid = await bed.victim('patient.slow', '16');
  await bed.on('alpha', 'tc', 'qdisc', 'add', 'dev', 'eth0', 'root', 'tbf', 'rate', '8mbit', 'burst', '32kb', 'latency', '500ms');
  const given = await bed.migrate('alpha', pid, 'beta', '--timeout', '6');
  t.is(given.exitCode, 1);
  t.regex(given.stderr, /The migration took longer than the 6 s of --timeout: process \d+ runs on here/);
  // 17 s for the first round alone, which is more than anything may stall for.
  const { exitCode, done, stderr } = await bed.migrate('alpha', pid, 'beta', '--max-downtime', '10000');
  t.is(exitCode, 0, stderr);
  t.true((done.rounds[0]?.bandwidth ?? Infinity) < 1.2 * MIB);
  t.deepEqual(bed.lines('patient.slow'), ['ready']);
  t.is(await bed.verdict('beta', pid, 'patient.slow'), 'ok');
});

test.serial('a freeze that takes longer than --freeze-timeout is ended, and the process goes on', async (t) => {
  const { pid, name, ending } = await bed.depart('target:built', 'stall:8', ['--freeze-timeout', '1500']);
  const { exitCode, done } = await ending;
  t.is(exitCode, 1);
  t.is(done?.error?.code, 'ERR_TIMEOUT');
  t.regex(done?.error?.message ?? '', /stood still for 1\.50 s while beta was to take it over, which is all that --freeze-timeout allows: it runs on here/);
  t.is(await bed.settled(pid, ['alpha runs, beta gone']), 'alpha runs, beta gone');
  await bed.on('alpha', 'kill', '-USR2', String(pid));
  const gap = Number((await bed.hear(name, 'gap')).split(' ')[1]);
  t.true(gap > 1400 && gap < 7_000, `it stood still for ${gap} ms`);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('--freeze-timeout counts only while the process stands still', async (t) => {
  // The target has the only round, and is slow to answer before the freeze.
  const { pid, name, ending } = await bed.depart('target:round-1', 'stall:4', ['--freeze-timeout', '2500'], 'signals');
  const { exitCode, done } = await ending;
  t.is(exitCode, 0, done?.error?.message);
  t.is(await bed.verdict('beta', pid, name), 'ok');
});

test.serial('a freeze that hangs in the kernel ends with phaul', async (t) => {
  const fifo = bed.report('fifo');
  await bed.on('alpha', 'mkfifo', fifo);
  const { pid, name, ending } = await bed.depart('source:frozen', `hang:${fifo}`, ['--freeze-timeout', '1000']);
  const { exitCode, done } = await ending;
  t.is(exitCode, 137);
  t.is(done?.error?.code, 'ERR_TIMEOUT');
  t.is(await bed.settled(pid, ['alpha runs, beta gone']), 'alpha runs, beta gone');
  await bed.on('alpha', 'kill', '-USR2', String(pid));
  const gap = Number((await bed.hear(name, 'gap')).split(' ')[1]);
  t.true(gap > 900 && gap < 30_000, `it stood still for ${gap} ms`);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('a side that stops for ever in the rounds is noticed by the other one', async (t) => {
  bed.shutGate();
  const there = await bed.depart('target:round-1', `stall:${bed.gate}`);
  await bed.arrived(there);
  await bed.signal(there, '-STOP');
  const { exitCode, done } = await there.ending;
  t.is(exitCode, 1);
  t.regex(done?.error?.message ?? '', /beta.*(stopped|silent|answer)/);
  await bed.signal(there, '-KILL');
  t.is(await bed.verdict('alpha', there.pid, there.name), 'ok');

  bed.shutGate();
  const here = await bed.depart('source:after-round-1', `stall:${bed.gate}`);
  await bed.arrived(here);
  await bed.signal(here, '-STOP');
  await until('the end of its agent', async () => (await bed.agents()).length === 0, 60_000);
  t.is(await bed.settled(here.pid, ['alpha runs, beta gone']), 'alpha runs, beta gone', 'the process has not noticed');
  await bed.signal(here, '-CONT');
  bed.openGate();
  t.is((await here.ending).exitCode, 1);
  await sleep(100);
  t.is(await bed.verdict('alpha', here.pid, here.name), 'ok');
});
