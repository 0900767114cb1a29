/** What a moved process keeps: victims that compare themselves with what they were, moved there and back. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('keeps-test');

/** So that a wait with a limit that started anew would be seen to end too late. */
const BEFORE_MOVE_MS = 1_800;

test.before(() => bed.up());
test.after.always(() => bed.down());

for (const victim of ['restarts', 'signals', 'timers', 'threads', 'files', 'memory', 'credentials', 'unix_sockets', 'seccomp', 'tree', 'inet_sockets', 'connections', 'sysv', 'memfd', 'cgroups', 'aio', 'packets', 'handles', 'settings', 'rseq', 'clocks', 'multicast', 'ghosts', 'locks', 'fifos', 'watches', 'chroot', 'terminal']) {
  test.serial(`${victim}: all is as it was after a move`, async (t) => {
    const pid = await bed.victim(victim);
    t.is(bed.lines(victim).at(-1), 'ready');
    await sleep(BEFORE_MOVE_MS);
    const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta', '--verify');
    t.is(exitCode, 0, stderr);
    t.is(await bed.verdict('beta', pid, victim), 'ok');
  });

  test.serial(`${victim}: all is as it was after an abort at the last moment, and two moves`, async (t) => {
    const name = `${victim}.aborted`;
    const pid = await bed.victim(name);
    const { exitCode } = await bed.on('alpha', 'env', 'PHAUL_FAULT=source:before-commit:error', 'phaul', 'migrate', String(pid), 'root@beta');
    t.is(exitCode, 1);
    for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
      const { exitCode: moved, stderr } = await bed.migrate(from, pid, to);
      t.is(moved, 0, `${stderr} The victim: ${bed.lines(name).join('; ')}`);
    }
    t.is(await bed.verdict('alpha', pid, name), 'ok');
  });
}

const HAS_AVX512 = /^flags.* avx512bw /m.test(readFileSync('/proc/cpuinfo', 'utf8'));

(HAS_AVX512 ? test.serial : test.serial.skip)('vector registers are as they were after a move (skipped without AVX-512)', async (t) => {
  const pid = await bed.victim('vectors');
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 0, stderr);
  t.is(await bed.verdict('beta', pid, 'vectors'), 'ok');
});

test.serial('a main thread that sleeps, and was stopped once to be tracked, sleeps on', async (t) => {
  const name = 'restarts.alone';
  const pid = await bed.victim(name, 'alone');
  await sleep(BEFORE_MOVE_MS);
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 0, stderr);
  await sleep(BEFORE_MOVE_MS);
  t.is(await bed.verdict('beta', pid, name), 'ok');
});

test.serial('clocks that are not those of the host go on, there and back', async (t) => {
  const name = 'clocks.apart';
  const pid = await bed.victim(name, 'apart');
  const time = async (host: string, of: number | string): Promise<string> => (await bed.on(host, 'readlink', `/proc/${of}/ns/time`)).stdout;
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to);
    t.is(exitCode, 0, stderr);
    t.not(await time(to, pid), await time(to, 'self'));
  }
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

const FLOCK = 'import fcntl, sys, time\nf = open(sys.argv[1], "a")\nfcntl.flock(f, fcntl.LOCK_EX)\nopen(sys.argv[2], "a").write("ready\\n")\ntime.sleep(1000)';

test.serial('who waits for a lock, and who has it on the other host, is told before the process is gone', async (t) => {
  const lock = '/run/keeps-test.lock'; // each host has a /run of its own
  const holder = await bed.start('alpha', 'python3', '-c', FLOCK, lock, bed.report('holder'));
  await bed.hear('holder', 'ready');
  const waiting = await bed.start('alpha', 'python3', '-c', FLOCK, lock, bed.report('waiting'));
  await sleep(500);
  const wanted = await bed.migrate('alpha', holder, 'beta');
  t.is(wanted.done.error?.code, 'ERR_OBSTACLES');
  t.regex(wanted.stderr + JSON.stringify(wanted.done), new RegExp(`for which pid ${waiting} waits`));
  await bed.on('alpha', 'kill', '-KILL', String(waiting));
  const other = await bed.start('beta', 'python3', '-c', FLOCK, lock, bed.report('other'));
  await bed.hear('other', 'ready');
  const taken = await bed.migrate('alpha', holder, 'beta');
  t.is(taken.exitCode, 1);
  t.regex(JSON.stringify(taken.done), new RegExp(`on this host pid ${other} does`));
  t.true(await bed.alive('alpha', holder));
  await bed.on('beta', 'kill', '-KILL', String(other));
  const moved = await bed.migrate('alpha', holder, 'beta');
  t.is(moved.exitCode, 0, moved.stderr);
  t.is((await bed.on('beta', 'flock', '-n', lock, 'true')).exitCode, 1);
  t.is((await bed.on('alpha', 'flock', '-n', lock, 'true')).exitCode, 0);
  await bed.on('beta', 'kill', '-KILL', String(holder));
});

test.serial('a process that goes on here after the commit, as the other host has died, has its locks again', async (t) => {
  const name = 'locks.back';
  const pid = await bed.victim(name);
  const agent = await bed.agentWithFault('beta', 'target:commit-received:kill');
  const { exitCode } = await bed.migrate('alpha', pid, 'beta');
  t.true(exitCode === 1 || exitCode === 3);
  t.false(await bed.alive('beta', agent));
  await bed.on('alpha', 'bash', '-c', `pkill -CONT -s ${pid}`); // if it was left stopped
  t.is(await bed.verdict('alpha', pid, name), 'ok');
});

/** Neither host's phaul lives past the commit: only `phaul resolve` brings the process back. */
const lostOnBothSides = async (t: ExecutionContext, pid: number): Promise<void> => {
  const agent = await bed.agentWithFault('beta', 'target:commit-received:kill');
  const { exitCode, stderr } = await bed.on('alpha', 'env', 'PHAUL_FAULT=source:after-commit:kill', 'phaul', 'migrate', String(pid), 'root@beta');
  t.is(exitCode, 137, stderr);
  await bed.on('beta', 'bash', '-c', `kill -KILL ${agent}; while [ -e /proc/${agent} ]; do sleep 0.1; done`);
};

test.serial('a process that phaul resolve brings back has its locks again, and those that it could not get back are said', async (t) => {
  const name = 'locks.resolved';
  const pid = await bed.victim(name);
  await lostOnBothSides(t, pid);
  t.is((await bed.on('alpha', 'flock', '-n', bed.report(`${name}.files/exclusive`), 'true')).exitCode, 0, 'it was given back with the commit');
  const { exitCode, text } = await bed.resolve(pid);
  t.is(exitCode, 0, text);
  t.regex(text, /runs on alpha again/);
  t.notRegex(text, /the lock on/);
  t.is(await bed.verdict('alpha', pid, name), 'ok');

  const lock = '/run/keeps-test.resolved';
  await bed.on('beta', 'touch', lock);
  const holder = await bed.start('alpha', 'python3', '-c', FLOCK, lock, bed.report('doubted'));
  await bed.hear('doubted', 'ready');
  await lostOnBothSides(t, holder);
  const thief = await bed.start('alpha', 'python3', '-c', FLOCK, lock, bed.report('taker'));
  await bed.hear('taker', 'ready');
  t.regex((await bed.resolve(holder)).text, new RegExp(`runs on alpha again.*Somebody else has the lock on fd \\d+ of pid ${holder} \\(${lock}, flock\\) by now`, 's'));
  await bed.on('alpha', 'kill', '-KILL', String(thief), String(holder));
});

const LEASE = 'import fcntl, sys, time\nf = open(sys.argv[1])\nfcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK)\nopen(sys.argv[2], "a").write("ready\\n")\ntime.sleep(1000)';

test.serial('a lease of a file is held on the other host', async (t) => {
  const file = '/run/keeps-test.lease';
  for (const host of ['alpha', 'beta']) {
    await bed.on(host, 'touch', file);
  }
  const pid = await bed.start('alpha', 'python3', '-c', LEASE, file, bed.report('lease'));
  await bed.hear('lease', 'ready');
  const leased = async (host: string): Promise<boolean> => new RegExp(`LEASE +ACTIVE +READ +${pid} `).test((await bed.on(host, 'cat', '/proc/locks')).stdout);
  t.true(await leased('alpha'));
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 0, stderr);
  t.true(await leased('beta'));
  t.false(await leased('alpha'));
  await bed.on('beta', 'kill', '-KILL', String(pid));
});

/** Asks for the lock again and again, without waiting. */
const THIEF = 'import fcntl, sys, time\nf = open(sys.argv[1], "a")\nwhile True:\n  try:\n    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n    break\n  except OSError: time.sleep(0.01)\nopen(sys.argv[2], "a").write("ready\\n")\ntime.sleep(1000)';

test.serial('that somebody else has taken a lock between the hosts is said, and the process runs', async (t) => {
  const lock = bed.report('stolen.lock'); // both hosts have it
  const holder = await bed.start('alpha', 'python3', '-c', FLOCK, lock, bed.report('stolen'));
  await bed.hear('stolen', 'ready');
  const thief = await bed.start('alpha', 'python3', '-c', THIEF, lock, bed.report('thief'));
  const agent = await bed.agentWithFault('beta', 'target:commit-received:stall:1');
  const { exitCode, stdout } = await bed.on('alpha', 'phaul', 'migrate', String(holder), 'root@beta', '--json');
  t.is(exitCode, 0);
  t.regex(stdout, /On beta somebody else has the lock on fd \d+ of pid \d+ \(.*stolen\.lock, flock\) by now/);
  t.true(await bed.alive('beta', holder));
  await bed.hear('thief', 'ready');
  await bed.on('beta', 'kill', '-KILL', String(holder));
  await bed.on('alpha', 'kill', '-KILL', String(thief));
  await bed.on('beta', 'kill', '-TERM', String(agent));
});

test.serial('a terminal whose number is taken on the other host stays, and that is said', async (t) => {
  const pid = await bed.victim('terminal.taken');
  const other = await bed.start('beta', 'python3', '-c', 'import os, time\nt = [os.openpty() for i in range(10)]\ntime.sleep(1000)');
  await sleep(500);
  const { exitCode, done } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 1);
  t.regex(JSON.stringify(done), /TERMINAL_TAKEN.*a terminal's name can't change/);
  await bed.on('beta', 'kill', '-KILL', String(other));
  await sleep(100);
  const moved = await bed.migrate('alpha', pid, 'beta');
  t.is(moved.exitCode, 0, moved.stderr);
  t.is(await bed.verdict('beta', pid, 'terminal.taken'), 'ok');
});

const V1_PIDS = '/sys/fs/cgroup/pids';

(existsSync(V1_PIDS) ? test.serial : test.serial.skip)('a control group that the target has not is told of, or made (skipped without version 1 of control groups)', async (t) => {
  const pid = await bed.victim('cgroups.elsewhere');
  const groups = async (host: string): Promise<string> => (await bed.on(host, 'cat', `/proc/${pid}/cgroup`)).stdout;
  const nowhere = await bed.on('alpha', 'phaul', 'migrate', String(pid), 'root@beta', '--json', '--cgroup-root', 'pids:/phaul-nowhere');
  t.is(nowhere.exitCode, 0, nowhere.stderr);
  t.regex(nowhere.stdout, /"event":"notice".*On beta the control group \/phaul-nowhere \(pids\) is not on this host: what was in it is in that of phaul/);
  t.regex(await groups('beta'), /:pids:\/\n/);
  const made = await bed.migrate('beta', pid, 'alpha', '--manage-cgroups', 'soft', '--cgroup-root', `pids:/phaul-moved-${pid}`);
  t.is(made.exitCode, 0, made.stderr);
  t.true((await groups('alpha')).includes(`:pids:/phaul-moved-${pid}\n`));
  // Groups are busy until what was killed in them is gone.
  await bed.on('alpha', 'bash', '-c', `kill -KILL -${pid}; for group in ${V1_PIDS}/phaul-moved-${pid} /sys/fs/cgroup/*/phaul-${pid}/below /sys/fs/cgroup/*/phaul-${pid}; do timeout 20 bash -c 'until rmdir $0 || [ ! -e $0 ]; do sleep 0.1; done' $group; done`);
  t.false(existsSync(`${V1_PIDS}/phaul-moved-${pid}`));
});

/** Asks for the addresses of the host, as name look-ups do, and reads the answer two ms later. */
const ASKS = `import os, socket, struct, sys, time
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.bind((0, 0))
report = open(sys.argv[1], 'a', buffering=1)
n = 0
while True:
    n += 1
    s.send(struct.pack('IHHIIBxxxxxxx', 24, 22, 0x301, n, 0, 0))
    time.sleep(0.002)
    done = False
    while not done:
        d = s.recv(65536)
        while len(d) >= 16:
            size, kind, _, number, _ = struct.unpack('IHHII', d[:16])
            assert number == n
            done = done or kind == 3
            d = d[(size + 3) & ~3:]
    time.sleep(0.002)
    if n == 10: report.write('ready\\n')
    if os.path.exists(sys.argv[1] + '.tell'):
        os.unlink(sys.argv[1] + '.tell')
        report.write('told %d\\n' % n)
`;

test.serial('a program that has asked the kernel by netlink gets its answer', async (t) => {
  const pid = await bed.start('alpha', 'python3', '-c', ASKS, bed.report('asks'));
  await bed.hear('asks', 'ready');
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to);
    t.is(exitCode, 0, stderr);
    const told = bed.lines('asks').length;
    writeFileSync(bed.report('asks.tell'), '');
    for (const deadline = Date.now() + 20_000; Date.now() < deadline && bed.lines('asks').length === told; ) {
      await sleep(20);
    }
    t.is(bed.lines('asks').length, told + 1, `on ${to} it waits for an answer that was lost`);
  }
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

test.serial('an answer of netlink that nobody has read is told of, as it is lost', async (t) => {
  const pid = await bed.victim('watches.told');
  t.regex((await bed.on('alpha', 'phaul', 'check', String(pid))).stdout, /is a netlink socket with messages of the kernel that were not read: these are lost/);
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

test.serial('keys that a process would lose are told of by name, and those of its session do not keep it here', async (t) => {
  const check = async (pid: number): Promise<string> => (await bed.on('alpha', 'phaul', 'check', String(pid))).stdout;
  const ordinary = await bed.victim('keys.ordinary');
  t.notRegex(await check(ordinary), /keyring/);
  t.is((await bed.migrate('alpha', ordinary, 'beta')).exitCode, 0);
  t.is(await bed.verdict('beta', ordinary, 'keys.ordinary'), 'ok');
  for (const where of ['process', 'thread']) {
    const pid = await bed.victim(`keys.${where}`, where);
    const { exitCode, done } = await bed.migrate('alpha', pid, 'beta');
    t.is(exitCode, 1);
    t.regex(JSON.stringify(done), new RegExp(`"KEYRING".* \\d+ has a ${where} keyring with 1 key \\(user victim\\), which can't leave`));
    await bed.on('alpha', 'kill', '-KILL', String(pid));
  }
  const pid = await bed.victim('keys.session', 'session');
  t.regex(await check(pid), /has a session keyring with 1 key \(user victim\): keys stay in this host's kernel/);
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 0, stderr);
  t.is(await bed.verdict('beta', pid, 'keys.session'), 'ok');
});
