import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { $ } from 'zx';
import { listenOn } from '../../src/target/listen.ts';

/** What is heard of the agent by who connects: "hello", or nothing. */
const heard = async (path: string, user: string): Promise<string> => {
  const { stdout } = await $({ quiet: true, nothrow: true })`setpriv --reuid ${user} --clear-groups python3 -c ${`import socket; s = socket.socket(socket.AF_UNIX); s.connect("${path}"); print(s.recv(100).decode())`}`;
  return stdout.trim();
};

test('an agent speaks with root alone, even if its socket lets others connect', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'phaul-listen-'));
  chmodSync(directory, 0o755);
  const path = join(directory, 'agent.sock');
  const server = await listenOn(path, (duplex) => duplex.on('error', () => {}).end('hello'));
  chmodSync(path, 0o666);
  t.is(await heard(path, 'root'), 'hello');
  t.is(await heard(path, 'nobody'), '');
  await t.throwsAsync(listenOn(path, () => {}), { message: /another agent does/ });
  server.close();
  rmSync(directory, { recursive: true });
});
