import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('moves-test');

/** More of the same, by hand: PHAUL_LONG=1. */
const CHURN_MOVES = process.env['PHAUL_LONG'] === undefined ? 6 : 50;

test.before(() => bed.up());
test.after.always(() => bed.down());

const other = (host: string): string => (host === 'alpha' ? 'beta' : 'alpha');

test.serial('a static program that writes all the time moves there and back', async (t) => {
  const pid = await bed.victim('static_writer', '32', '10000');
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, done, stderr } = await bed.migrate(from, pid, to, '--verify');
    t.is(exitCode, 0, stderr);
    t.is(done.outcome, 'moved');
    t.false(await bed.alive(from, pid));
  }
  t.is(await bed.verdict('alpha', pid, 'static_writer'), 'ok');
});

test.serial('a kernel that can\'t tell which pages are written takes one round', async (t) => {
  const pid = await bed.victim('static_writer.untracked', '16', '10000');
  const { exitCode, done, stderr } = await bed.migrate('alpha', pid, 'beta', '--verify', '--tracker', 'none');
  t.is(exitCode, 0, stderr);
  t.is(done.rounds.length, 1);
  t.true(done.bytesSent > 2 * 16 * 2 ** 20);
  t.is(await bed.verdict('beta', pid, 'static_writer.untracked'), 'ok');
});

test.serial('a way of tracking that a kernel hasn\'t got is refused by name', async (t) => {
  const pid = await bed.victim('static_writer.refused', '1', '1');
  const { exitCode, done } = await bed.migrate('alpha', pid, 'beta', '--tracker', 'soft-dirty');
  if (exitCode === 0) {
    t.log('this kernel has soft-dirty bits');
    t.is(await bed.verdict('beta', pid, 'static_writer.refused'), 'ok');
    return;
  }
  t.is(exitCode, 1);
  t.regex(done.error?.obstacles?.find(({ code }) => code === 'TRACKER')?.sentence ?? '', /CONFIG_MEM_SOFT_DIRTY/);
  t.is(await bed.verdict('alpha', pid, 'static_writer.refused'), 'ok');
});

for (const [victim, what, ...args] of [
  ['churn', 'memory that is mapped, unmapped, moved and dropped meanwhile stays right', '32'],
  ['cow', 'what children share with their parent stays right, and shared, whoever is born and writes meanwhile', '4', 'restless'],
  ['family', 'children that come and go, run other programs and have children meanwhile are all there'],
] as const) {
  test.serial(`${what}, move after move`, async (t) => {
    const pid = await bed.victim(victim, ...args);
    let host = 'alpha';
    for (let i = 0; i < CHURN_MOVES; i++) {
      const { exitCode, stderr } = await bed.migrate(host, pid, other(host), '--verify');
      t.is(exitCode, 0, `move ${i + 1}: ${stderr}`);
      host = other(host);
    }
    t.is(await bed.verdict(host, pid, victim), 'ok');
  });
}

test.serial('what a parent and its children share is sent once, and is in memory once, there and back', async (t) => {
  const sharedMib = 32; // by seven; one of them can't share while it runs
  const pid = await bed.victim('cow.quiet', String(sharedMib));
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, done, stderr } = await bed.migrate(from, pid, to, '--verify');
    t.is(exitCode, 0, stderr);
    t.true(done.bytesSent < 3 * sharedMib * 2 ** 20, `${done.bytesSent} bytes were sent`);
  }
  t.is(await bed.verdict('alpha', pid, 'cow.quiet'), 'ok');
});

test.serial('hundreds of threads move', async (t) => {
  // Thread ids that the other host has taken are a matter of luck: a few tries.
  for (let attempt = 1; ; attempt++) {
    const name = `static_writer.threads${attempt}`;
    const pid = await bed.victim(name, '16', '1000', '300');
    const { exitCode, done, stderr } = await bed.migrate('alpha', pid, 'beta');
    if (done.error?.code === 'ERR_OBSTACLES' && attempt < 4) {
      await bed.on('alpha', 'kill', '-KILL', String(pid));
      continue;
    }
    t.is(exitCode, 0, stderr);
    t.regex(await bed.status('beta', pid), /^Threads:\t301$/m);
    t.is(await bed.verdict('beta', pid, name), 'ok');
    break;
  }
});

test.serial('python3 goes on computing', async (t) => {
  writeFileSync(
    bed.report('sum.py'),
    `import hashlib, signal, sys\nh = b''\nn = 0\ndef end(*_):\n    open(${JSON.stringify(bed.report('sum'))}, 'w').write('%d %s\\n' % (n, h.hex()))\n    sys.exit(0)\nsignal.signal(signal.SIGTERM, end)\nwhile True:\n    t = hashlib.sha256(h).digest()\n    h, n = t, n + 1\n`,
  );
  const pid = await bed.start('alpha', 'python3', bed.report('sum.py'));
  await sleep(300);
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 0, stderr);
  await bed.on('beta', 'kill', '-TERM', String(pid));
  await bed.hear('sum', '1', '2', '3', '4', '5', '6', '7', '8', '9');
  const [rounds = '0', sum] = readFileSync(bed.report('sum'), 'utf8').trim().split(' ');
  let hash = Buffer.alloc(0);
  for (let i = 0; i < Number(rounds); i++) {
    hash = createHash('sha256').update(hash).digest();
  }
  // The signal may come between the hash and the count.
  const next = createHash('sha256').update(hash).digest();
  t.true(sum === hash.toString('hex') || sum === next.toString('hex'));
});

test.serial('node goes on serving HTTP', async (t) => {
  const node = await bed.nodeWithoutIoUring();
  if (node === undefined) {
    t.log('skipped: no node before version 22 on this machine, and later ones hold io_uring instances');
    t.pass();
    return;
  }
  writeFileSync(
    bed.report('server.mjs'),
    `import http from 'node:http';\nlet ticks = 0;\nsetInterval(() => ticks++, 5);\nhttp.createServer((_, r) => r.end(JSON.stringify({ pid: process.pid, ticks }))).listen(8080, '0.0.0.0');\n`,
  );
  const pid = await bed.start('alpha', node, bed.report('server.mjs'));
  const ask = async (host: string): Promise<{ pid: number; ticks: number }> => {
    for (let i = 0; i < 100; i++) {
      const { exitCode, stdout } = await bed.on(host, 'bash', '-c', 'exec 3<>/dev/tcp/127.0.0.1/8080 && printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3 && tail -n1 <&3');
      if (exitCode === 0) {
        return JSON.parse(stdout) as { pid: number; ticks: number };
      }
      await sleep(50);
    }
    throw new Error(`no answer on ${host}`);
  };
  const before = await ask('alpha');
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta', '--tcp', 'close');
  t.is(exitCode, 0, stderr);
  const after = await ask('beta');
  t.is(after.pid, before.pid);
  t.true(after.ticks > before.ticks);
  await bed.on('beta', 'kill', '-KILL', String(pid));
});

test.serial('redis keeps its data', async (t) => {
  const pid = await bed.start('alpha', 'redis-server', '--save', '', '--bind', '127.0.0.1', '--enable-debug-command', 'yes', '--dir', '/tmp', '--logfile', '');
  const cli = async (host: string, ...command: string[]): Promise<string> => (await bed.on(host, 'redis-cli', ...command)).stdout.trim();
  for (let i = 0; i < 100 && (await cli('alpha', 'ping')) !== 'PONG'; i++) {
    await sleep(50);
  }
  await cli('alpha', 'debug', 'populate', '100000', 'key', '200');
  const digest = await cli('alpha', 'debug', 'digest');
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta', '--tcp', 'close');
  t.is(exitCode, 0, stderr);
  t.is(await cli('beta', 'debug', 'digest'), digest);
  t.is(await cli('beta', 'dbsize'), '100000');
  await bed.on('beta', 'kill', '-KILL', String(pid));
});

test.serial('an established connection is refused by name, and nothing is changed', async (t) => {
  const pid = await bed.start('alpha', 'python3', '-c', 'import socket, time\ns = socket.create_server(("127.0.0.1", 7070))\nc = socket.create_connection(("127.0.0.1", 7070))\na = s.accept()\ntime.sleep(1000)');
  await sleep(500);
  const { exitCode, stdout } = await bed.on('alpha', 'phaul', 'check', String(pid), '--tcp', 'refuse');
  t.is(exitCode, 1);
  t.regex(stdout, /fd \d+ is .*TCP connection.*127\.0\.0\.1:7070/);
  const { done } = await bed.migrate('alpha', pid, 'beta', '--tcp', 'refuse');
  t.is(done.error?.code, 'ERR_OBSTACLES');
  t.true(await bed.alive('alpha', pid));
  t.false(await bed.alive('beta', pid));
  const moved = await bed.migrate('alpha', pid, 'beta', '--tcp', 'close');
  t.is(moved.exitCode, 0, moved.stderr);
  await bed.on('beta', 'kill', '-KILL', String(pid));
});

test.serial('what can not move is named, all of it in one list', async (t) => {
  const parent = await bed.start('alpha', 'python3', '-c', 'import os, socket, time\na, b = socket.socketpair()\nm, s = os.openpty()\nif os.fork() == 0:\n  os.close(m)\n  os.fork()\ntime.sleep(1000)');
  await sleep(500);
  const child = Number((await bed.on('alpha', 'pgrep', '-P', String(parent))).stdout);
  const { exitCode, stdout } = await bed.on('alpha', 'phaul', 'check', String(child));
  t.is(exitCode, 1);
  for (const what of [/in pid \d+: fd 4 is a unix socket without a name that pid \d+ \(python3\) holds too/, /fd \d+ is .*terminal/]) {
    t.regex(stdout, what);
  }
  await bed.on('alpha', 'pkill', '-KILL', '-s', String(parent));
});
