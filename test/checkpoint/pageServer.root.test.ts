/** Dumps whose pages go to another host. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync, chmodSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Bed } from '../moves/bed.ts';

const bed = new Bed('page-server-test');

test.before(() => bed.up());
test.after.always(() => bed.down());

const phaul = (host: string, ...words: string[]) => bed.on(host, 'phaul', ...words);

interface Written {
  bytes: number;
  writtenBytes: number;
}

const here = (name: string): string => join(bed.directory, `${name}.here`);
const there = (name: string): string => join(bed.directory, `${name}.there`);

const send = (command: 'dump' | 'pre-dump', pid: number, name: string, ...options: string[]) =>
  phaul('alpha', command, '-t', String(pid), '-D', here(name), '--page-server', `root@beta:${there(name)}`, '--json', ...options);

async function written(t: ExecutionContext, ...args: Parameters<typeof send>): Promise<Written> {
  const { exitCode, stdout, stderr } = await send(...args);
  t.is(exitCode, 0, stderr);
  return JSON.parse(stdout) as Written;
}

const isPages = (file: string): boolean => file.startsWith('pages-');

for (const [victim, options = []] of [['static_writer'], ['tree'], ['memfd'], ['ghosts', ['--link-remap', '--file-locks']]] satisfies [string, string[]?][]) {
  test.serial(`${victim}: a dump whose pages go to another host can be restored there`, async (t) => {
    const name = `${victim}.sent`;
    const pid = await bed.victim(name, ...(victim === 'static_writer' ? ['16', '20'] : []));
    await written(t, 'dump', pid, name, ...options);
    t.false(await bed.alive('alpha', pid));
    const files = readdirSync(there(name)).toSorted();
    t.deepEqual(readdirSync(here(name)).toSorted(), files.filter((file) => !isPages(file)));
    t.true(files.some(isPages));
    for (const file of files.filter((some) => !isPages(some))) {
      t.deepEqual(readFileSync(join(there(name), file)), readFileSync(join(here(name), file)), file);
    }
    const lacking = await phaul('alpha', 'restore', '-D', here(name));
    t.is(lacking.exitCode, 1);
    t.regex(lacking.stderr, /opening pages-\d+\.img/);
    const { exitCode, stderr } = await phaul('beta', 'restore', '-D', there(name));
    t.is(exitCode, 0, stderr);
    t.is(await bed.verdict('beta', pid, name), 'ok');
  });
}

test.serial('pages that the other host has from a pre-dump do not go there again', async (t) => {
  for (const victim of ['static_writer', 'memfd']) {
    const [first, second, last] = ['1', '2', '3'].map((link) => `${victim}.chain-${link}`) as [string, string, string];
    const report = `${victim}.chained`;
    const pid = await bed.victim(report, ...(victim === 'static_writer' ? ['16', '20'] : []));
    const all = await written(t, 'pre-dump', pid, first);
    t.is(all.writtenBytes, all.bytes);
    const some = await written(t, 'pre-dump', pid, second, '--prev-images-dir', `../${first}.there`);
    t.true(some.writtenBytes < some.bytes / 2, `${some.writtenBytes} of ${some.bytes}`);
    const few = await written(t, 'dump', pid, last, '--prev-images-dir', `../${second}.there`, '--auto-dedup');
    t.true(few.writtenBytes < few.bytes / 2, `${few.writtenBytes} of ${few.bytes}`);
    t.is((await phaul('beta', 'restore', '-D', there(last))).exitCode, 0);
    t.is(await bed.verdict('beta', pid, report), 'ok');
  }
});

test.serial('what fails on either side leaves the process running, and no images on either', async (t) => {
  const name = 'static_writer.failing';
  const pid = await bed.victim(name, '4', '10');
  const fails = async (exitCode: number, why: RegExp, place: string, ...options: string[]): Promise<void> => {
    const failed = await phaul('alpha', 'dump', '-t', String(pid), '-D', here(name), '--page-server', place, ...options);
    t.is(failed.exitCode, exitCode, failed.stderr);
    t.regex(failed.stderr, why);
    t.deepEqual(existsSync(here(name)) ? readdirSync(here(name)) : [], []);
  };
  const place = `root@beta:${there(name)}`;
  await fails(2, /"root@beta:there" is no directory of a host/, 'root@beta:there');
  await fails(2, /On beta: \/proc\/nowhere can't be used for images/, 'root@beta:/proc/nowhere');
  await fails(2, /On beta: .*nowhere, the checkpoint before by --prev-images-dir \.\.\/nowhere, is no directory/, place, '--prev-images-dir', '../nowhere');
  const other = await bed.victim('static_writer.other', '4', '10');
  await written(t, 'pre-dump', other, 'other');
  await fails(1, new RegExp(`the checkpoint before on the other host has no memory of pid ${pid}`), place, '--prev-images-dir', '../other.there');
  t.is(await bed.verdict('alpha', other, 'static_writer.other'), 'ok');
  const full = join(bed.directory, 'full');
  mkdirSync(full);
  await bed.on('beta', 'mount', '-t', 'tmpfs', '-o', 'size=2m', 'full', full);
  await fails(1, /On beta: .*writing pages-1\.img: ENOSPC/, `root@beta:${full}/images`);
  t.is((await bed.on('beta', 'ls', `${full}/images`)).stdout, '');
  const script = join(bed.directory, 'refuse.sh');
  writeFileSync(script, '#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != post-dump ] || exit 9\n');
  chmodSync(script, 0o755);
  await fails(1, /failed at post-dump: it ended with 9/, place, '--action-script', script);
  for (let i = 0; i < 100 && readdirSync(there(name)).length > 0; i++) {
    await sleep(50);
  }
  t.deepEqual(readdirSync(there(name)), []);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('a page server that is killed leaves the process running', async (t) => {
  const name = 'static_writer.cut';
  const pid = await bed.victim(name, '64', '10');
  const script = join(bed.directory, 'kill.sh');
  // The process stands still, and nothing was sent yet.
  writeFileSync(script, `#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != network-lock ] || ssh -n root@beta 'kill -9 $(pgrep -f "cli[.]ts page-server")'\n`);
  chmodSync(script, 0o755);
  const { exitCode, stderr } = await send('dump', pid, name, '--action-script', script);
  t.is(exitCode, 1);
  t.regex(stderr, /The way to beta, where the pages go, ended/);
  t.deepEqual(readdirSync(here(name)), []);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
  t.is((await phaul('beta', 'restore', '-D', there(name))).exitCode, 2);
});
