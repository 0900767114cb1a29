import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import test from 'ava';

const CLI = join(import.meta.dirname, '../../src/cli.ts');
const NOBODY = 65_534;

test('a root without rights is told which it lacks', async (t) => {
  const victim = spawn('sleep', ['60'], { stdio: 'ignore' });
  await once(victim, 'spawn');
  t.teardown(() => victim.kill());
  for (const [without, named] of [['kill', 'CAP_KILL'], ['sys_ptrace,-dac_override', 'CAP_SYS_PTRACE, CAP_DAC_OVERRIDE']]) {
    const { status, stderr } = spawnSync('setpriv', ['--bounding-set', `-${without}`, process.execPath, CLI, 'migrate', String(victim.pid), 'beta'], { encoding: 'utf8' });
    t.is(status, 2);
    t.regex(stderr, new RegExp(`Moving process ${victim.pid} \\(sleep\\) takes ${named}, which root on \\S+ lacks here`));
  }
});

test('without root, phaul asks for it and leaves the process alone', async (t) => {
  const victim = spawn('sleep', ['60'], { stdio: 'ignore' });
  await once(victim, 'spawn');
  t.teardown(() => victim.kill());
  for (const words of [['migrate', String(victim.pid), 'beta'], ['check', String(victim.pid)], ['agent', '--stdio']]) {
    const { status, stderr } = spawnSync(process.execPath, [CLI, ...words], { encoding: 'utf8', uid: NOBODY, gid: NOBODY });
    t.is(status, 2);
    t.regex(stderr, /root on .*: run phaul with sudo\.\n$|must be root to build processes/);
  }
  t.is(victim.exitCode, null);
});
