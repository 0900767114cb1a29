/** Whatever dies at whatever step, exactly one copy lives afterwards, passes its own check, and is where phaul says. */
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { FaultPoint } from '../../src/fault.ts';
import { FaultBed, isLate, sourcePoints, targetPoints, until, type Departure } from './bed.ts';

const bed = new FaultBed('faults-test');

/** All steps with all faults: some minutes more. */
const LONG = process.env['PHAUL_LONG'] !== undefined;

/** On a host with other things to do. */
const SPARE_MS = 5_000;
const BOUND_MS = 20_000 + SPARE_MS;

const HERE = 'alpha runs, beta gone';
const THERE = 'alpha gone, beta runs';

const allPoints = [...sourcePoints, ...targetPoints];

/** Where it matters most, if there is no time for all. */
const crucial = allPoints.filter((point) => LONG || ['source:frozen', 'source:before-commit', 'source:after-commit', 'target:built', 'target:ready-sent', 'target:commit-received'].includes(point));

/** More at a time would be too much for two CPUs: what stands still has limits of its own. */
const AT_ONCE = 3;
const groups = (points: FaultPoint[]): FaultPoint[][] => points.flatMap((_, i) => (i % AT_ONCE === 0 ? [points.slice(i, i + AT_ONCE)] : []));
const some = (...points: FaultPoint[]): FaultPoint[] => points;

test.before(() => bed.up());
test.after.always(() => bed.down());
test.afterEach.always(async () => {
  bed.openGate();
  await bed.on('beta', 'ip', 'link', 'set', 'eth0', 'up');
  await bed.stopServices();
});

async function departAll(points: FaultPoint[], action: string, options: string[] = []): Promise<Departure[]> {
  const departures: Departure[] = [];
  for (const point of points) {
    departures.push(await bed.depart(point, action, options));
  }
  return departures;
}

/** All of them at their points, while the gate is shut. */
async function departToGate(points: FaultPoint[], options: string[] = []): Promise<Departure[]> {
  bed.shutGate();
  const departures: Departure[] = [];
  for (const point of points) {
    const departure = await bed.depart(point, `stall:${bed.gate}`, options);
    await bed.arrived(departure);
    departures.push(departure);
  }
  return departures;
}

interface Expected {
  codes: (number | null)[];
  places: string[];
  /** From the fault on. */
  since?: number;
  withinMs?: number;
}

/** One copy, where phaul said, alive and well, if need be after `phaul resolve`; then it moves as if nothing had been. */
async function conclude(t: ExecutionContext, { point, name, pid, ending }: Departure, { codes, places, since = 0, withinMs = Infinity }: Expected): Promise<void> {
  const { exitCode, at, done, stderr } = await ending;
  const what = `${point}: ${exitCode} ${done?.error?.message ?? stderr}`;
  t.true(codes.includes(exitCode), what);
  t.true(at - since <= withinMs || since === 0, `${point}: ended after ${at - since} ms`);
  let settled = await bed.settled(pid, places);
  t.true(places.includes(settled), `${settled}; ${what}`);
  if (done !== undefined && exitCode !== 3) {
    t.is(done.host, settled.startsWith('alpha runs') ? 'alpha' : 'beta', what);
    t.is(exitCode, done.host === 'beta' ? 0 : 1, what);
    t.regex(done.error?.message ?? 'beta', /beta|PHAUL_FAULT/);
  }
  if (settled.startsWith('alpha stopped')) {
    const again = await bed.migrate('alpha', pid, 'beta');
    t.is(again.exitCode, 1, `${point}: what is in doubt must not move`);
    t.regex(again.stderr, /run "phaul resolve/);
    const { exitCode: code, text } = await bed.resolve(pid);
    t.is(code, 0, `${point}: ${text}`);
    settled = await bed.settled(pid, [HERE, THERE]);
    t.true([HERE, THERE].includes(settled), `${settled} after: ${text}; ${what}`);
    t.is((await bed.resolve(pid)).exitCode, 0, 'nothing is left to be resolved');
  }
  t.deepEqual(bed.lines(name), ['ready'], 'no wait of the process ended early');
  if (settled.startsWith('alpha runs')) {
    let again = await bed.migrate('alpha', pid, 'beta');
    // An agent that has not noticed yet that its source is dead still has the pid.
    for (let tries = 1; again.exitCode === 1 && /is taken on beta/.test(again.stderr) && tries < 10; tries++) {
      await sleep(1000);
      again = await bed.migrate('alpha', pid, 'beta');
    }
    t.is(again.exitCode, 0, `${point}, again: ${again.stderr}`);
  }
  t.is(await bed.verdict('beta', pid, name), 'ok', what);
}

const concludeAll = async (t: ExecutionContext, departures: Departure[], expected: (point: FaultPoint) => Expected): Promise<void> => {
  await Promise.all(departures.map(async (departure) => conclude(t, departure, expected(departure.point))));
  await until('the end of all agents', async () => (await bed.agents()).length === 0, 30_000);
};

/** Where the process is when the source has been killed. */
function placesAfterKill(point: FaultPoint): string[] {
  if (['source:before-commit', 'source:noting', 'source:stopping'].includes(point)) {
    return ['alpha runs, beta held'];
  }
  if (['source:promising', 'source:waiting'].includes(point)) {
    return ['alpha stopped, beta held'];
  }
  return isLate(point) ? ['alpha stopped, beta runs'] : [HERE, 'alpha runs, beta held'];
}

for (const group of groups(sourcePoints)) {
  test.serial(`the source is killed at ${group.join(', ')}`, async (t) => {
    await concludeAll(t, await departAll(group, 'kill'), (point) => ({ codes: [137], places: placesAfterKill(point) }));
  });
}

const afterAgent = (point: FaultPoint): Expected =>
  point === 'target:running' || point === 'target:released' ? { codes: [0], places: [THERE] } : { codes: [1], places: [HERE] };

for (const group of groups(targetPoints.filter((point) => point !== 'target:releasing'))) {
  test.serial(`the agent that ssh started is killed at ${group.join(', ')}`, async (t) => {
    await concludeAll(t, await departAll(group, 'kill'), afterAgent);
  });
}

for (const point of LONG ? targetPoints.filter((some) => some !== 'target:releasing') : some('target:final-round', 'target:ready-sent')) {
  test.serial(`the agent that is a service is killed at ${point}`, async (t) => {
    await bed.startService(point, 'kill');
    await concludeAll(t, [await bed.depart(point, 'kill')], () => afterAgent(point));
  });
}

test.serial('an agent that dies after it has promised to let the process go leaves it to the operator', async (t) => {
  const { pid, name, ending } = await bed.depart('target:releasing', 'kill');
  const { exitCode, done } = await ending;
  t.is(exitCode, 3);
  t.is(done?.outcome, 'unknown');
  t.regex(done?.error?.message ?? '', /stopped on alpha.*phaul resolve [0-9a-f]{16}/);
  t.is(await bed.settled(pid, ['alpha stopped, beta gone']), 'alpha stopped, beta gone');
  t.is((await bed.on('alpha', 'phaul', 'status')).exitCode, 3);
  const asked = await bed.resolve(pid);
  t.is(asked.exitCode, 3);
  t.regex(asked.text, new RegExp(`can't tell whether the copy has run.*phaul resolve ${asked.id} --keep there.*phaul resolve ${asked.id} --keep here`));
  const kept = await bed.resolve(pid, '--keep', 'here');
  t.is(kept.exitCode, 0, kept.text);
  t.is(await bed.settled(pid, [HERE]), HERE);
  t.is((await bed.on('alpha', 'phaul', 'status')).exitCode, 0);
  t.deepEqual(bed.lines(name), ['ready']);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('what is held can be settled from its own host, by way of the other or by the operator', async (t) => {
  const byWay = await bed.depart('source:waiting', 'kill');
  const alone = await bed.depart('source:waiting', 'kill');
  for (const { pid, ending } of [byWay, alone]) {
    await ending;
    t.is(await bed.settled(pid, ['alpha stopped, beta held']), 'alpha stopped, beta held');
  }
  const onBeta = async (pid: number, ...options: string[]) => {
    const { stdout } = await bed.on('beta', 'phaul', 'status', '--json');
    const one = stdout.trim().split('\n').map((line) => JSON.parse(line) as { id: string; pid: number; state: string; text: string }).find((some) => some.pid === pid);
    t.regex(one?.text ?? '', one?.state === 'waits' ? /is held here for alpha, complete/ : /runs here/);
    return bed.on('beta', 'phaul', 'resolve', one?.id.slice(0, 8) ?? '', ...options);
  };
  const asked = await onBeta(byWay.pid);
  t.is(asked.exitCode, 3);
  t.regex(asked.stderr, /is held here, complete, and may only go on if .* doesn't run on alpha\. Run "phaul resolve [0-9a-f]{16}" on alpha/);
  const told = await onBeta(byWay.pid, 'root@alpha');
  t.is(told.exitCode, 0, told.stderr);
  t.regex(told.stdout, /goes on here, as the move was committed/);
  const kept = await onBeta(alone.pid, '--keep', 'here');
  t.is(kept.exitCode, 0, kept.stderr);
  for (const { pid, name } of [byWay, alone]) {
    t.is(await bed.settled(pid, ['alpha stopped, beta runs']), 'alpha stopped, beta runs');
    const { exitCode, text } = await bed.resolve(pid);
    t.is(exitCode, 0, text);
    t.is(await bed.settled(pid, [THERE]), THERE);
    t.is(await bed.verdict('beta', pid, name), 'ok');
  }
});

test.serial('an original that is ended later leaves no files in /dev/shm, but for those that others have', async (t) => {
  const files = async (host: string): Promise<string> => (await bed.on(host, 'sh', '-c', 'ls /dev/shm | grep phaul-victim')).stdout.trim();
  const departures = [await bed.depart('source:after-commit', 'kill', [], 'sysv'), await bed.depart('source:after-commit', 'kill', [], 'sysv')];
  const [alone, common] = departures as [Departure, Departure];
  for (const { pid, ending } of departures) {
    await ending;
    t.is(await bed.settled(pid, ['alpha stopped, beta runs']), 'alpha stopped, beta runs');
  }
  const other = await bed.start('alpha', 'sh', '-c', `exec 3</dev/shm/phaul-victim-${common.pid}; exec sleep 1000`);
  for (const { pid, name } of departures) {
    t.is((await bed.resolve(pid)).exitCode, 0);
    t.is(await bed.settled(pid, [THERE]), THERE);
    t.is(await bed.verdict('beta', pid, name), 'ok');
  }
  t.is(await files('alpha'), `phaul-victim-${common.pid}`, `and not ${alone.pid}'s`);
  t.is(await files('beta'), '');
  await bed.on('alpha', 'sh', '-c', `kill ${other}; rm /dev/shm/phaul-victim-${common.pid}`);
});

test.serial('an original that somebody has let go on, while its copy runs, is said', async (t) => {
  const { pid, ending } = await bed.depart('source:after-commit', 'kill');
  await ending;
  t.is(await bed.settled(pid, ['alpha stopped, beta runs']), 'alpha stopped, beta runs');
  await bed.on('alpha', 'kill', '-CONT', String(pid));
  const { exitCode, text } = await bed.resolve(pid);
  t.is(exitCode, 3);
  t.regex(text, new RegExp(`runs on beta.*and on alpha too.*kill -KILL ${pid}`));
  await bed.on('alpha', 'kill', '-KILL', String(pid));
  t.is((await bed.resolve(pid)).exitCode, 0);
  await bed.on('beta', 'kill', '-KILL', String(pid));
});

test.serial('a service that is started again has picked up what the one before it left', async (t) => {
  await bed.startService('target:built', 'kill');
  const { pid, ending } = await bed.depart('target:built', 'kill');
  t.is((await ending).exitCode, 1);
  await bed.startService('target:discarding', 'kill');
  const { stdout } = await bed.on('beta', 'phaul', 'status', '--all', '--json');
  const one = stdout.trim().split('\n').map((line) => JSON.parse(line) as { pid: number; journal: string; text: string }).find((some) => some.pid === pid);
  t.like(one, { journal: 'discarded', text: 'never ran here' });
  t.is((await bed.on('beta', 'sh', '-c', 'cd /run/phaul; ls *.sock')).stdout.trim(), 'agent.sock');
  const again = await bed.migrate('alpha', pid, 'beta');
  t.is(again.exitCode, 0, again.stderr);
  await bed.on('beta', 'kill', '-KILL', String(pid));
});

for (const group of groups(allPoints)) {
  test.serial(`something throws at ${group.join(', ')}`, async (t) => {
    await concludeAll(t, await departAll(group, 'error'), (point) => (isLate(point) ? { codes: [0], places: [THERE] } : { codes: [1], places: [HERE] }));
  });
}

for (const group of groups(crucial)) {
  const where = group.join(', ');

  test.serial(`the ssh sessions are killed at ${where}`, async (t) => {
    const departures = await departToGate(group);
    const since = Date.now();
    await bed.on('beta', 'pkill', '-KILL', '-f', 'sshd: root');
    await sleep(500);
    bed.openGate();
    await concludeAll(t, departures, (point) => ({ codes: isLate(point) ? [0] : [0, 1], places: [HERE, THERE], since, withinMs: BOUND_MS }));
  });

  test.serial(`the link is cut for three seconds at ${where}`, async (t) => {
    const departures = await departToGate(group);
    await bed.on('beta', 'ip', 'link', 'set', 'eth0', 'down');
    bed.openGate();
    await sleep(3_000);
    await bed.on('beta', 'ip', 'link', 'set', 'eth0', 'up');
    await concludeAll(t, departures, () => ({ codes: [0], places: [THERE] }));
  });
}

for (const group of groups(crucial.filter((point) => targetPoints.includes(point)))) {
  test.serial(`the agent is stopped at ${group.join(', ')}, and goes on when the source has given up`, async (t) => {
    const departures = await departToGate(group);
    const since = Date.now();
    await Promise.all(departures.map((departure) => bed.signal(departure, '-STOP')));
    bed.openGate();
    await Promise.all(departures.filter(({ point }) => !isLate(point)).map(({ ending }) => ending));
    await Promise.all(departures.map((departure) => bed.signal(departure, '-CONT')));
    await concludeAll(t, departures, (point) => (isLate(point) ? { codes: [0], places: [THERE] } : { codes: [1], places: [HERE], since, withinMs: BOUND_MS }));
  });
}

for (const group of groups(crucial.filter((point) => sourcePoints.includes(point)))) {
  test.serial(`the source is stopped at ${group.join(', ')} until the target has given up`, async (t) => {
    const departures = await departToGate(group);
    await Promise.all(departures.map((departure) => bed.signal(departure, '-STOP')));
    bed.openGate();
    await sleep(15_000);
    await Promise.all(departures.map((departure) => bed.signal(departure, '-CONT')));
    await concludeAll(t, departures, () => ({ codes: [0, 1], places: [HERE, THERE] }));
  });
}

// A source that waits before its commit commits into the cut link, which is what the tests of the commit look at.
for (const group of groups(crucial.filter((point) => !isLate(point) && point !== 'source:before-commit'))) {
  const where = group.join(', ');

  test.serial(`the thread of one side stalls at ${where}`, async (t) => {
    const since = Date.now();
    const departures = await departAll(group, 'stall:25');
    await concludeAll(t, departures, () => ({ codes: [1], places: [HERE], since, withinMs: BOUND_MS + 15_000 }));
  });

  test.serial(`the link is cut for good at ${where}`, async (t) => {
    const departures = await departToGate(group);
    const since = Date.now();
    await bed.on('beta', 'ip', 'link', 'set', 'eth0', 'down');
    bed.openGate();
    await Promise.all(departures.map(({ ending }) => ending));
    await bed.on('beta', 'ip', 'link', 'set', 'eth0', 'up');
    await concludeAll(t, departures, () => ({ codes: [1], places: [HERE, 'alpha runs, beta held'], since, withinMs: BOUND_MS }));
  });
}

for (const group of groups(crucial.filter(isLate))) {
  test.serial(`the link is cut at ${group.join(', ')}, around the commit, and comes back`, async (t) => {
    const departures = await departToGate(group);
    await bed.on('beta', 'ip', 'link', 'set', 'eth0', 'down');
    bed.openGate();
    await sleep(20_000);
    await bed.on('beta', 'ip', 'link', 'set', 'eth0', 'up');
    await concludeAll(t, departures, () => ({ codes: [0], places: [THERE] }));
  });
}
