/** src/remote.ts by itself, and its examples; the borrowed process notices nothing. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync, closeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { Remote } from '../../src/remote.ts';

const run = promisify(execFile);
const scratch = mkdtempSync(join(tmpdir(), 'phaul-remote-'));
test.after.always(() => rmSync(scratch, { recursive: true }));

/** Sleeps, with a file open; ends with what its sleep says when it is told to. */
async function start(seconds: number): Promise<{ child: ChildProcess; pid: number }> {
  writeFileSync(join(scratch, 'secret'), 'first second');
  const file = openSync(join(scratch, 'secret'), 'r');
  readSync(file, Buffer.alloc(6), 0, 6, null);
  const child = spawn('sleep', [String(seconds)], { stdio: [file, 'ignore', 'ignore'] });
  await once(child, 'spawn');
  closeSync(file);
  return { child, pid: child.pid! };
}

test('calls, batches, memory, descriptors and code; then it goes on as it was', async (t) => {
  const { child, pid } = await start(3);
  const maps = (): string => readFileSync(`/proc/${pid}/maps`, 'utf8');
  await new Promise((resolve) => setTimeout(resolve, 300));
  const before = maps();
  {
    using remote = Remote.attach(pid);
    t.is(remote.call(39), BigInt(pid));
    t.is(remote.call(3, 999), -9n); // close: EBADF
    const answers = remote.batch(Array.from({ length: 1000 }, (_, i) => (i % 2 === 0 ? { nr: 39, args: [] } : { nr: 3, args: [999] })));
    t.is(answers.length, 1000);
    t.true(answers.every((answer, i) => answer === (i % 2 === 0 ? BigInt(pid) : -9n)));
    const at = remote.map(8192);
    remote.write(at + 4090n, Buffer.from('across a page'));
    t.is(remote.read(at + 4090n, 13).toString(), 'across a page');
    t.throws(() => remote.read(1n, 1), { message: /reading 1 bytes at 1 of pid/ });
    remote.unmap(at, 8192);
    const own = remote.takeDescriptor(0);
    const rest = Buffer.alloc(6);
    t.is(readSync(own, rest, 0, 6, null), 6);
    closeSync(own);
    t.is(rest.toString(), 'second');
    t.throws(() => remote.takeDescriptor(77), { message: /taking fd 77 of pid/ });
    t.is(remote.run(Buffer.from('4889f848ffc0c3', 'hex'), 41), 42n); // mov rax, rdi; inc rax; ret
    t.throws(() => remote.run(Buffer.from('0f0b', 'hex')), { message: /has crashed/ }); // ud2
    t.is(remote.run(Buffer.from('b8270000000f05c3', 'hex')), BigInt(pid)); // getpid
  }
  t.is(maps(), before);
  t.deepEqual(await once(child, 'exit'), [0, null]);
  t.throws(() => Remote.attach(pid), { message: /there is no process/ });
});

test('the examples do what they say', async (t) => {
  const { child, pid } = await start(60);
  const example = async (...args: string[]): Promise<string> => (await run(process.execPath, ['examples/remote.ts', ...args])).stdout;
  t.is(await example('steal', String(pid), '0'), 'second');
  t.regex(await example('limits', String(pid)), /^\d+ now, \d+ at most\n$/);
  t.is(await example('blob', String(pid), '1000'), `${pid + 1000}\n`);
  child.kill();
});
