/** Hosts with phauls that could misunderstand each other part at the first word. */
import { spawn } from 'node:child_process';
import { Duplex } from 'node:stream';
import test from 'ava';
import { connectControl } from '../../src/control.ts';
import { hello, requireSameProtocol } from '../../src/hello.ts';
import { PROTOCOL_VERSION } from '../../src/messages.ts';

test('an agent refuses a source of another protocol, older or newer, and takes one of its own', async (t) => {
  const child = spawn('bin/phaul', ['agent', '--stdio'], { stdio: ['pipe', 'pipe', 'ignore'] });
  t.teardown(() => child.kill());
  const control = await connectControl(Duplex.from({ readable: child.stdout, writable: child.stdin }), 'beta', 30_000);
  for (const protocol of [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1]) {
    await t.throwsAsync(control.ask('hello', { protocol, version: '0.0.9', hostname: 'alpha' }), {
      code: 'ERR_PEER_VERSION',
      message: new RegExp(`protocol ${PROTOCOL_VERSION}\\), alpha has 0\\.0\\.9 \\(protocol ${protocol}\\): install the same version on both`),
    });
  }
  t.is((await control.ask('hello', hello())).protocol, PROTOCOL_VERSION);
  control.close();
});

test('a source refuses an agent of another protocol, even one that takes it', (t) => {
  t.notThrows(() => requireSameProtocol(hello()));
  t.throws(() => requireSameProtocol({ protocol: PROTOCOL_VERSION - 1, version: '0.0.9', hostname: 'beta' }), { code: 'ERR_PEER_VERSION', message: /beta has 0\.0\.9/ });
});
