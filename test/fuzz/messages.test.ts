/** What another host says, and what a journal holds: what is no sense is refused with a sentence, and does nothing. */
import { Duplex } from 'node:stream';
import test from 'ava';
import { connectControl, Control, controlServer } from '../../src/control.ts';
import type { Channel } from '../../src/engine/engine.ts';
import { PhaulError } from '../../src/errors.ts';
import { parseJournal } from '../../src/journal.ts';
import { requests, type Method } from '../../src/messages.ts';
import { APPLIED, FAILED, hear, PONG, READY, RUNNING } from '../../src/notes.ts';
import { parseOrder } from '../../src/pageServer/words.ts';
import { planSchema, type Plan } from '../../src/source/plan.ts';
import { version } from '../../src/version.ts';
import { attempt, changedText, changedValue, pick, random, type Random } from './mutate.ts';

/** Mostly one change, now and then some. */
function changed(next: Random, value: unknown): unknown {
  let now = changedValue(next, value);
  while (next() < 0.3) {
    now = changedValue(next, now);
  }
  return now;
}

const plan: Plan = {
  pid: 12, processes: [12, 13], tids: [12, 13], comm: 'redis', cmdline: ['redis'], exe: '/bin/redis', cwd: '/', uid: 0, gid: 0, rssBytes: 1, swapBytes: 0, hugePages: [{ pageBytes: 2 ** 21, bytes: 2 ** 22 }], vszBytes: 1,
  dataBytes: 1, mappings: 3, limits: { nofile: 1024, core: null }, sockets: [{ protocol: 'tcp', address: '127.0.0.1', port: 80 }], connections: 1, connectionAddresses: ['10.0.0.7'],
  movedAddresses: [{ address: '10.0.0.7', prefix: 24, device: 'eth0', deviceThere: 'eth0' }], sharedMemory: ['/dev/shm/a'], terminals: [1],
  files: [{ path: '/bin/redis', kind: 'file', how: 'exe', writable: false, size: 3, diskBytes: 4096, mtimeMs: 4, bornMs: 4, inode: 5, mode: 0o755, buildId: 'ab' }],
  host: 'alpha', arch: 'x64', kernel: '6.18', pageSize: 4096, cpuFlags: ['avx'], xsaveBytes: 2696, cpuCheck: 'used', bootId: 'a1', deletedFiles: [{ directory: '/tmp', bytes: 4096 }], vdso: '',
};

const asked: { [M in Method]: unknown } = {
  hello: { protocol: 1, version: '0.1.0', hostname: 'alpha' },
  preflight: { plan, place: { newPidNamespace: false, service: 'redis', output: '/tmp/out' }, files: { allowed: 'same', inPlace: false } },
  clock: {},
  prepare: {
    id: '0123456789abcdef', pid: 12, comm: 'redis', from: 'alpha', key: Buffer.alloc(32).toString('base64'), streams: 2, verify: false, address: '10.0.0.7', addresses: '', cgroups: '', clocks: '1 2', clocksAt: '3', clocksUnsureNs: 4,
  },
  event: { id: '0123456789abcdef', event: { event: 'freeze', at: 1 } },
  original: { id: '0123456789abcdef' },
  outcome: { id: '0123456789abcdef' },
  commit: { id: '0123456789abcdef' },
  abort: { id: '0123456789abcdef' },
};

/** Two ends of one connection. */
function connected(): [Duplex, Duplex] {
  const end = (other: () => Duplex): Duplex =>
    new Duplex({ read: () => {}, write: (chunk, _encoding, done) => (other().push(chunk), done()), final: (done) => (other().push(null), done()) });
  const pair: [Duplex, Duplex] = [end(() => pair[1]), end(() => pair[0])];
  return pair;
}

test('a request with anything in it is answered, by what it asked for or by a sentence, and the connection stays', async (t) => {
  const next = random(11);
  const [here, there] = connected();
  let taken = 0;
  const take = (): never => {
    taken++;
    throw new PhaulError('ERR_PEER', 'taken as it was');
  };
  const handlers = Object.fromEntries(Object.keys(requests).map((name) => [name, take]));
  controlServer((socket) => void new Control(socket, 'alpha', handlers)).serve(there);
  const control = await connectControl(here, 'beta', 5000);
  const methods = Object.keys(asked) as Method[];
  for (let i = 0; i < 2_000; i++) {
    const method = pick(next, methods);
    const params = i < methods.length ? asked[methods[i] as Method] : (changed(next, asked[method]) ?? null); // what has none is no request
    const error = await t.throwsAsync(control.ask(i < methods.length ? (methods[i] as Method) : method, params as never), { instanceOf: PhaulError });
    t.true((error?.message.length ?? 0) > 10 && (error?.message.length ?? 0) < 5000);
  }
  t.true(taken > 100 && taken < 1_900, `${taken}`);
  t.true(control.isOpen);
  control.close();
});

test('a plan that is taken keeps to its bounds', (t) => {
  const next = random(12);
  for (let i = 0; i < 5_000; i++) {
    const parsed = planSchema.safeParse(i === 0 ? plan : changed(next, plan)).data;
    t.true(i > 0 || parsed !== undefined);
    t.true(parsed === undefined || (parsed.processes.length > 0 && [parsed.pid, ...parsed.processes, ...parsed.tids].every((pid) => Number.isInteger(pid) && pid > 0 && pid <= 2 ** 22)));
  }
});

const ANSWERS = {
  [PONG]: {},
  [APPLIED]: { round: 1, vmas: 2, bytes: 3, pagesDropped: 4, layoutMs: 0.5, waitMs: 1.5, said: ['what'], sums: 'a 1' },
  [READY]: { buildMs: 1, threadsMs: 2, filesMs: 3, threads: 4, descriptors: 5 },
  [RUNNING]: { releaseMs: 1, said: [] },
  [FAILED]: { code: 'ERR_TARGET_MEMORY', message: 'It is full.' },
};

test('a note with anything in it is taken, or refused with a sentence', (t) => {
  const next = random(13);
  const kinds = [PONG, APPLIED, READY, RUNNING] as const;
  let taken = 0;
  for (let i = 0; i < 10_000; i++) {
    const kind = pick(next, kinds);
    const content: unknown = ANSWERS[next() < 0.1 ? FAILED : kind];
    const text = i % 3 === 0 ? changedText(next, [JSON.stringify(content)]) : (JSON.stringify(changed(next, content)) ?? '');
    const channel = { receive: () => ({ kind: next() < 0.1 ? FAILED : kind, payload: Buffer.from(text) }), unsent: () => 0 } as unknown as Channel;
    const answer = attempt(() => hear(channel, kind, 1, 'beta') as Record<string, unknown>, text);
    t.true(Object.values(answer ?? {}).every((value) => typeof value === 'string' || Array.isArray(value) || (Number.isFinite(value) && (value as number) >= 0)), text);
    taken += answer === undefined ? 0 : 1;
  }
  t.true(taken > 500);
});

const JOURNAL = [
  {
    state: 'preparing', at: 1_700_000_000_000, comm: 'redis', host: 'beta', pidInside: 7, process: { pid: 12, startedAt: 3, boot: 'b' }, by: { pid: 13, startedAt: 4, boot: 'b' },
    original: { reach: { destination: 'root@beta', acceptNewHostKey: false }, address: '10.0.0.7', addresses: '', stopped: [12] },
  },
  { state: 'committing', at: 1_700_000_000_001 },
  { state: 'committed', at: 1_700_000_000_002 },
];

test('a journal that was damaged says nothing that it has not', (t) => {
  const next = random(14);
  const whole = JOURNAL.map((line) => JSON.stringify(line)).join('\n');
  t.like(parseJournal(whole), { state: 'committed', about: { comm: 'redis', pidInside: 7, process: { pid: 12 }, original: { stopped: [12] } } });
  t.is(parseJournal(`${whole}\n{"state":"gone","a`)?.state, 'committed');
  for (let i = 0; i < 4_000; i++) {
    const text = i % 2 === 0 ? changedText(next, [whole]) : JOURNAL.map((line) => JSON.stringify(changed(next, line)) ?? '').join('\n');
    const entry = attempt(() => parseJournal(text), text);
    t.true(entry === undefined || (typeof entry.state === 'string' && Number.isFinite(entry.at) && typeof (entry.about.comm ?? '') === 'string'));
    t.true((entry?.about.original?.stopped ?? []).every(Number.isInteger));
    for (const who of [entry?.about.process, entry?.about.by]) {
      t.true(who === undefined || (Number.isInteger(who.pid) && who.pid >= 1 && typeof who.boot === 'string'), text);
    }
  }
});

test('a page server takes an order that is whole, or refuses it with a sentence', (t) => {
  const next = random(15);
  const order = { version, directory: '/var/tmp/12', autoDedup: false, address: '10.0.0.7', key: Buffer.alloc(32).toString('base64') };
  t.is(parseOrder(JSON.stringify(order)).directory, order.directory);
  for (let i = 0; i < 4_000; i++) {
    const text = i % 2 === 0 ? changedText(next, [JSON.stringify(order)]) : JSON.stringify(changed(next, order));
    const parsed = attempt(() => parseOrder(text), text);
    t.true(parsed === undefined || (parsed.version === version && typeof parsed.directory === 'string' && typeof parsed.key === 'string'));
  }
  t.throws(() => parseOrder(JSON.stringify({ ...order, version: '9.9.9' })), { code: 'ERR_PEER_VERSION' });
});
