import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import test from 'ava';
import { $ as shell } from 'zx';
import type { DoneEvent, EventOf, PhaulEvent } from '../../src/events.ts';

// A set of its own: the default one may be in use by a person, and another checkout may be tested at the same time.
const env = { ...process.env, PHAUL_TWO_HOSTS: `cli-test-${basename(process.cwd())}` };
const $ = shell({ nothrow: true, quiet: true, env });
const on = (host: string, ...command: string[]) => $`scripts/two-hosts exec ${host} -- ${command}`;

const events = (stdout: string): PhaulEvent[] => stdout.trim().split('\n').map((line) => JSON.parse(line) as PhaulEvent);
const last = (stdout: string): DoneEvent => events(stdout).at(-1) as DoneEvent;

/** What runs the tests may have left descriptors open that nobody told it about. */
const CLOSE_ALL = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done';

/** A program that holds nothing but /dev/null. */
async function start(host: string, program = 'sleep'): Promise<string> {
  const { stdout } = await on(host, 'bash', '-c', `${CLOSE_ALL}; exec setsid ${program} 1000 </dev/null >/dev/null 2>&1 & echo $!`);
  return stdout.trim();
}

const runsOn = async (host: string, pid: string): Promise<boolean> => (await on(host, 'kill', '-0', pid)).exitCode === 0;

test.before(async (t) => {
  const { exitCode, stderr } = await $`scripts/two-hosts up`;
  t.is(exitCode, 0, stderr);
});

test.after.always(async () => {
  await $`scripts/two-hosts down`;
});

test.serial('check says that a process can move, alone and to a host', async (t) => {
  const pid = await start('alpha');
  for (const host of [[], ['root@beta']]) {
    const { exitCode, stdout, stderr } = await on('alpha', 'phaul', 'check', pid, ...host);
    t.is(exitCode, 0, stdout + stderr);
    t.regex(stdout, new RegExp(`^sleep \\(pid ${pid}\\)  1 thread  .* resident\n[^]*It can move${host.length > 0 ? ' to beta' : ''}\\.\n$`));
  }
});

test.serial('obstacles of both hosts stand in one list, and the process stays', async (t) => {
  await on('alpha', 'cp', '/bin/sleep', '/dev/shm/here-only');
  const pid = await start('alpha', '/dev/shm/here-only');
  await on('beta', 'sh', '-c', `echo ${Number(pid) - 1} >/proc/sys/kernel/ns_last_pid; sleep 1000 </dev/null >/dev/null 2>&1 & echo $!`);
  const check = await on('alpha', 'phaul', 'check', pid, 'beta', '--json');
  t.is(check.exitCode, 1);
  const codes = (events(check.stdout)[0] as EventOf<'preflight'>).obstacles.map(({ code, host }) => `${host} ${code}`);
  t.true(codes.includes('beta FILE_MISSING'));
  t.true(codes.includes('beta PID_TAKEN'));

  const { exitCode, stdout, stderr } = await on('alpha', 'phaul', 'migrate', pid, 'beta', '--json');
  t.is(exitCode, 1);
  t.is(last(stdout).error?.code, 'ERR_OBSTACLES');
  t.true((last(stdout).error?.obstacles?.length ?? 0) >= 2);
  t.regex(stderr, /^phaul: not moved, .* still runs on alpha: [^]*\n {2}- .*is missing on beta/);
  t.true(await runsOn('alpha', pid));
});

test.serial('a move is told by its last line and its exit code', async (t) => {
  const pid = await start('alpha');
  const { exitCode, stdout, stderr } = await on('alpha', 'phaul', 'migrate', pid, 'root@beta');
  t.is(exitCode, 0, stderr);
  t.regex(stdout, new RegExp(`\nmoved sleep \\(pid ${pid}\\) to beta: downtime [\\d.]+ ms, total [\\d.]+ m?s, \\d+ rounds?, .* sent\n$`));
  t.true(await runsOn('beta', pid));
  t.false(await runsOn('alpha', pid));
});

test.serial('the events of a move come in order and end with its figures', async (t) => {
  const pid = await start('alpha');
  const { exitCode, stdout, stderr } = await on('alpha', 'phaul', 'migrate', pid, 'root@beta', '--json');
  t.is(exitCode, 0, stderr);
  const kinds = [...new Set(events(stdout).map(({ event }) => event))].filter((kind) => kind !== 'notice');
  t.deepEqual(kinds, ['connect', 'preflight', 'arm', 'round', 'freeze', 'commit', 'done']);
  const done = last(stdout);
  t.like(done, { outcome: 'moved', pid: Number(pid), comm: 'sleep', host: 'beta', error: undefined });
  t.true(done.downtimeMs > 0 && done.downtimeMs < done.totalMs && done.rounds.length > 0 && done.bytesSent > 0 && done.rssBytes > 0);
});

test.serial('a reader of the events that goes away does not stop the move', async (t) => {
  const pid = await start('alpha');
  await on('alpha', 'sh', '-c', `phaul migrate ${pid} root@beta --json | head -n 1`);
  t.true(await runsOn('beta', pid));
  t.false(await runsOn('alpha', pid));
});

test.serial('a stop before the commit leaves the process where it was', async (t) => {
  const pid = await start('alpha');
  const child = spawn('scripts/two-hosts', ['exec', 'alpha', 'phaul', 'migrate', pid, 'root@beta', '--json'], { env, stdio: ['ignore', 'pipe', 'ignore'] });
  const lines: string[] = [];
  for await (const line of createInterface(child.stdout)) {
    if (lines.push(line) === 1) {
      child.kill('SIGTERM');
    }
  }
  const [status] = child.exitCode === null ? ((await once(child, 'exit')) as [number]) : [child.exitCode];
  t.is(status, 1);
  t.like(JSON.parse(lines.at(-1) ?? ''), { event: 'done', outcome: 'failed', host: 'alpha', error: { code: 'ERR_INTERRUPTED' } });
  t.true(await runsOn('alpha', pid));
  t.false(await runsOn('beta', pid));
});

test.serial('a host that can not be reached is one sentence, and exit code 1', async (t) => {
  const pid = await start('alpha');
  for (const [host, code] of [['nowhere.invalid', 'RESOLVE'], ['beta:2222', 'UNREACHABLE'], ['nobody@beta', 'AUTH']] as const) {
    const { exitCode, stdout, stderr } = await on('alpha', 'phaul', 'migrate', pid, host, '--json');
    t.is(exitCode, 1);
    t.is(last(stdout).error?.code, `ERR_REACH_${code}`);
    t.is(stderr.trim().split('\n').length, 1);
  }
  t.true(await runsOn('alpha', pid));
});

test.serial('an ssh connection that ends before an agent is there is told as that', async (t) => {
  const script = `
    const { reach } = await import('${join(process.cwd(), 'src/reach.ts')}');
    const way = await reach({ destination: 'root@beta', acceptNewHostKey: false });
    way.close();
    await way.open().catch(({ code, message }) => console.log(code, message));`;
  const { stdout } = await on('alpha', process.execPath, '--input-type=module', '-e', script);
  t.regex(stdout, /^ERR_LINK_LOST The ssh connection to beta ended before phaul was started there/);
});
