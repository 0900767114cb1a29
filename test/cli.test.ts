import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import test from 'ava';
import type { DoneEvent } from '../src/events.ts';

const CLI = join(import.meta.dirname, '../src/cli.ts');

function phaul(...words: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [CLI, ...words], { encoding: 'utf8' });
}

const lastEvent = (stdout: string): DoneEvent => JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as DoneEvent;

test('--help teaches: commands, examples, exit codes', (t) => {
  const { status, stdout } = phaul('--help');
  t.is(status, 0);
  for (const word of ['migrate', 'check', 'status', 'resolve', 'agent', 'Examples:', 'Exit codes:', 'README.md']) {
    t.true(stdout.includes(word), word);
  }
  for (const command of ['migrate', 'check', 'agent']) {
    const help = phaul(command, '--help');
    t.is(help.status, 0);
    t.is(help.stderr, '');
  }
  t.regex(phaul('migrate', '--help').stdout, /--max-downtime <ms>[^]*default: 300/);
});

test('--version prints the version alone', (t) => {
  t.regex(phaul('--version').stdout, /^\d+\.\d+\.\d+\n$/);
});

const WRONG: [words: string[], sentence: RegExp][] = [
  [['frob'], /^phaul: Unknown command 'frob'\.\n$/],
  [['migrate'], /^phaul: Missing required argument 'pid'\.\n$/],
  [['migrate', 'abc', 'beta'], /^phaul: "abc" is no pid: .*\n$/],
  [['migrate', '7', 'beta', '--tracker', 'magic'], /^phaul: --tracker takes auto, uffd, soft-dirty or none, not "magic"\.\n$/],
  [['migrate', '0', 'beta'], /"0" is no pid/],
  [['migrate', '-5', 'beta'], /"-5" is no pid/],
  [['migrate', '1e3', 'beta'], /"1e3" is no pid/],
  [['migrate', '4194304'], /Missing required argument 'host'/],
  [['migrate', '4194304', 'beta', 'gamma'], /Too many arguments/],
  [['migrate', '4194304', 'be@@ta'], /"be@@ta" is no host: write \[USER@\]HOST\[:PORT\]/],
  [['migrate', '4194304', 'beta:99999'], /is no host/],
  [['migrate', '4194304', '-oProxyCommand=x'], /nknown option|is no host/],
  [['migrate', '4194304', 'fd00::2'], /is no host/],
  [['migrate', '4194304', ''], /is no host/],
  [['migrate', '4194304', 'beta', '--streams', '17'], /--streams takes a whole number from 1 to 16, not "17"/],
  [['migrate', '4194304', 'beta', '--max-downtime', '1.5'], /--max-downtime takes a whole number/],
  [['migrate', '4194304', 'beta', '--tcp', 'keep'], /--tcp takes established, close or refuse, not "keep"/],
  [['migrate', '4194304', 'beta', '--cpu-check', 'all'], /--cpu-check takes used, strict or off, not "all"/],
  [['migrate', '4194304', 'beta', '--on-diverge', 'postcopy'], /--on-diverge postcopy is not available in this version/],
  [['migrate', '4194304', 'beta', '--bandwidth', '20MB'], /--bandwidth takes bytes a second, from 1K, such as 500K, 20M or 1\.5G, not "20MB"/],
  [['migrate', '4194304', 'beta', '--freeze-timeout', '0'], /--freeze-timeout takes a whole number from 10/],
  [['resolve'], /Missing required argument 'id'/],
  [['resolve', '../x'], /"\.\.\/x" is no migration: "phaul status" lists them/],
  [['resolve', 'ffff', '--keep', 'both'], /--keep takes here or there, not "both"/],
  [['migrate', '4194304', 'beta', '--frob'], /Unknown option '--frob'/],
  [['agent', '--stdio', '--socket', '/x'], /cannot be used with/],
];

for (const [words, sentence] of WRONG) {
  test(`wrong use is one sentence and exit code 2: phaul ${words.map((word) => word || "''").join(' ')}`, (t) => {
    const { status, stdout, stderr } = phaul(...words);
    t.is(status, 2);
    t.is(stdout, '');
    t.regex(stderr, sentence);
    t.is(stderr.trim().split('\n').length, 1);
  });
}

test('without a command, the help is printed and it is wrong use', (t) => {
  const { status, stderr } = phaul();
  t.is(status, 2);
  t.regex(stderr, /^Usage: phaul/);
});

test('a pid that no process has is said so, by migrate and by check', (t) => {
  for (const words of [['migrate', '4194304', 'beta'], ['check', '4194304']]) {
    const { status, stderr } = phaul(...words);
    t.is(status, 2);
    t.regex(stderr, /There is no process 4194304 on /);
  }
});

test('phaul does not move itself, its parent or init', (t) => {
  t.regex(phaul('migrate', String(process.pid), 'beta').stderr, /is phaul itself or what started it/);
  t.regex(phaul('migrate', '1', 'beta').stderr, /Process 1 .* is the init of/);
});

test('with --json the last line is a done event for failures too', (t) => {
  for (const [words, code] of [
    [['migrate', '4194304', 'beta', '--json'], 'ERR_NO_PROCESS'],
    [['migrate', 'abc', 'beta', '--json'], 'ERR_USAGE'],
    [['migrate', '--json'], 'ERR_USAGE'],
    [['migrate', '4194304', 'beta', '--on-diverge', 'throttle', '--json'], 'ERR_NOT_AVAILABLE'],
    [['check', '4194304', '--json'], 'ERR_NO_PROCESS'],
  ] as const) {
    const { status, stdout } = phaul(...words);
    t.is(status, 2);
    t.like(lastEvent(stdout), { event: 'done', outcome: 'failed', rounds: [], error: { code } });
  }
});

test('a reader that goes away does no harm', async (t) => {
  const child = spawn(process.execPath, [CLI, '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  let stderr = '';
  child.stderr.on('data', (part: Buffer) => (stderr += part));
  const [status] = (await once(child, 'exit')) as [number];
  t.is(status, 0);
  t.is(stderr, '');
});
