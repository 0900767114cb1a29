import test from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('clocks-test');

/** Less than any machine that runs tests is up. */
const BEHIND_S = 50;

const STALL_S = 2;

test.before(() => bed.up(2, BEHIND_S));
test.after.always(() => bed.down());

const uptime = async (host: string): Promise<number> => Number((await bed.on(host, 'cat', '/proc/uptime')).stdout.split(' ')[0]);

test.serial('clocks go on where a process comes to a host that was booted later, and back', async (t) => {
  t.true((await uptime('alpha')) - (await uptime('beta')) > BEHIND_S - 5, "the hosts' clocks differ");
  const pid = await bed.victim('vdso');
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha'], ['alpha', 'beta']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to);
    t.is(exitCode, 0, stderr);
    await bed.on(to, 'kill', '-USR2', String(pid));
    const gap = await bed.hear('vdso', 'gap', 'failed');
    t.true(Number(gap.split(' ')[1]) < (BEHIND_S * 1000) / 2, gap);
    await bed.on(to, 'truncate', '-s', '0', bed.report('vdso'));
  }
  t.is(await bed.verdict('beta', pid, 'vdso'), 'ok');
});

/** Of the process's CLOCK_MONOTONIC, from that of alpha. */
const astray = async (host: string, pid: number): Promise<number> => {
  const { stdout } = await bed.on(host, 'cat', `/proc/${pid}/timens_offsets`);
  const [, seconds, ns] = /^monotonic +(-?\d+) +(\d+)$/m.exec(stdout) ?? [];
  return Number(seconds) + Number(ns) / 1e9;
};

test.serial('clocks are not late because the way to the other host is slow at times', async (t) => {
  const pid = await bed.victim('vdso.late');
  const { exitCode, stderr } = await bed.on('alpha', 'env', `PHAUL_FAULT=source:preflighted:stall:${STALL_S}`, 'phaul', 'migrate', String(pid), 'root@beta');
  t.is(exitCode, 0, stderr);
  t.true(Math.abs(await astray('beta', pid)) < STALL_S / 2, String(await astray('beta', pid)));
  t.is(await bed.verdict('beta', pid, 'vdso.late'), 'ok');
});

test.serial("a vdso of another build stays where it was, and leads into the kernel's", async (t) => {
  const pid = await bed.victim('vdso.other', 'other');
  const place = async (host: string): Promise<string> => (await bed.on(host, 'grep', '-F', '[vdso]', `/proc/${pid}/maps`)).stdout;
  const born = await place('alpha');
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 0, stderr);
  t.not(await place('beta'), born);
  t.is(await bed.verdict('beta', pid, 'vdso.other'), 'ok');
});
