/** src/tcp.ts by itself: the example that hands connections to another process, and what it says of wrong use. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import test from 'ava';
import { fdOf, pause, restore, resume, save, TcpLock } from '../../src/tcp.ts';

const listening = async (server: ReturnType<typeof createServer>): Promise<number> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
};

async function lineOf(child: ChildProcess, words: RegExp): Promise<string> {
  for await (const line of createInterface({ input: child.stdout! })) {
    if (words.test(line)) {
      return line;
    }
  }
  throw new Error(`the program ended without saying ${words}`);
}

test('the proxy of the example hands its connections to a successor, and those at both ends notice nothing', async (t) => {
  const server = createServer((socket) => socket.on('data', (bytes) => socket.write(bytes)).on('error', () => {}));
  const port = await listening(server);
  const spare = createServer();
  const proxyPort = await listening(spare);
  spare.close();
  await once(spare, 'close');
  const proxy = spawn(process.execPath, ['examples/handover.ts', String(proxyPort), `127.0.0.1:${port}`], { stdio: ['ignore', 'pipe', 'inherit'] });
  await lineOf(proxy, /listens/);
  const clients = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const client = connect(proxyPort, '127.0.0.1');
      await once(client, 'connect');
      return { client, ...conversation(client) };
    }),
  );
  await Promise.all(clients.map(({ reached }) => reached(100)));
  proxy.kill('SIGUSR2');
  const ended = once(proxy, 'exit');
  const said = await lineOf(proxy, /handed/);
  t.regex(said, /has handed 5 connections over to \d+/);
  await ended;
  await Promise.all(clients.map(async ({ count, reached }) => reached(count() + 100)));
  for (const { client, problem } of clients) {
    t.is(problem(), '');
    client.destroy();
  }
  process.kill(Number(/to (\d+)/.exec(said)?.[1]));
  server.close();
});

/** Sends numbers and checks that they come back in order. */
function conversation(client: Socket): { count: () => number; problem: () => string; reached: (n: number) => Promise<void> } {
  let sent = 0;
  let problem = '';
  const waiting = new Map<number, () => void>();
  const lines = createInterface({ input: client });
  const send = (): void => void client.write(`${++sent}\n`);
  lines.on('line', (line) => {
    problem ||= line === String(sent) ? '' : `${line} came instead of ${sent}`;
    for (const [n, resolve] of waiting) {
      if (sent >= n) {
        resolve();
      }
    }
    setTimeout(send, 1);
  });
  client.on('error', (error) => (problem ||= error.message));
  client.on('end', () => (problem ||= 'it ended'));
  send();
  return { count: () => sent, problem: () => problem, reached: (n) => new Promise((resolve) => waiting.set(n, resolve)) };
}

test('what waits on both sides of a connection goes along, here into another socket of the same process', async (t) => {
  const server = createServer();
  const port = await listening(server);
  const client = connect(port, '127.0.0.1');
  const [peer] = (await once(server, 'connection')) as [Socket];
  await once(client, 'connect');
  peer.pause();
  client.write('waits to be read');
  await new Promise((resolve) => setTimeout(resolve, 50));
  const fd = fdOf(peer);
  let saved: Buffer;
  {
    using lock = new TcpLock();
    lock.add(fd);
    pause(fd);
    saved = save(fd);
    const closed = once(peer, 'close');
    peer.destroy();
    await closed;
    t.throws(() => restore(saved.subarray(1)), { message: /this is no saved connection/ });
    const again = restore(saved);
    lock.close();
    resume(again);
    const { Socket: NetSocket } = await import('node:net');
    const restored = new NetSocket({ fd: again, readable: true, writable: true });
    // Node may have read it before: then the kernel had nothing left.
    restored.write('answered');
    t.is(String((await once(client, 'data'))[0]), 'answered');
    restored.destroy();
  }
  t.throws(() => pause(0), { message: /that needs CAP_NET_ADMIN, and a TCP connection/ });
  client.destroy();
  server.close();
});
