/** Where a moved process lives: in a pid namespace of its own, with its stdio elsewhere. */
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('places-test');

test.before(() => bed.up());
test.after.always(() => bed.down());

/** How a host sees a process that has this pid in a namespace of its own; 0: there is none. */
async function pidOnHost(host: string, inside: number): Promise<number> {
  const { stdout } = await bed.on(host, 'bash', '-c', `for p in /proc/[0-9]*; do [ "$(awk '/^NSpid/ { if ($NF == ${inside} && NF > 2) print $(NF-1) }' $p/status 2>/dev/null)" = \${p#/proc/} ] && echo \${p#/proc/}; done`);
  return Number(stdout.trim());
}

/** They look around for who is left some times a second. */
async function initsOf(host: string): Promise<string> {
  for (let tries = 1; ; tries++) {
    const { stdout } = await bed.on(host, 'pgrep', '-x', 'phaul-init');
    if (stdout === '' || tries === 50) {
      return stdout;
    }
    await sleep(100);
  }
}

/** A process of that host that has this pid. */
async function takePid(host: string, pid: number): Promise<void> {
  await bed.on(host, 'bash', '-c', `echo ${pid - 1} >/proc/sys/kernel/ns_last_pid; exec setsid sleep 300 </dev/null >/dev/null 2>&1 & sleep 0.1; echo $!`);
}

test.serial('a process whose pid is taken moves to a pid namespace of its own, on from there, and back', async (t) => {
  const pid = await bed.victim('family');
  await takePid('beta', pid);
  t.true(await bed.alive('beta', pid));
  const refused = await bed.migrate('alpha', pid, 'beta');
  t.is(refused.exitCode, 1);
  t.regex(refused.done.error?.obstacles?.[0]?.sentence ?? '', /--pid-namespace new/);

  const there = await bed.migrate('alpha', pid, 'beta', '--pid-namespace', 'new', '--verify');
  t.is(there.exitCode, 0, there.stderr);
  const onBeta = await pidOnHost('beta', pid);
  t.not(onBeta, 0);
  t.not(onBeta, pid);
  const { stdout: status } = await bed.on('beta', 'phaul', 'status', '--all', '--json');
  t.is((JSON.parse(status.trim().split('\n').at(-1) ?? '') as { pid: number }).pid, onBeta);
  t.regex(status, /runs here/);

  const again = await bed.migrate('beta', onBeta, 'alpha', '--pid-namespace', 'new', '--verify');
  t.is(again.exitCode, 0, again.stderr);
  t.is(await initsOf('beta'), '', 'the init of a namespace ends with the last process in it');

  await bed.on('beta', 'kill', String(pid));
  const out = await bed.migrate('alpha', await pidOnHost('alpha', pid), 'beta', '--verify');
  t.is(out.exitCode, 0, out.stderr);
  t.true(await bed.alive('beta', pid));
  t.is(await initsOf('alpha'), '');
  t.is(await bed.verdict('beta', pid, 'family'), 'ok');
});

test.serial('a source that goes while a pid namespace is being made for its process leaves none behind', async (t) => {
  const pid = await bed.victim('threads.early');
  const agent = await bed.agentWithFault('beta', '');
  const phaul = await bed.start('alpha', 'phaul', 'migrate', String(pid), 'root@beta', '--pid-namespace', 'new');
  await bed.on('beta', 'bash', '-c', 'until pgrep -x phaul-init; do :; done');
  await bed.on('alpha', 'kill', '-9', String(phaul));
  t.is(await initsOf('beta'), '');
  t.true(await bed.alive('beta', agent));
  await bed.on('beta', 'kill', String(agent));
  await bed.on('alpha', 'kill', '-9', String(pid));
});

/** Its stdin, stdout and stderr are one socket, whose other end is held by somebody who doesn't move. */
const TALKER = `
import os, socket, subprocess, sys, time
ours, its = socket.socketpair()
child = subprocess.Popen([sys.executable, '-u', '-c', \'\'\'
import os, time
open(__import__("sys").argv[1], "w").write(str(os.getpid()))
while True:
    print("here", os.getpid(), flush=True)
    os.write(2, b"error\\\\n")
    time.sleep(0.05)
\'\'\', sys.argv[1]], stdin=its, stdout=its, stderr=its)
its.close()
while ours.recv(4096):
    pass
`;

for (const [where, what] of [['FILE', 'are appended to a file there'], ['null', 'are /dev/null there']] as const) {
  test.serial(`stdout and stderr that can't move ${what}, and stdin is /dev/null`, async (t) => {
    const name = `talker.${where}`;
    const log = bed.report(`log.${where}`);
    writeFileSync(bed.report('talker.py'), TALKER);
    await bed.start('alpha', 'python3', bed.report('talker.py'), bed.report(name));
    const pid = Number(await bed.hear(name, ...'123456789'));
    const refused = await bed.migrate('alpha', pid, 'beta');
    t.is(refused.exitCode, 1);
    t.regex(JSON.stringify(refused.done.error?.obstacles), /FD_/);

    const missing = await bed.migrate('alpha', pid, 'beta', '--stdio', `${log}/none`);
    t.is(missing.exitCode, 1);
    t.is(missing.done.error?.obstacles?.[0]?.code, 'STDIO');

    const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta', '--stdio', where === 'FILE' ? log : where);
    t.is(exitCode, 0, stderr);
    const { stdout } = await bed.on('beta', 'readlink', `/proc/${pid}/fd/0`, `/proc/${pid}/fd/1`, `/proc/${pid}/fd/2`);
    const output = where === 'FILE' ? log : '/dev/null';
    t.deepEqual(stdout.trim().split('\n'), ['/dev/null', output, output]);
    if (where === 'FILE') {
      await bed.hear(`log.${where}`, 'error', `here ${pid}`);
      t.true(bed.lines(`log.${where}`).includes('error'));
    }
    await bed.on('beta', 'kill', '-9', String(pid));
  });
}
