import { spawn, execFile } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { mkdtempSync } from 'node:fs';
import { copyFile, rm, utimes, writeFile, stat, truncate } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import type { Obstacle } from '../../src/errors.ts';
import { listThreads } from '../../src/proc.ts';
import { readPlan, type Plan } from '../../src/source/plan.ts';
import { preflight } from '../../src/target/preflight.ts';

const scratch = mkdtempSync(join(tmpdir(), 'phaul-preflight-'));
test.after.always(() => rm(scratch, { recursive: true }));

let running: Plan;

test.before(async () => {
  const sleeper = spawn('sleep', ['300'], { cwd: scratch, stdio: 'ignore' });
  await once(sleeper, 'spawn');
  running = await readPlan(sleeper.pid!);
  sleeper.kill();
  await once(sleeper, 'exit');
  await writeFile(file, 'abcd');
});

const file = join(scratch, 'data');
const fileEntry = {
  path: file,
  kind: 'file',
  how: 'open',
  writable: false,
  size: 4,
  diskBytes: 4,
  mtimeMs: 0,
  inode: 0,
  bornMs: 0,
  mode: 0o644,
  sha256: '88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589',
} as const;
const check = (changes: Partial<Plan> = {}): Promise<Obstacle[]> => preflight({ ...running, host: 'alpha', ...changes }, 'beta');
const codes = (obstacles: Obstacle[]): string[] => obstacles.map(({ code }) => code);

test('a process that ran here a moment ago may run here', async (t) => {
  t.deepEqual(await check(), []);
});

test('a taken pid is an obstacle that names who has it', async (t) => {
  const other = spawn('sleep', ['300'], { stdio: 'ignore' });
  await once(other, 'spawn');
  t.teardown(() => other.kill());
  const [obstacle, ...more] = await check({ pid: other.pid!, tids: [other.pid!] });
  t.deepEqual(more, []);
  t.like(obstacle, { code: 'PID_TAKEN', subject: `pid ${other.pid}`, host: 'beta' });
  t.regex(obstacle!.sentence, new RegExp(`^Pid ${other.pid} of sleep is taken on beta by sleep \\(pid ${other.pid}\\): stop that process`));
});

test('threads of other processes count, and one owner is one obstacle', async (t) => {
  const others = (await listThreads(process.pid)).filter((tid) => tid !== process.pid);
  const obstacles = await check({ tids: [running.pid, ...others] });
  t.deepEqual(codes(obstacles), ['PID_TAKEN_BY_PHAUL']);
  t.regex(obstacles[0]!.sentence, /its agent and ssh session have other pids then/);
});

test('a pid beyond pid_max is an obstacle with the setting that mends it', async (t) => {
  const [obstacle] = await check({ pid: 4_194_304, tids: [4_194_304] });
  t.like(obstacle, { code: 'PID_TOO_LARGE' });
  t.regex(obstacle!.sentence, /sysctl kernel\.pid_max=/);
});

test('missing and differing files are named with both values and the mend', async (t) => {
  const obstacles = await check({
    files: [
      fileEntry,
      { ...fileEntry, path: join(scratch, 'absent') },
      { ...fileEntry, size: 5 },
      { ...fileEntry, sha256: 'f'.repeat(64) },
      { ...fileEntry, buildId: '00ff', sha256: undefined as never, how: 'mapped' },
      { ...fileEntry, how: 'exe' },
      { ...fileEntry, kind: 'directory', how: 'cwd' },
      { ...fileEntry, path: join(scratch, 'nowhere'), kind: 'directory', how: 'cwd' },
    ],
  });
  t.deepEqual(codes(obstacles), ['FILE_MISSING', 'FILE_DIFFERS', 'FILE_DIFFERS', 'FILE_DIFFERS', 'FILE_MODE', 'FILE_KIND', 'DIRECTORY_MISSING']);
  const sentences = obstacles.map(({ sentence }) => sentence);
  t.is(sentences[0], `${scratch}/absent, which is open in sleep, is missing on beta: run "rsync -a ${scratch}/absent root@beta:${scratch}/" on alpha.`);
  t.regex(sentences[1]!, /differs: size 5 bytes on alpha, 4 bytes on beta; run "rsync/);
  t.regex(sentences[2]!, /differs: sha256 ffffffffffffffff… on alpha, 88d4266fd4e6338d… on beta/);
  t.regex(sentences[3]!, /differs: build id 00ff on alpha, none on beta; install the same package there, or run/);
  t.true(sentences.every((sentence) => sentence.includes('beta')));
});

test('of a file that the process may write to, only the size counts', async (t) => {
  const { sha256: _, ...written } = { ...fileEntry, writable: true };
  t.deepEqual(await check({ files: [written] }), []);
  t.deepEqual(codes(await check({ files: [{ ...written, size: 3 }] })), ['FILE_DIFFERS']);
});

test('an open file on a shared file system may have grown since, a copy on a cloned disk may not', async (t) => {
  const log = join(scratch, 'log');
  await copyFile(file, log);
  const { ino, mtimeMs } = await stat(log);
  const { sha256: _, ...entry } = { ...fileEntry, path: log, writable: true, inode: ino, mtimeMs };
  await truncate(log, 9);
  await utimes(log, new Date(), new Date(mtimeMs + 5000));
  t.deepEqual(await check({ files: [entry] }), []);
  await utimes(log, new Date(), new Date(mtimeMs - 5000));
  t.deepEqual(codes(await check({ files: [entry] })), ['FILE_DIFFERS']);
});

test('what a process watches must be there, whatever is in it', async (t) => {
  const watched = { ...fileEntry, how: 'watched', size: 99, writable: true } as const;
  t.deepEqual(await check({ files: [watched] }), []);
  const [obstacle, ...more] = await check({ files: [{ ...watched, path: join(scratch, 'absent') }] });
  t.deepEqual(more, []);
  t.like(obstacle, { code: 'FILE_MISSING' });
  t.regex(obstacle!.sentence, /absent, which is watched \(inotify, fanotify\) by sleep, is missing on beta: run "rsync -a /);
});

test('deleted files that come along must fit on the disk where they were', async (t) => {
  t.deepEqual(await check({ deletedFiles: [{ directory: scratch, bytes: 2 ** 20 }] }), []);
  const absent = join(scratch, 'no such directory');
  const [missing, full, ...more] = await check({ deletedFiles: [{ directory: absent, bytes: 1 }, { directory: scratch, bytes: 2 ** 49 }, { directory: dirname(scratch), bytes: 2 ** 49 }] });
  t.deepEqual(more, []);
  t.like(missing, { code: 'DIRECTORY_MISSING', subject: `directory ${absent}` });
  t.like(full, { code: 'DISK_SPACE', subject: `directory ${scratch}` });
  t.regex(full!.sentence, /^What comes along of the files that sleep uses, in .* and other directories of that file system, takes 1[, ]?024\.0 TiB, but beta has .* free there: free some, or let the program close deleted files, which take 1[, ]?024\.0 TiB of it\.$/);
});

test('files that are to come along must fit on the disk where they are to be', async (t) => {
  const large = { ...fileEntry, path: join(scratch, 'not/there/yet'), size: 2 ** 50, diskBytes: 2 ** 50 };
  const found = async (files: Plan['files'], allowed: 'missing' | 'any', inPlace = false) => preflight({ ...running, files, deletedFiles: [] }, 'beta', { allowed, inPlace });
  const [full, ...more] = await found([large, { ...large, path: join(scratch, 'another') }], 'missing');
  t.deepEqual(more, []);
  t.like(full, { code: 'DISK_SPACE', subject: `directory ${scratch}` });
  t.regex(full!.sentence, /takes 2[, ]?048\.0 TiB, but beta has .* free there: free some\.$/);
  t.deepEqual(await found([{ ...large, diskBytes: 4096 }], 'missing'), [], 'holes take none');

  const { size, blocks } = await stat(file);
  const replaced = { ...fileEntry, size: size + 1, diskBytes: 2 ** 50 };
  t.deepEqual(codes(await found([replaced], 'any')), ['DISK_SPACE'], 'what is replaced is kept until the end');
  t.deepEqual(codes(await found([{ ...replaced, diskBytes: blocks * 512 }], 'any', true)), [], 'what is there in place need not be had again');
});

test('memory and mappings that do not fit are obstacles', async (t) => {
  const obstacles = await check({ rssBytes: 2 ** 50, mappings: 2 ** 30, hugePages: [{ pageBytes: 2 ** 21, bytes: 2 ** 50 }] });
  t.deepEqual(codes(obstacles), ['MEMORY', 'MAP_COUNT', 'HUGE_PAGES']);
  t.regex(obstacles[1]!.sentence, /run "sysctl vm\.max_map_count=/);
  t.regex(obstacles[2]!.sentence, /^sleep has 1024\.0 TiB in huge pages of 2\.0 MiB, touched or reserved, but beta has .* free: run "echo \d+ > .*hugepages-2048kB\/nr_hugepages" there\.$/);
  const odd = [{ pageBytes: 12_288, bytes: 12_288 }];
  t.regex((await check({ hugePages: odd }))[0]!.sentence, /in huge pages of 12\.0 KiB, .* of beta has none of that size/);
});

test('only CPU features that programs can latch are missed, by name', async (t) => {
  const [obstacle, ...more] = await check({ cpuFlags: [...running.cpuFlags, 'amx_tile', 'apx', 'erms_of_mars', 'invpcid_single'] });
  t.deepEqual(more, []);
  t.like(obstacle, { code: 'CPU_FLAGS', subject: 'amx_tile apx' });
  t.regex(obstacle?.sentence ?? '', /--cpu-check off/);
  t.deepEqual(codes(await check({ arch: 'arm64' })), ['ARCH']);
});

test('how closely the CPUs must be the same is for the operator to say', async (t) => {
  const cpuFlags = [...running.cpuFlags, 'apx', 'invpcid_single_of_mars'];
  const lacking = async (cpuCheck: Plan['cpuCheck']) => (await check({ cpuFlags, cpuCheck })).map(({ subject }) => subject);
  t.deepEqual(await lacking('used'), ['apx']);
  t.deepEqual(await lacking('strict'), ['apx invpcid_single_of_mars']);
  t.deepEqual(await lacking('off'), []);
  const [first, ...others] = running.cpuFlags;
  const more = async (cpuCheck: Plan['cpuCheck']) => (await check({ cpuFlags: others, cpuCheck })).map(({ code, subject }) => `${code}: ${subject}`);
  t.deepEqual(await more('strict'), [`CPU_FLAGS_MORE: ${first}`]);
  t.deepEqual(await more('used'), []);
});

test('registers for which a dynamic linker has left no room are an obstacle', async (t) => {
  const old = { cpuFlags: ['xsave'], xsaveBytes: 100 };
  const found = async (change: Partial<Plan>) => codes(await check({ ...old, ...change })).filter((code) => code.startsWith('CPU'));
  t.deepEqual(await found({}), running.xsaveBytes > 100 ? ['CPU_XSAVE'] : []);
  t.deepEqual(await found({ cpuFlags: [] }), []);
  t.deepEqual(await found({ files: [] }), []);
  t.deepEqual(await found({ cpuCheck: 'off' }), []);
});

test('another page size is an obstacle, another kernel is none', async (t) => {
  t.deepEqual(codes(await check({ pageSize: 65_536 })), ['PAGE_SIZE']);
  t.deepEqual(await check({ vdso: '0'.repeat(64), kernel: '5.10', bootId: '0' }), []);
  t.deepEqual(await check({ vdso: '' }), []);
});

test('a taken port and an address that is not here are told apart', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const free = 1; // tcpmux: nothing has it
  const found = async (...sockets: Plan['sockets']) => codes(await check({ sockets }));

  t.deepEqual(await found({ protocol: 'tcp', address: '127.0.0.1', port }), ['PORT_TAKEN']);
  t.deepEqual(await found({ protocol: 'tcp', address: '0.0.0.0', port }), ['PORT_TAKEN']);
  t.deepEqual(await found({ protocol: 'tcp6', address: '::', port }), ['PORT_TAKEN']);
  t.deepEqual(await found({ protocol: 'tcp', address: '127.0.0.2', port }), []);
  t.deepEqual(await found({ protocol: 'udp', address: '127.0.0.1', port }), []);
  t.deepEqual(await found({ protocol: 'tcp', address: '0.0.0.0', port: free }, { protocol: 'tcp6', address: '::', port: free }), []);
  t.deepEqual(await found({ protocol: 'tcp', address: '192.0.2.1', port: free }), ['ADDRESS_MISSING']);
  t.deepEqual(await found({ protocol: 'tcp6', address: '2001:db8::1', port: free }), ['ADDRESS_MISSING']);
  t.deepEqual(await found({ protocol: 'udp', address: '239.1.2.3', port: free }), []);
});

test('one preflight finds obstacles of every kind at once', async (t) => {
  const found = new Set(codes(await check({ rssBytes: 2 ** 50, files: [{ ...fileEntry, size: 5 }], sockets: [{ protocol: 'tcp', address: '192.0.2.1', port: 1 }] })));
  t.deepEqual(found, new Set(['FILE_DIFFERS', 'MEMORY', 'ADDRESS_MISSING']));
});

test('an agent without the rights to build a process says which it lacks', async (t) => {
  const script = `
    const { preflight } = await import(${JSON.stringify(join(import.meta.dirname, '../../src/target/preflight.ts'))});
    const plan = JSON.parse(process.env.PLAN);
    console.log(JSON.stringify(await preflight(plan, 'beta')));`;
  const { stdout } = await promisify(execFile)(
    'setpriv',
    ['--bounding-set', '-sys_admin,-checkpoint_restore,-sys_resource', process.execPath, '--input-type=module', '-e', script],
    { env: { PLAN: JSON.stringify({ ...running, limits: { nofile: 2 ** 40, cpu: null } }) } },
  );
  const obstacles = JSON.parse(stdout) as Obstacle[];
  t.deepEqual(codes(obstacles), ['CAPABILITY', 'LIMIT']);
  t.like(obstacles[0], { subject: 'CAP_CHECKPOINT_RESTORE' });
  t.regex(obstacles[1]!.sentence, /hard limit "nofile" is 1099511627776 for sleep, but only \d+ for the agent on beta/);
});

test('obstacles carry the name of this host unless told another', async (t) => {
  const [obstacle] = await preflight({ ...running, arch: 'arm64' });
  t.is(obstacle?.host, hostname());
});
