/** Checkpoints that hang on those before them: pre-dumps, incremental dumps, and what is wrong with a chain. */
import { closeSync, cpSync, existsSync, openSync, readdirSync, readSync, renameSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Bed } from '../moves/bed.ts';

const bed = new Bed('chains-test');

test.before(() => bed.up());
test.after.always(() => bed.down());

const PAGE_BYTES = 4096;

interface Dumped {
  bytes: number;
  writtenBytes: number;
}

const phaul = (host: string, ...words: string[]) => bed.on(host, 'phaul', ...words);
const restore = (host: string, directory: string) => phaul(host, 'restore', '-D', directory);

async function write(t: ExecutionContext, command: 'dump' | 'pre-dump', pid: number, directory: string, ...options: string[]): Promise<Dumped> {
  const { exitCode, stdout, stderr } = await phaul('alpha', command, '-t', String(pid), '-D', directory, '--json', ...options);
  t.is(exitCode, 0, stderr);
  return JSON.parse(stdout) as Dumped;
}

const after = (link: string): string[] => ['--prev-images-dir', `../${link}`];

/** A pre-dump, and a dump that hangs on it, of a process that has ended since. */
async function chain(t: ExecutionContext, name: string): Promise<{ pid: number; at: (link: string) => string }> {
  const at = (link: string): string => join(bed.directory, `${name}.${link}`);
  const pid = await bed.victim(name, '4', '10');
  await write(t, 'pre-dump', pid, at('1'));
  await write(t, 'dump', pid, at('2'), ...after(`${name}.1`));
  return { pid, at };
}

/** No husk is left that nobody has let go. */
async function noneLives(t: ExecutionContext, pid: number): Promise<void> {
  for (let i = 0; i < 50 && (await bed.alive('beta', pid)); i++) {
    await sleep(20);
  }
  t.false(await bed.alive('beta', pid));
}

async function refused(t: ExecutionContext, directory: string, pid: number, why: RegExp): Promise<void> {
  const { exitCode, stderr } = await restore('beta', directory);
  t.is(exitCode, 1, stderr);
  t.regex(stderr, why);
  await noneLives(t, pid);
}

function flipBit(file: string, at: number): void {
  const fd = openSync(file, 'r+');
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, at);
  byte[0] = (byte[0] ?? 0) ^ 4;
  writeSync(fd, byte, 0, 1, at);
  closeSync(fd);
}

for (const [victim, options = []] of [['static_writer'], ['memory'], ['tree'], ['memfd'], ['sysv'], ['threads'], ['ghosts', ['--link-remap', '--file-locks']]] satisfies [string, string[]?][]) {
  test.serial(`${victim}: pages that two pre-dumps wrote are not written again, and all is as it was when it is restored`, async (t) => {
    const name = `${victim}.chain`;
    const at = (link: string): string => join(bed.directory, `${name}.${link}`);
    const pid = await bed.victim(name, ...(victim === 'static_writer' ? ['16', '20'] : []));
    const first = await write(t, 'pre-dump', pid, at('1'));
    t.is(first.writtenBytes, first.bytes);
    await write(t, 'pre-dump', pid, at('2'), ...after(`${name}.1`));
    const last = await write(t, 'dump', pid, at('3'), ...after(`${name}.2`), ...options);
    t.true(last.writtenBytes < last.bytes / 2, `${last.writtenBytes} of ${last.bytes} bytes`);
    const { exitCode, stderr } = await restore('beta', at('3'));
    t.is(exitCode, 0, stderr);
    t.is(await bed.verdict('beta', pid, name), 'ok');
  });
}

test.serial('each of several dumps of a process that goes on can be restored, until a dedup frees what later ones have replaced', async (t) => {
  const name = 'static_writer.snapshots';
  const at = (link: string): string => join(bed.directory, `${name}.${link}`);
  const pid = await bed.victim(name, '16', '100');
  await write(t, 'dump', pid, at('1'), '--leave-running');
  await sleep(500);
  await write(t, 'dump', pid, at('2'), ...after(`${name}.1`), '--leave-running');
  await sleep(500);
  await write(t, 'dump', pid, at('3'), ...after(`${name}.2`));
  for (const link of ['2', '1', '3']) {
    t.is((await restore('beta', at(link))).exitCode, 0);
    t.is(await bed.verdict('beta', pid, name), 'ok');
  }
  const pages = (link: string) => statSync(join(at(link), 'pages-1.img'));
  const before = [pages('1').blocks, pages('2').blocks];
  const size = pages('1').size;
  const { exitCode, stdout } = await phaul('alpha', 'dedup', at('3'), '--json');
  t.is(exitCode, 0);
  const { freedBytes } = JSON.parse(stdout) as { freedBytes: number };
  t.true(freedBytes > 0);
  t.true(pages('1').blocks < (before[0] ?? 0) && pages('2').blocks < (before[1] ?? 0));
  t.is(pages('1').size, size);
  t.is((await restore('beta', at('3'))).exitCode, 0);
  t.is(await bed.verdict('beta', pid, name), 'ok');
  await refused(t, at('1'), pid, /the pages [\da-f]+-[\da-f]+ in pages-1\.img are not those that were written/);
  await refused(t, at('2'), pid, /pages-1\.img are not those that were written|are others there now/);
  t.is((await phaul('alpha', 'dedup', at('1'))).exitCode, 1);
});

test.serial('--auto-dedup does so with each dump', async (t) => {
  const name = 'static_writer.auto';
  const at = (link: string): string => join(bed.directory, `${name}.${link}`);
  const pid = await bed.victim(name, '8', '50');
  await write(t, 'pre-dump', pid, at('1'));
  await sleep(500);
  await write(t, 'pre-dump', pid, at('2'), '--auto-dedup', ...after(`${name}.1`));
  await sleep(500);
  await write(t, 'dump', pid, at('3'), '--auto-dedup', ...after(`${name}.2`));
  const used = (link: string): number => statSync(join(at(link), 'pages-1.img')).blocks * 512;
  t.true(used('1') < statSync(join(at('1'), 'pages-1.img')).size);
  t.true(used('2') < statSync(join(at('2'), 'pages-1.img')).size);
  t.is((await restore('beta', at('3'))).exitCode, 0);
  t.is(await bed.verdict('beta', pid, name), 'ok');
});

test.serial('phaul-criu does the same', async (t) => {
  const name = 'static_writer.as-criu';
  const at = (link: string): string => join(bed.directory, `${name}.${link}`);
  const criu = (...words: string[]) => bed.on('alpha', join(process.cwd(), 'bin/phaul-criu'), ...words);
  const pid = await bed.victim(name, '8', '50');
  t.is((await criu('check', '--feature', 'mem_dirty_track')).exitCode, 0);
  t.is((await criu('pre-dump', '-t', String(pid), '-D', at('1'))).exitCode, 0);
  t.is((await criu('dump', '-t', String(pid), '-D', at('2'), ...after(`${name}.1`), '--track-mem')).exitCode, 0);
  t.is((await criu('dedup', '-D', at('2'))).exitCode, 0);
  t.true(statSync(join(at('2'), 'pages-1.img')).size < statSync(join(at('1'), 'pages-1.img')).size / 2);
  t.is((await criu('restore', '-D', at('2'), '-d')).exitCode, 0);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('processes that come, go and change between pre-dumps are what the dump finds at last', async (t) => {
  const name = 'family.chain';
  const at = (link: number): string => join(bed.directory, `${name}.${link}`);
  const pid = await bed.victim(name);
  await write(t, 'pre-dump', pid, at(1));
  for (let link = 2; link <= 4; link++) {
    await write(t, 'pre-dump', pid, at(link), ...after(`${name}.${link - 1}`));
  }
  await write(t, 'dump', pid, at(5), ...after(`${name}.4`));
  t.is((await restore('beta', at(5))).exitCode, 0);
  t.is(await bed.verdict('beta', pid, name), 'ok');
});

test.serial('a chain is shown', async (t) => {
  const { pid, at } = await chain(t, 'static_writer.shown');
  const inspect = (...words: string[]) => phaul('beta', 'inspect', ...words);
  const { stdout } = await inspect(at('2'));
  t.regex(stdout, /memory {2}4\.\d MiB in the images, [^,]* MiB of it in checkpoints before/);
  t.regex(stdout, new RegExp(`\\nafter ${at('1')}: pre-dump, 4\\.\\d MiB of pages`));
  t.regex((await inspect(at('1'))).stdout, new RegExp(`pre-dump, 4\\.\\d MiB of pages of pid ${pid}; it can't be restored by itself`));
  const shown = JSON.parse((await inspect(at('2'), '--json')).stdout) as { pid: number; chain: { directory: string; kind: string; link?: string }[] };
  t.is(shown.pid, pid);
  t.deepEqual(shown.chain.map(({ directory, kind, link }) => [directory, kind, link]), [[at('2'), 'checkpoint', undefined], [at('1'), 'pre-dump', '../static_writer.shown.1']]);
  renameSync(at('1'), at('away'));
  const lost = await inspect(at('2'));
  t.is(lost.exitCode, 2);
  t.regex(lost.stderr, /parent leads nowhere \(to \.\.\/static_writer\.shown\.1\)/);
  symlinkSync(at('2'), at('1'));
  t.regex((await inspect(at('2'))).stderr, /the chain of checkpoints has no first one/);
});

test.serial('a chain that is broken, foreign or damaged makes no process, and the file is named', async (t) => {
  const { pid, at } = await chain(t, 'static_writer.broken');
  const other = await chain(t, 'static_writer.foreign');
  const parent = join(at('2'), 'parent');
  const lead = (to: string): void => {
    rmSync(parent);
    symlinkSync(to, parent);
  };
  t.is((await restore('beta', at('1'))).exitCode, 2);
  lead('../nowhere');
  await refused(t, at('2'), pid, /opening parent, .* leads to \.\.\/nowhere/);
  lead('.');
  await refused(t, at('2'), pid, /parent leads to \., so that the chain of checkpoints has no first one/);
  rmSync(parent);
  await refused(t, at('2'), pid, /pagemap-\d+\.img says that page [\da-f]+ is in its parent \(flags\), .* there is no such link/);
  symlinkSync(other.at('1'), parent);
  await refused(t, at('2'), pid, new RegExp(`is in its parent \\(flags\\), and parent/pagemap-${pid}\\.img is missing: is it the parent`));

  const copy = join(bed.directory, 'broken.copy');
  const damaged = async (why: RegExp, damage: () => void): Promise<void> => {
    rmSync(copy, { recursive: true, force: true });
    cpSync(at('1'), copy, { recursive: true });
    damage();
    lead(copy);
    await refused(t, at('2'), pid, why);
  };
  await damaged(/in parent\/: inventory\.img is missing/, () => rmSync(join(copy, 'inventory.img')));
  await damaged(new RegExp(`pagemap-${pid}\\.img is not what was written`), () => flipBit(join(copy, `pagemap-${pid}.img`), 20));
  await damaged(/parent\/pages-1\.img has \d+ bytes, where parent\/pagemap/, () => truncateSync(join(copy, 'pages-1.img'), 9 * PAGE_BYTES));
  await damaged(/opening parent\/pages-1\.img/, () => rmSync(join(copy, 'pages-1.img')));
  // The first page may be one that the dump has anew.
  await damaged(/are others there now \(phaul_sum\)/, () => {
    for (let page = 0; page < statSync(join(copy, 'pages-1.img')).size / PAGE_BYTES; page++) {
      flipBit(join(copy, 'pages-1.img'), page * PAGE_BYTES + 100);
    }
  });
  // The same process, at another time.
  await damaged(/are others there now \(phaul_sum\)/, () => {
    const fd = openSync(join(copy, 'pages-1.img'), 'r+');
    writeSync(fd, Buffer.alloc(statSync(join(copy, 'pages-1.img')).size - 2 * PAGE_BYTES), 0, undefined, PAGE_BYTES);
    closeSync(fd);
  });
  lead('../static_writer.broken.1');
  t.is((await restore('beta', at('2'))).exitCode, 0);
  t.is(await bed.verdict('beta', pid, 'static_writer.broken'), 'ok');
});

test.serial('a bit that has changed in any image, or in a page, makes no process', async (t) => {
  const name = 'ghosts.flipped';
  const directory = join(bed.directory, `${name}.1`);
  const pid = await bed.victim(name);
  await write(t, 'dump', pid, directory, '--link-remap', '--file-locks');
  const images = readdirSync(directory).filter((file) => file.endsWith('.img'));
  t.true(images.some((file) => file.startsWith('ghost-file')));
  for (const image of images) {
    const copy = join(bed.directory, 'flipped.copy');
    rmSync(copy, { recursive: true, force: true });
    cpSync(directory, copy, { recursive: true });
    flipBit(join(copy, image), statSync(join(copy, image)).size - 2);
    await refused(t, copy, pid, new RegExp(`${image.replace('.', '\\.')}.* not (?:what was|those that were) written`));
  }
});

test.serial('images that are none, or are missing, make no process, and the file is named', async (t) => {
  const { pid, at } = await chain(t, 'static_writer.none');
  const copy = join(bed.directory, 'none.copy');
  const damaged = async (why: RegExp, damage: () => void): Promise<void> => {
    rmSync(copy, { recursive: true, force: true });
    cpSync(at('2'), copy, { recursive: true });
    damage();
    await refused(t, copy, pid, why);
  };
  const core = `core-${pid}.img`;
  await damaged(new RegExp(`${core} doesn't begin as such an image does \\(magic\\)`), () => writeFileSync(join(copy, core), 'a file of another kind'));
  await damaged(new RegExp(`${core} is missing, of which inventory\\.img tells`), () => rmSync(join(copy, core)));
  await damaged(new RegExp(`${core} has \\d+ bytes, and had \\d+ when it was written`), () => truncateSync(join(copy, core), 100));
  await damaged(/inventory\.img is missing, which is written last: the dump was not completed/, () => rmSync(join(copy, 'inventory.img')));
});

test.serial('what is wrong with --prev-images-dir is said, and changes nothing', async (t) => {
  const name = 'static_writer.wrong';
  const { at } = await chain(t, 'static_writer.before');
  const pid = await bed.victim(name, '4', '1000');
  const dumpAfter = (previous: string) => phaul('alpha', 'dump', '-t', String(pid), '-D', at('new'), '--prev-images-dir', previous);
  const wrong = async (previous: string, exitCode: number, why: RegExp): Promise<void> => {
    const dumped = await dumpAfter(previous);
    t.is(dumped.exitCode, exitCode, dumped.stderr);
    t.regex(dumped.stderr, why);
    t.deepEqual(existsSync(at('new')) ? readdirSync(at('new')) : [], []);
  };
  await wrong('../nowhere', 2, /the checkpoint before by --prev-images-dir \.\.\/nowhere, is no directory/);
  await wrong('node_modules', 2, /is relative to the image directory, not to where phaul is run/);
  await wrong('..', 2, /inventory\.img is missing/);
  await wrong('../static_writer.before.1', 1, new RegExp(`has the memory of pid \\d+ and none of pid ${pid}: is it of another process`));
  renameSync(at('1'), at('away'));
  await wrong('../static_writer.before.2', 1, /opening parent\/parent, .* leads to \.\.\/static_writer\.before\.1/);
  symlinkSync('../nowhere', join(at('new'), 'parent'));
  const again = await phaul('alpha', 'dump', '-t', String(pid), '-D', at('new'));
  t.is(again.exitCode, 2);
  t.regex(again.stderr, /has a link "parent" already, to \.\.\/nowhere/);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});
