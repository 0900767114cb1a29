/** The operator's programs at named points, processes that are left stopped, and a phaul that is killed in between. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Bed } from '../moves/bed.ts';

const bed = new Bed('actions-test');

test.before(() => bed.up());
test.after.always(() => bed.down());

const phaul = (host: string, ...words: string[]) => bed.on(host, 'phaul', ...words);
const dump = (pid: number, directory: string, ...options: string[]) => phaul('alpha', 'dump', '-t', String(pid), '-D', directory, ...options);
const restore = (host: string, directory: string, ...options: string[]) => phaul(host, 'restore', '-D', directory, ...options);
const imagesAt = (name: string): string => join(bed.directory, `${name}.images`);

/** A program that writes down where it was, and then does `then`, where it is at `point`. */
function script(name: string, point = '', then = ''): { path: string; calls: () => string[] } {
  const path = join(bed.directory, `${name}.sh`);
  const log = `${path}.log`;
  writeFileSync(path, `#!/bin/sh\necho "$CRTOOLS_SCRIPT_ACTION $CRTOOLS_IMAGE_DIR \${CRTOOLS_INIT_PID:-none}" >>${log}\n[ "$CRTOOLS_SCRIPT_ACTION" != "${point}" ] || { ${then || ':'}\n}\n`);
  chmodSync(path, 0o755);
  return { path, calls: () => readFileSync(log, 'utf8').trim().split('\n') };
}

async function state(host: string, pid: number): Promise<string> {
  return /State:\s+(\S)/.exec(await bed.status(host, pid))?.[1] ?? '';
}

/** It stops when the kernel comes to it. */
async function stops(t: ExecutionContext, host: string, pid: number): Promise<void> {
  for (let i = 0; i < 100 && (await state(host, pid)) !== 'T'; i++) {
    await sleep(20);
  }
  t.is(await state(host, pid), 'T');
}

test.serial("action scripts are run in criu's order and environment", async (t) => {
  const name = 'static_writer.scripts';
  const directory = imagesAt(name);
  const pid = await bed.victim(name, '4', '10');
  const { path, calls } = script('calls');
  t.is((await dump(pid, directory, '--leave-running', '--action-script', path)).exitCode, 0);
  t.deepEqual(calls(), ['pre-dump', 'network-lock', 'post-dump', 'network-unlock'].map((point) => `${point} ${directory} ${pid}`));
  const other = script('others');
  const restored = await restore('beta', directory, '--action-script', path, '--action-script', other.path);
  t.is(restored.exitCode, 0, restored.stderr);
  const points = ['setup-namespaces', 'post-setup-namespaces', 'post-restore', 'network-unlock', 'pre-resume', 'post-resume'];
  t.deepEqual(other.calls(), [`pre-restore ${directory} none`, ...points.map((point) => `${point} ${directory} ${pid}`)]);
  t.deepEqual(calls().slice(4), other.calls());
  t.is(await bed.verdict('beta', pid, name), 'ok');
  const as = script('as-criu');
  const criu = await bed.on('alpha', join(process.cwd(), 'bin/phaul-criu'), 'dump', '-t', String(pid), '-D', `${directory}.criu`, '--action-script', as.path);
  t.is(criu.exitCode, 0, criu.stderr);
  t.deepEqual(as.calls().map((call) => call.split(' ')[0]), ['pre-dump', 'network-lock', 'post-dump']);
});

for (const point of ['pre-dump', 'network-lock', 'post-dump']) {
  test.serial(`a script that fails at ${point} leaves the process running, and no images`, async (t) => {
    const name = `static_writer.${point}`;
    const directory = imagesAt(name);
    const pid = await bed.victim(name, '4', '10');
    const { path, calls } = script(`fails-${point}`, point, 'echo no such cloud >&2; exit 3');
    const { exitCode, stderr } = await dump(pid, directory, '--action-script', path);
    t.is(exitCode, 1);
    t.regex(stderr, new RegExp(`action script ${path} on alpha failed at ${point}: it ended with 3, and said: no such cloud`));
    t.deepEqual(readdirSync(directory), []);
    t.is(calls().at(-1)?.split(' ')[0], point === 'pre-dump' ? 'pre-dump' : 'network-unlock');
    t.is(await bed.verdict('alpha', pid, name), 'ok');
  });
}

test.serial('a script that fails before they run leaves nothing restored, one that fails later is a warning', async (t) => {
  const name = 'static_writer.restored';
  const directory = imagesAt(name);
  const pid = await bed.victim(name, '4', '10');
  t.is((await dump(pid, directory)).exitCode, 0);
  for (const point of ['pre-restore', 'post-setup-namespaces', 'post-restore']) {
    const failed = await restore('beta', directory, '--action-script', script(`stops-${point}`, point, 'exit 1').path);
    t.is(failed.exitCode, 1);
    t.regex(failed.stderr, new RegExp(`failed at ${point}: it ended with 1`));
    t.false(await bed.alive('beta', pid));
  }
  const late = await restore('beta', directory, '--action-script', script('late', 'post-resume', 'exit 1').path);
  t.is(late.exitCode, 0);
  t.regex(late.stderr, /warning: .* failed at post-resume/);
  t.is(await bed.verdict('beta', pid, name), 'ok');
  const none = await restore('beta', directory, '--action-script', '/nowhere');
  t.is(none.exitCode, 2);
});

test.serial('processes that are left stopped go on with SIGCONT, here and restored', async (t) => {
  const name = 'static_writer.stopped';
  const directory = imagesAt(name);
  const pid = await bed.victim(name, '4', '10', '3');
  t.is((await dump(pid, directory, '--leave-stopped', '--leave-running')).exitCode, 2);
  const dumped = await dump(pid, directory, '--leave-stopped');
  t.is(dumped.exitCode, 0);
  t.regex(dumped.stdout, /; it is stopped/);
  await stops(t, 'alpha', pid);
  t.is((await restore('beta', directory, '--leave-stopped')).exitCode, 0);
  await stops(t, 'beta', pid);
  for (const host of ['beta', 'alpha']) {
    await bed.on(host, 'kill', '-CONT', String(pid));
    t.is(await bed.verdict(host, pid, name), 'ok');
  }
});

const KILL = 'kill -9 $PPID';

for (const point of ['network-lock', 'post-dump']) {
  test.serial(`a dump that is killed at ${point} leaves the process running`, async (t) => {
    const name = `inet_sockets.killed-${point}`;
    const directory = imagesAt(name);
    const pid = await bed.victim(name);
    const killed = await dump(pid, directory, '--tcp', 'established', '--action-script', script(`kills-${point}`, point, KILL).path);
    t.not(killed.exitCode, 0);
    t.notRegex((await bed.on('alpha', 'nft', 'list', 'tables')).stdout, /phaul-/);
    t.is(await bed.verdict('alpha', pid, name), 'ok');
    t.is(existsSync(join(directory, 'inventory.img')), point === 'post-dump');
    if (point === 'network-lock') {
      t.is((await restore('beta', directory)).exitCode, 2);
    }
  });
}

test.serial('images are complete when a dump is killed behind them', async (t) => {
  const name = 'static_writer.complete';
  const directory = imagesAt(name);
  const pid = await bed.victim(name, '4', '10');
  t.not((await dump(pid, directory, '--action-script', script('complete', 'post-dump', KILL).path)).exitCode, 0);
  t.is((await restore('beta', directory)).exitCode, 0);
  t.is(await bed.verdict('beta', pid, name), 'ok');
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('a dump that is killed while it writes leaves the process running, and images that are refused', async (t) => {
  const name = 'static_writer.halfway';
  const directory = imagesAt(name);
  const pid = await bed.victim(name, '256', '10');
  const running = dump(pid, directory);
  const pages = join(directory, 'pages-1.img');
  while (!(existsSync(pages) && statSync(pages).size > 0)) {
    await sleep(1);
  }
  const { stdout } = await bed.on('alpha', 'pgrep', '-f', `cli\\.ts dump -t ${pid} -D ${directory}$`);
  await bed.on('alpha', 'kill', '-KILL', stdout.trim());
  t.not((await running).exitCode, 0);
  t.false(existsSync(join(directory, 'inventory.img')));
  const refused = await restore('beta', directory);
  t.is(refused.exitCode, 2);
  t.regex(refused.stderr, /holds no checkpoint/);
  const again = await dump(pid, directory);
  t.is(again.exitCode, 2);
  t.regex(again.stderr, /holds images of a dump that was not completed/);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('a restore that is killed leaves no process, no lock, and images that can be restored', async (t) => {
  const name = 'static_writer.revived';
  const directory = imagesAt(name);
  const pid = await bed.victim(name, '4', '10');
  t.is((await dump(pid, directory)).exitCode, 0);
  for (const point of ['post-restore', 'pre-resume']) {
    t.not((await restore('beta', directory, '--action-script', script(`kills-${point}`, point, KILL).path)).exitCode, 0);
    for (let i = 0; i < 100 && (await bed.alive('beta', pid)); i++) {
      await sleep(20);
    }
    t.false(await bed.alive('beta', pid));
  }
  t.notRegex((await bed.on('beta', 'nft', 'list', 'tables')).stdout, /phaul-/);
  t.is((await restore('beta', directory)).exitCode, 0);
  t.is(await bed.verdict('beta', pid, name), 'ok');
});

test.serial('a disk that is full leaves the process running, and no images', async (t) => {
  const name = 'static_writer.full';
  const small = join(bed.directory, 'small');
  mkdirSync(small);
  t.is((await bed.on('alpha', 'mount', '-t', 'tmpfs', '-o', 'size=2m', 'small', small)).exitCode, 0);
  const pid = await bed.victim(name, '4', '10');
  for (const command of ['dump', 'pre-dump']) {
    const { exitCode, stderr } = await phaul('alpha', command, '-t', String(pid), '-D', join(small, command));
    t.is(exitCode, 1);
    t.regex(stderr, /writing pages-1\.img: ENOSPC/);
    t.is((await bed.on('alpha', 'ls', join(small, command))).stdout, '');
  }
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});
