import { createServer } from 'node:net';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import { decodeAddress, readBoundSockets } from '../src/sockets.ts';

test('addresses of /proc/net are words in the byte order of the host', (t) => {
  t.is(decodeAddress('0100007F'), '127.0.0.1');
  t.is(decodeAddress('01004D0A'), '10.77.0.1');
  t.is(decodeAddress('00000000000000000000000000000000'), '::');
  t.is(decodeAddress('00000000000000000000000001000000'), '::1');
  t.is(decodeAddress('000080FE00000000FF565002BD55FE4F'), 'fe80::250:56ff:4ffe:55bd');
  t.is(decodeAddress('0000000000000000FFFF00000100007F'), '::ffff:127.0.0.1');
});

test('listening TCP and bound UDP sockets are found with their inodes', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  const datagrams = createSocket('udp4').bind(0, '127.0.0.1');
  await Promise.all([once(server, 'listening'), once(datagrams, 'listening')]);
  t.teardown(() => (server.close(), datagrams.close()));
  const found = await readBoundSockets('self');
  for (const [protocol, port] of [
    ['tcp', (server.address() as AddressInfo).port],
    ['udp', datagrams.address().port],
  ] as const) {
    const socket = found.find((candidate) => candidate.protocol === protocol && candidate.port === port);
    t.is(socket?.address, '127.0.0.1');
    t.true((socket?.inode ?? 0) > 0);
  }
});
