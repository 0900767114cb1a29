import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import test from 'ava';

const CLI = join(import.meta.dirname, '../../src/cli.ts');
const NOBODY = 65_534;

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
