/** A process in a directory, and back. */
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Bed } from '../moves/bed.ts';

const bed = new Bed('checkpoint-test');

test.before(() => bed.up());
test.after.always(() => bed.down());

const dump = (pid: number, directory: string, ...options: string[]) => bed.on('alpha', 'phaul', 'dump', '-t', String(pid), '-D', directory, ...options);
/** What a victim needs beside the usual. */
const OPTIONS: Record<string, string[]> = { ghosts: ['--link-remap'], locks: ['--file-locks'], inet_sockets: ['--tcp', 'established'] };
const ARGUMENTS: Record<string, string[]> = { cgroups: ['threads'] };
const ONCE = ['files', 'tree', 'ghosts', 'unix_sockets', 'sysv', 'watches', 'cgroups', 'aio', 'handles']; // they change files that are in the images
const restore = (host: string, directory: string) => bed.on(host, 'phaul', 'restore', '-D', directory, '--json');

/** Without, the victim would hold nothing. */
const HAS_AVX512 = /^flags.* avx512bw /m.test(readFileSync('/proc/cpuinfo', 'utf8'));

for (const victim of ['restarts', 'signals', 'timers', 'threads', 'files', 'memory', 'credentials', 'tree', 'ghosts', 'unix_sockets', 'inet_sockets', 'terminal', 'memfd', 'seccomp', 'sysv', 'watches', 'cgroups', 'aio', 'packets', 'handles', 'settings', 'rseq', 'clocks', 'multicast', 'locks', 'fifos', 'chroot', 'cow', 'vectors']) {
  const run = victim === 'vectors' && !HAS_AVX512 ? test.serial.skip : test.serial;
  run(`${victim}: all is as it was when it is restored, here or elsewhere`, async (t) => {
    const directory = join(bed.directory, `${victim}.images`);
    const pid = await bed.victim(victim, ...(ARGUMENTS[victim] ?? []));
    const dumped = await dump(pid, directory, ...(OPTIONS[victim] ?? []));
    t.is(dumped.exitCode, 0, dumped.stderr);
    t.false(await bed.alive('alpha', pid));
    const restored = await restore('beta', directory);
    t.is(restored.exitCode, 0, restored.stderr);
    t.is((JSON.parse(restored.stdout) as { pid: number }).pid, pid);
    t.is(await bed.verdict('beta', pid, victim), 'ok');
    if (victim === 'files') {
      const changed = await restore('alpha', directory);
      t.is(changed.exitCode, 1);
      t.regex(changed.stderr, /files\.log has 12 bytes here, 7 /);
    }
    if (ONCE.includes(victim)) {
      return;
    }
    const again = await restore('alpha', directory);
    t.is(again.exitCode, 0, again.stderr);
    if (!['restarts', 'clocks'].includes(victim)) { // by its clock, which went on meanwhile, a second life sleeps too long: it would be a test of our haste
      t.is(await bed.verdict('alpha', pid, victim), 'ok');
    }
  });
}

test.serial("a vdso of another kernel's build stays where it was, and leads into this one's", async (t) => {
  const directory = join(bed.directory, 'vdso.images');
  const pid = await bed.victim('vdso.other', 'other');
  const place = async (host: string): Promise<string> => (await bed.on(host, 'grep', '-F', '[vdso]', `/proc/${pid}/maps`)).stdout;
  const born = await place('alpha');
  const dumped = await dump(pid, directory);
  t.is(dumped.exitCode, 0, dumped.stderr);
  const restored = await restore('beta', directory);
  t.is(restored.exitCode, 0, restored.stderr);
  t.not(await place('beta'), born);
  // Where it was born is now plain memory, which leads on.
  const again = join(bed.directory, 'vdso.again.images');
  t.is((await bed.on('beta', 'phaul', 'dump', '-t', String(pid), '-D', again)).exitCode, 0);
  t.is((await restore('alpha', again)).exitCode, 0);
  t.is(await bed.verdict('alpha', pid, 'vdso.other'), 'ok');
});

test.serial("a thread in the middle of another kernel's vdso is refused", async (t) => {
  const directory = join(bed.directory, 'stuck.images');
  const pid = await bed.victim('vdso.stuck', 'stuck');
  t.is((await dump(pid, directory)).exitCode, 0);
  const restored = await restore('beta', directory);
  t.is(restored.exitCode, 1);
  t.regex(restored.stderr, /thread \d+ of pid \d+ was dumped at the beginning of a function of its kernel's vdso/);
  t.false(await bed.alive('beta', pid));
});

test.serial('on a host that has begun anew, clocks go on from where they were', async (t) => {
  const directory = join(bed.directory, 'later.images');
  const pid = await bed.victim('clocks.later');
  t.is((await dump(pid, directory)).exitCode, 0);
  await sleep(2_000);
  const another = bed.report('boot_id');
  writeFileSync(another, '01234567-89ab-cdef-0123-456789abcdef\n');
  const BOOT_ID = '/proc/sys/kernel/random/boot_id';
  const restored = await bed.on('beta', 'bash', '-c', `mount --bind ${another} ${BOOT_ID} && phaul restore -D ${directory}; code=$?; umount ${BOOT_ID}; exit $code`);
  t.is(restored.exitCode, 0, restored.stderr);
  const time = async (of: number | string): Promise<string> => (await bed.on('beta', 'readlink', `/proc/${of}/ns/time`)).stdout;
  t.not(await time(pid), await time('self'));
  t.is(await bed.verdict('beta', pid, 'clocks.later'), 'ok');
});

const V1_PIDS = '/sys/fs/cgroup/pids';

(existsSync(V1_PIDS) ? test.serial : test.serial.skip)('a control group that is not here is told of, or made (skipped without version 1 of control groups)', async (t) => {
  const directory = join(bed.directory, 'groups.images');
  const pid = await bed.victim('cgroups.elsewhere');
  const groups = async (): Promise<string> => (await bed.on('alpha', 'cat', `/proc/${pid}/cgroup`)).stdout;
  t.is((await dump(pid, directory, '--manage-cgroups')).exitCode, 0);
  const nowhere = await bed.on('alpha', 'phaul', 'restore', '-D', directory, '--cgroup-root', 'pids:/phaul-nowhere');
  t.is(nowhere.exitCode, 0, nowhere.stderr);
  t.regex(nowhere.stderr, /notice: the control group \/phaul-nowhere \(pids\) is not on this host: what was in it is in that of phaul/);
  t.regex(await groups(), /:pids:\/\n/);
  await bed.on('alpha', 'kill', '-KILL', `-${pid}`);
  const strict = await bed.on('alpha', 'phaul', 'restore', '-D', directory, '--manage-cgroups', 'strict');
  t.is(strict.exitCode, 1);
  t.regex(strict.stderr, /there is a control group \S+ here already, and --manage-cgroups strict wants none/);
  const made = await bed.on('alpha', 'phaul', 'restore', '-D', directory, '--manage-cgroups', 'soft', '--cgroup-root', `pids:/phaul-made-${pid}`);
  t.is(made.exitCode, 0, made.stderr);
  t.true((await groups()).includes(`:pids:/phaul-made-${pid}\n`));
  await bed.on('alpha', 'kill', '-KILL', `-${pid}`);
  await sleep(200);
  await bed.on('alpha', 'bash', '-c', `rmdir ${V1_PIDS}/phaul-made-${pid}/below ${V1_PIDS}/phaul-made-${pid} /sys/fs/cgroup/*/phaul-${pid}/below /sys/fs/cgroup/*/phaul-${pid}`);
  t.false(existsSync(`${V1_PIDS}/phaul-made-${pid}`));
});

test.serial('a process that is left running goes on, and can be restored when it has ended', async (t) => {
  const name = 'static_writer.left';
  const directory = join(bed.directory, 'left.images');
  const pid = await bed.victim(name, '16', '1000', '3');
  const { exitCode, stdout } = await dump(pid, directory, '--leave-running');
  t.is(exitCode, 0);
  t.regex(stdout, /wrote static_writer .* MiB of memory, frozen for \d+ ms; it goes on/);
  const taken = await restore('alpha', directory);
  t.is(taken.exitCode, 1);
  t.regex(taken.stderr, new RegExp(`pid ${pid} is taken on this host`));
  t.is(await bed.verdict('alpha', pid, name), 'ok');
  t.is((await restore('alpha', directory)).exitCode, 0);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('a dump leaves what parent and children share as it is', async (t) => {
  const pid = await bed.victim('cow.left');
  const { exitCode, stderr } = await dump(pid, join(bed.directory, 'cow.left.images'), '--leave-running');
  t.is(exitCode, 0, stderr);
  t.is(await bed.verdict('alpha', pid, 'cow.left'), 'ok');
});

test.serial("phaul-criu does the same with criu's options and exit codes", async (t) => {
  const name = 'static_writer.criu';
  const directory = join(bed.directory, 'criu.images');
  const criu = (...words: string[]) => bed.on('alpha', join(process.cwd(), 'bin/phaul-criu'), ...words);
  const pid = await bed.victim(name, '4', '1000');
  const unknown = await criu('dump', '-t', String(pid), '-D', directory, '--lazy-pages');
  t.is(unknown.exitCode, 1);
  t.regex(unknown.stderr, /unknown option '--lazy-pages'/);
  t.true(await bed.alive('alpha', pid));
  t.is((await criu('check', '--feature', 'timerfd')).exitCode, 0);
  t.is((await criu('check', '--feature', 'time_travel')).exitCode, 1);
  t.is((await criu('dump', '-t', String(pid), '-D', directory, '-v4', '-o', 'dump.log', '--shell-job')).exitCode, 0);
  t.false(await bed.alive('alpha', pid));
  t.true(existsSync(join(directory, 'dump.log')));
  t.is((await criu('restore', '-D', directory, '-d', '--pidfile', 'none/such.pid')).exitCode, 1);
  t.false(await bed.alive('alpha', pid));
  t.is((await criu('restore', '-D', directory, '-d', '--pidfile', 'pid')).exitCode, 0);
  t.is(readFileSync(join(directory, 'pid'), 'utf8'), `${pid}\n`);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

const ECHO_SERVER = `import socket, sys
s = socket.create_server(('10.77.0.1', 7007))
open(sys.argv[1], 'a').write('ready\\n')
c = s.accept()[0]
while True:
    d = c.recv(65536)
    if not d: break
    c.sendall(d)
`;

/** Never waits for an answer before it sends the next number; says how many came back in order. */
const ECHO_CLIENT = `import socket, sys, threading, time
c = socket.create_connection(('10.77.0.1', 7007))
report = open(sys.argv[1], 'a', buffering=1)
n = int(sys.argv[2])
def send():
    for i in range(n):
        c.sendall(b'%8d' % i)
        time.sleep(0.01)
threading.Thread(target=send, daemon=True).start()
f = c.makefile('rb')
report.write('ready\\n')
try:
    for i in range(n):
        d = f.read(8)
        if d != b'%8d' % i:
            report.write('failed: %r instead of %d\\n' % (d, i))
            sys.exit(1)
        if i % 50 == 0: report.write('at %d\\n' % i)
    report.write('ok\\n')
except OSError as e:
    report.write('failed: %s\\n' % e)
`;

test.serial('a TCP client on another host, which goes on sending, notices a pause and nothing else', async (t) => {
  const directory = join(bed.directory, 'echo.images');
  const pid = await bed.start('alpha', 'python3', '-c', ECHO_SERVER, bed.report('server'));
  await bed.hear('server', 'ready');
  await bed.start('beta', 'python3', '-c', ECHO_CLIENT, bed.report('client'), '400');
  await bed.hear('client', 'at 50');
  const refused = await dump(pid, directory);
  t.is(refused.exitCode, 1);
  t.regex(refused.stderr, /is a TCP connection 10\.77\.0\.1:7007 <-> 10\.77\.0\.2/);
  t.is((await dump(pid, directory, '--tcp', 'established')).exitCode, 0);
  const tables = async (): Promise<string> => (await bed.on('alpha', 'nft', 'list', 'tables')).stdout;
  t.regex(await tables(), new RegExp(`phaul-${pid}\\b`));
  await sleep(1_000);
  const { exitCode, stderr } = await restore('alpha', directory);
  t.is(exitCode, 0, stderr);
  t.notRegex(await tables(), /phaul-/);
  t.is(await bed.hear('client', 'ok', 'failed'), 'ok');
});

test.serial('what a checkpoint holds is shown, as long as it is whole', async (t) => {
  const directory = join(bed.directory, 'inspected.images');
  const pid = await bed.victim('tree.inspected');
  t.is((await dump(pid, directory)).exitCode, 0);
  const inspect = (...options: string[]) => bed.on('beta', 'phaul', 'inspect', directory, ...options);
  const { exitCode, stdout } = await inspect();
  t.is(exitCode, 0);
  t.regex(stdout, new RegExp(`^tree \\(pid ${pid}\\), running, 1 thread, session ${pid}`));
  t.regex(stdout, /\n {2}tree \(pid \d+\), stopped/);
  t.regex(stdout, /has ended, and its parent has not taken note yet/);
  t.regex(stdout, /fd \d+ +pipe pipe \d+/);
  const root = JSON.parse((await inspect('--json')).stdout) as { pid: number; exe: string; children: { state: string }[]; memory: { bytes: number } };
  t.is(root.pid, pid);
  t.regex(root.exe, /victims\/tree$/);
  t.deepEqual(root.children.map(({ state }) => state).toSorted(), ['ended', 'running', 'stopped']);
  t.true(root.memory.bytes > 0);
  truncateSync(join(directory, 'files.img'), 30);
  const damaged = await inspect();
  t.is(damaged.exitCode, 2);
  t.regex(damaged.stderr, /files\.img can't be read/);
  t.is((await bed.on('beta', 'phaul', 'inspect', bed.directory)).exitCode, 2);
});

test.serial('what is in the way is said, and changes nothing', async (t) => {
  const name = 'static_writer.refused';
  const pid = await bed.victim(name, '4', '1000');
  const full = join(bed.directory, 'full.images');
  t.is((await dump(pid, full, '--leave-running')).exitCode, 0);
  const before = readdirSync(full);
  const twice = await dump(pid, full);
  t.is(twice.exitCode, 2);
  t.regex(twice.stderr, /holds images already/);
  t.deepEqual(readdirSync(full), before);
  t.is((await dump(pid, '/proc/nothing')).exitCode, 2);
  t.is((await dump(999_999, join(bed.directory, 'none'))).exitCode, 2);
  t.false(existsSync(join(bed.directory, 'none')));
  t.is((await restore('beta', join(bed.directory, 'none'))).exitCode, 2);
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

test.serial('damaged images make no process', async (t) => {
  const name = 'static_writer.damaged';
  const directory = join(bed.directory, 'damaged.images');
  const pid = await bed.victim(name, '4', '1000', '2');
  t.is((await dump(pid, directory)).exitCode, 0);
  for (const image of readdirSync(directory).filter((file) => file !== 'pstree.img')) {
    const copy = join(bed.directory, 'damaged.copy');
    rmSync(copy, { recursive: true, force: true });
    await bed.on('alpha', 'cp', '-r', directory, copy);
    truncateSync(join(copy, image), 10);
    const { exitCode, stderr } = await restore('beta', copy);
    t.is(exitCode, 1, `${image}: ${stderr}`);
    for (let i = 0; i < 50 && (await bed.alive('beta', pid)); i++) {
      await sleep(20);
    }
    t.false(await bed.alive('beta', pid), image);
  }
  writeFileSync(join(directory, 'pstree.img'), 'nothing');
  t.is((await restore('beta', directory)).exitCode, 1);
});
