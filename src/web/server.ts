/** The agent's page: what moves, as it goes on (/), and in Prometheus's format (/metrics). Nothing can be done by it. */
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { isIPv6 } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocketServer } from 'ws';
import { PhaulError } from '../errors.ts';
import { Follower } from './follow.ts';
import { Metrics } from './metrics.ts';
import { page } from './page.ts';

/** A unix socket, or an address of this host alone. */
export type WebPlace = { path: string } | { host: string; port: number };

/** A page of somebody else must not read this one by a name that it has made an address of ours. */
const isOurs = (name: string | undefined, { port }: { port?: number }): boolean =>
  port === undefined || [`127.0.0.1:${port}`, `[::1]:${port}`, `localhost:${port}`].includes(name ?? '');

export async function serveWeb(place: WebPlace): Promise<Server> {
  const follower = new Follower();
  const metrics = new Metrics(follower);
  const answer = async ({ url, method, headers }: IncomingMessage, response: ServerResponse): Promise<void> => {
    const send = (status: number, type: string, body: string): void => void response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(method === 'HEAD' ? '' : body);
    if (!isOurs(headers.host, place as { port?: number })) {
      send(421, 'text/plain', 'This is a page of this host alone: ask for it by localhost.\n');
    } else if (method !== 'GET' && method !== 'HEAD') {
      send(405, 'text/plain', 'There is nothing to be done here.\n');
    } else if (url === '/') {
      send(200, 'text/html; charset=utf-8', page());
    } else if (url === '/metrics') {
      send(200, metrics.contentType, await metrics.text());
    } else {
      send(404, 'text/plain', 'There are / and /metrics.\n');
    }
  };
  const server = createServer((request, response) => void answer(request, response).catch((error: unknown) => response.destroy(error as Error)));
  const sockets = new WebSocketServer({ noServer: true, maxPayload: 1 });
  server.on('upgrade', (request: IncomingMessage, duplex: Duplex, head: Buffer) => {
    const origin = request.headers.origin?.replace(/^http:\/\//, '');
    if (request.url !== '/live' || !isOurs(request.headers.host, place as { port?: number }) || (origin !== undefined && origin !== request.headers.host)) {
      duplex.destroy();
      return;
    }
    sockets.handleUpgrade(request, duplex, head, (socket) => {
      const tell = (told: object): void => socket.send(JSON.stringify(told));
      follower.told.forEach(tell);
      socket.on('close', follower.listen(tell));
      socket.on('error', () => {});
    });
  });
  await listen(server, place);
  return server;
}

async function listen(server: Server, place: WebPlace): Promise<void> {
  const name = 'path' in place ? place.path : `http://${isIPv6(place.host) ? `[${place.host}]` : place.host}:${place.port}/`;
  const mask = process.umask(0o077);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => reject(new PhaulError('ERR_AGENT_SOCKET', `The agent can't show its page at ${name}: ${cause.message}.`, { cause })));
    if ('path' in place) {
      rmSync(place.path, { force: true });
    }
    server.listen(place, () => {
      if ('path' in place) {
        chmodSync(place.path, 0o600);
      }
      resolve();
    });
  }).finally(() => process.umask(mask));
  process.stderr.write(`phaul agent shows what moves at ${name}\n`);
}
