import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { $ as shell } from 'zx';

// A set of its own: the default one may be in use by a person.
const $ = shell({ nothrow: true, quiet: true, env: { ...process.env, PHAUL_TWO_HOSTS: 'test' } });
const hosts = ['alpha', 'beta', 'gamma', 'delta'];

test.before(async (t) => {
  t.is((await $`scripts/two-hosts up`).exitCode, 0);
});

test.after.always(async () => {
  await $`scripts/two-hosts down`;
});

test.serial('up twice is harmless and adds hosts', async (t) => {
  await $`scripts/two-hosts exec alpha -- sh -c ${'exec sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/run/sleeper'}`;
  t.is((await $`scripts/two-hosts up --hosts 4`).stderr, '');
  const status = await $`scripts/two-hosts status`;
  t.is(status.exitCode, 0);
  t.is(status.stdout.match(/sshd answers/g)?.length, 4);
  t.is((await $`scripts/two-hosts exec alpha -- sh -c ${'kill -0 $(cat /run/sleeper)'}`).exitCode, 0);
});

test.serial('every host reaches every host by ssh without questions, and finds phaul there', async (t) => {
  for (const from of hosts) {
    for (const to of hosts) {
      const reply = await $`scripts/two-hosts exec ${from} ssh -n root@${to} ${'hostname; command -v phaul'}`;
      t.deepEqual(reply.lines(), [to, '/usr/local/sbin/phaul'], reply.stderr);
    }
  }
});

test.serial('hosts have namespaces of their own', async (t) => {
  for (const kind of ['net', 'pid', 'mnt', 'uts', 'ipc']) {
    const ids = await Promise.all(
      hosts.map(async (host) => (await $`scripts/two-hosts exec ${host} readlink /proc/self/ns/${kind}`).stdout),
    );
    ids.push((await $`readlink /proc/self/ns/${kind}`).stdout);
    t.is(new Set(ids).size, 5, kind);
  }
});

test.serial('exec passes input, output, exit codes and signals', async (t) => {
  t.is((await $({ input: 'to and fro' })`scripts/two-hosts exec beta cat`).stdout, 'to and fro');
  t.is((await $`scripts/two-hosts exec beta -- sh -c ${'exit 7'}`).exitCode, 7);
  t.is((await $`scripts/two-hosts exec beta no-such-command`).exitCode, 127);
  t.is((await $`scripts/two-hosts exec beta -- sh -c ${'kill -9 $$'}`).exitCode, 137);

  const waiting = $`scripts/two-hosts exec beta -- bash -c ${'trap "exit 5" TERM; echo ready; while :; do sleep 0.05; done'}`;
  for await (const line of waiting) {
    if (line === 'ready') process.kill(waiting.pid!, 'SIGTERM');
  }
  t.is((await waiting).exitCode, 5);
});

test.serial('exec works in the directory it was called in', async (t) => {
  t.is((await $({ cwd: '/usr/lib' })`${process.cwd()}/scripts/two-hosts exec alpha readlink /proc/self/cwd`).stdout, '/usr/lib\n');
});

test.serial('orphans are reaped', async (t) => {
  await $`scripts/two-hosts exec alpha -- bash -c ${'for i in {1..50}; do (sleep 0.1 &); done'}`;
  await sleep(500);
  t.is((await $`scripts/two-hosts exec alpha -- sh -c ${'cat /proc/[0-9]*/stat | grep -c ") Z "'}`).stdout, '0\n');
});

test.serial('another checkout is told who has the hosts', async (t) => {
  const other = (await $`mktemp -d`).stdout.trim();
  await $`mkdir ${other}/scripts && cp scripts/two-hosts scripts/two-hosts-enter.c ${other}/scripts`;
  for (const command of [['up'], ['down'], ['exec', 'alpha', 'true']]) {
    const refused = await $`${other}/scripts/two-hosts ${command}`;
    t.is(refused.exitCode, 1);
    t.true(refused.stderr.includes(`belong to ${process.cwd()}:`), refused.stderr);
  }
  await $`rm -r ${other}`;
});

test.serial('down leaves nothing behind', async (t) => {
  t.is((await $`scripts/two-hosts down`).exitCode, 0);
  t.is((await $`scripts/two-hosts status`).exitCode, 1);
  t.false(existsSync('/run/phaul-two-hosts-test'));
  t.is((await $`pgrep -f -- ${'--name test (keep-host|host-init|link-init)'}`).stdout, '');
});

test.serial('an up that is killed half-way is cleared away by down', async (t) => {
  for (const delayMs of [30, 80, 130, 180]) {
    const up = $`scripts/two-hosts up`;
    await sleep(delayMs);
    process.kill(up.pid!, 'SIGKILL');
    await up;
    t.is((await $`scripts/two-hosts down`).exitCode, 0);
    t.false(existsSync('/run/phaul-two-hosts-test'));
  }
  t.is((await $`pgrep -f -- ${'--name test (keep-host|host-init|link-init)'}`).stdout, '');
});
