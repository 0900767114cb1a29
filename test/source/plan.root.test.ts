import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { mkdtempSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { readDescriptors, readStatus } from '../../src/proc.ts';
import { planSchema, readPlan } from '../../src/source/plan.ts';
import { requireProgram } from '../../src/source/program.ts';

const scratch = mkdtempSync(join(tmpdir(), 'phaul-plan-'));
test.after.always(() => rm(scratch, { recursive: true }));

const PROGRAM = `
  const fs = require('node:fs');
  fs.openSync(process.argv[1] + '/log', 'a');
  fs.openSync(process.argv[1] + '/input', 'r');
  const server = require('node:net').createServer().listen(0, '127.0.0.1', () => console.log(server.address().port));
`;

async function start(...args: string[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, args, { cwd: scratch, stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child, 'spawn');
  return child;
}

test('the plan of a node process names its threads, files, limits and listening socket', async (t) => {
  await writeFile(join(scratch, 'log'), 'abc');
  await writeFile(join(scratch, 'input'), 'input');
  const child = await start('-e', PROGRAM, scratch);
  t.teardown(() => child.kill('SIGKILL'));
  const [port] = (await once(child.stdout!, 'data')) as [Buffer];

  const plan = planSchema.parse(JSON.parse(JSON.stringify(await readPlan(child.pid!))));
  t.is(plan.pid, child.pid!);
  t.true(plan.tids.includes(child.pid!));
  t.true(plan.tids.length >= 5);
  t.is(plan.comm, 'node');
  t.is(plan.cmdline[1], '-e');
  t.is(plan.exe, process.execPath);
  t.is(plan.cwd, scratch);
  t.is(plan.uid, process.getuid!());
  t.true(plan.rssBytes > 2 ** 24 && plan.vszBytes > plan.rssBytes && plan.dataBytes > 0);
  t.true(plan.mappings > 50);
  t.is(typeof plan.limits['nofile'], 'number');
  t.is(plan.limits['cpu'], null);
  t.deepEqual(plan.sockets, [{ protocol: 'tcp', address: '127.0.0.1', port: Number(port) }]);
  t.is(plan.pageSize, 4096);
  t.true(plan.cpuFlags.includes('sse2'));
  t.regex(plan.vdso, /^[0-9a-f]{64}$/);

  const file = (path: string) => plan.files.find((candidate) => candidate.path === path);
  t.like(file(process.execPath), { how: 'exe', kind: 'file', writable: false });
  t.regex(file(process.execPath)?.buildId ?? file(process.execPath)?.sha256 ?? '', /^[0-9a-f]{32,}$/);
  t.like(file(join(scratch, 'log')), { how: 'open', writable: true, size: 3, sha256: undefined });
  t.regex(file(join(scratch, 'input'))?.sha256 ?? '', /^[0-9a-f]{64}$/);
  t.like(file('/dev/null'), { kind: 'device' });
  t.like(file(scratch), { kind: 'directory', how: 'cwd' });
  t.regex(plan.files.find(({ path }) => path.includes('libc.so'))?.buildId ?? '', /^[0-9a-f]{40}$/);
  t.is(new Set(plan.files.map(({ path }) => path)).size, plan.files.length);
});

const USES = `
  const fs = require('node:fs');
  const [directory] = process.argv.slice(1);
  fs.mkdirSync(directory + '/watched');
  fs.watch(directory + '/watched');
  for (const [name, size] of [['gone', 1 << 20], ['gone too', 1 << 18]]) {
    const file = fs.openSync(directory + '/' + name, 'w+');
    fs.writeSync(file, Buffer.alloc(size, 'x'));
    fs.ftruncateSync(file, 1 << 30); // a hole, which takes nothing
    fs.openSync(directory + '/' + name, 'r');
    fs.unlinkSync(directory + '/' + name);
  }
  console.log('ready');
  setInterval(() => {}, 1000);
`;

test('the plan has what is watched, and what deleted files take on the disk', async (t) => {
  const child = await start('-e', USES, scratch);
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout!, 'data');
  const plan = planSchema.parse(JSON.parse(JSON.stringify(await readPlan(child.pid!))));
  t.like(plan.files.find(({ path }) => path === join(scratch, 'watched')), { how: 'watched', kind: 'directory' });
  t.is(plan.files.filter(({ path }) => path.includes('gone')).length, 0);
  const [deleted, ...more] = plan.deletedFiles;
  t.deepEqual(more, []);
  t.is(deleted?.directory, scratch);
  const { bytes = 0 } = deleted ?? {};
  t.true(bytes >= 5 << 18 && bytes < 7 << 18, `${bytes} bytes`);
});

test('sockets of other processes are not in the plan', async (t) => {
  const server = createServer().listen(0);
  await once(server, 'listening');
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  t.teardown(() => (server.close(), child.kill()));
  await once(child, 'spawn');
  const plan = await readPlan(child.pid!);
  t.false(plan.sockets.some(({ port }) => port === (server.address() as AddressInfo).port));
  t.deepEqual(plan.tids, [child.pid!]);
});

test('a plan from the wire is refused if it exceeds what any process has', async (t) => {
  const plan = await readPlan(process.pid);
  t.notThrows(() => planSchema.parse(plan));
  t.throws(() => planSchema.parse({ ...plan, pid: -1 }));
  t.throws(() => planSchema.parse({ ...plan, tids: Array.from({ length: 40_000 }, (_, at) => at + 1) }));
  t.throws(() => planSchema.parse({ ...plan, extra: 1 }));
  t.throws(() => planSchema.parse({ ...plan, files: [{ ...plan.files[0], path: 'relative' }] }));
});

test('what is no program to move is refused with one sentence', async (t) => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  t.teardown(() => child.kill());
  await once(child, 'spawn');
  await t.notThrowsAsync(requireProgram(child.pid!));

  const gone = spawn('true', { stdio: 'ignore' });
  await once(gone, 'exit');
  await t.throwsAsync(requireProgram(gone.pid!), { code: 'ERR_NO_PROCESS', message: /^There is no process \d+ on / });
  await t.throwsAsync(requireProgram(process.pid), { code: 'ERR_OWN_PROCESS' });
  await t.throwsAsync(requireProgram(1), { code: 'ERR_INIT' });
  const thread = (await readPlan(process.pid)).tids.find((tid) => tid !== process.pid)!;
  await t.throwsAsync(requireProgram(thread), { code: 'ERR_NO_PROCESS', message: /is a thread of process/ });
});

test('a thread of the kernel is refused', async (t) => {
  const kthreadd = await readStatus(2).catch(() => undefined);
  if (kthreadd?.get('Name') !== 'kthreadd') {
    t.pass('this pid namespace shows none');
    return;
  }
  await t.throwsAsync(requireProgram(2), { code: 'ERR_KERNEL_THREAD', message: /kthreadd/ });
});

test('descriptors that come and go while a plan is made are no error', async (t) => {
  const child = spawn('python3', ['-c', 'import glob, os\nnames = glob.glob(os.path.dirname(os.__file__) + "/*.py")[:100]\nwhile True: held = [open(name) for name in names]; del held'], { stdio: 'ignore' });
  t.teardown(() => child.kill());
  await once(child, 'spawn');
  while ((await readDescriptors(child.pid!)).length < 20) {
    await sleep(20); // it becomes python3 first
  }
  for (let i = 0; i < 20; i++) {
    const { exe } = await readPlan(child.pid!);
    t.regex(exe, /python3/);
  }
});

test('memory that a parent shares with its children counts once', async (t) => {
  const children = 4;
  const child = spawn('python3', ['-c', `import os, time\nb = bytearray(64 << 20)\nfor i in range(${children}):\n  if os.fork() == 0: break\nelse: print("ready", flush=True)\ntime.sleep(60)`], { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  t.teardown(() => process.kill(-child.pid!, 'SIGKILL'));
  await once(child.stdout!, 'data');
  const { processes, rssBytes } = await readPlan(child.pid!);
  t.is(processes.length, 1 + children);
  t.true(rssBytes >= 64 << 20 && rssBytes < 2 * (64 << 20), `${rssBytes} bytes`);
});
