/**
 * A proxy that hands a live connection to another process, as root:
 *
 *   node examples/handover.ts 7000 example.org:80
 *
 * Every connection to port 7000 goes on to example.org. On SIGUSR2 a successor is started, gets all connections, and the
 * first process ends; those at both ends notice nothing. (It also listens then: this is how a program is updated.)
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, Socket } from 'node:net';
import { fdOf, pause, restore, resume, save, TcpLock } from '../src/tcp.ts';

/** Both sides of one connection through the proxy. */
type Pair = [Socket, Socket];

const [listenPort = '7000', destination = 'localhost:80'] = process.argv.slice(2);
const [host = 'localhost', port = '80'] = destination.split(':');
const pairs = new Set<Pair>();

function join(pair: Pair): void {
  const [client, server] = pair;
  pairs.add(pair);
  client.pipe(server);
  server.pipe(client);
  for (const socket of pair) {
    socket.on('error', () => {});
    socket.on('close', () => {
      pairs.delete(pair);
      pair.forEach((one) => one.destroy());
    });
  }
}

function listen(): void {
  const server = createServer({ noDelay: true }, (client) => join([client, connect(Number(port), host)]));
  server.listen(Number(listenPort), () => console.log(`${process.pid} listens`));
  process.once('SIGUSR2', () => void handOver(() => server.close()));
}

/** What has been read and not yet written must have left this process first. */
async function drain({ 0: client, 1: server }: Pair): Promise<void> {
  client.unpipe(server);
  server.unpipe(client);
  client.pause();
  server.pause();
  for (const socket of [client, server]) {
    while (socket.writableLength > 0) {
      await once(socket, 'drain');
    }
  }
}

async function handOver(stop: () => void): Promise<void> {
  stop();
  const successor = fork(import.meta.filename, [listenPort, destination], { env: { ...process.env, HANDOVER: '1' } });
  await once(successor, 'message'); // it is there
  const moving = [...pairs].filter((pair) => pair.every(({ readyState }) => readyState === 'open'));
  for (const pair of moving) {
    await drain(pair);
  }
  const lock = new TcpLock();
  const saved = moving.map((pair) => pair.map((socket) => {
    lock.add(fdOf(socket));
    pause(fdOf(socket));
    return { read: Buffer.concat(drainRead(socket)).toString('base64'), tcp: save(fdOf(socket)).toString('base64') };
  }));
  const closed = moving.flat().map((socket) => once(socket, 'close'));
  moving.flat().forEach((socket) => socket.destroy());
  await Promise.all(closed);
  successor.send(saved);
  await once(successor, 'message'); // all are restored
  lock.close();
  successor.send('go on');
  await once(successor, 'message');
  console.log(`${process.pid} has handed ${moving.length} connections over to ${successor.pid}`);
  process.exit();
}

/** What node has read ahead of us. */
function drainRead(socket: Socket): Buffer[] {
  const chunks: Buffer[] = [];
  for (let chunk = socket.read() as Buffer | null; chunk !== null; chunk = socket.read() as Buffer | null) {
    chunks.push(chunk);
  }
  return chunks;
}

/** As the successor. */
async function takeOver(): Promise<void> {
  process.send?.('here');
  const [saved] = (await once(process, 'message')) as [{ read: string; tcp: string }[][]];
  const restored = saved.map((pair) => pair.map(({ read, tcp }) => ({ read: Buffer.from(read, 'base64'), fd: restore(Buffer.from(tcp, 'base64')) })));
  process.send?.('restored');
  await once(process, 'message');
  for (const pair of restored) {
    const sockets = pair.map(({ fd }) => {
      resume(fd);
      return new Socket({ fd, readable: true, writable: true });
    }) as Pair;
    sockets[1].write(pair[0]?.read ?? '');
    sockets[0].write(pair[1]?.read ?? '');
    join(sockets);
  }
  process.send?.('done');
  process.disconnect();
  listen();
}

if (process.env['HANDOVER'] === undefined) {
  listen();
} else {
  await takeOver();
}
