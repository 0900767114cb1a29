/** Unix sockets that only root can reach. */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { PhaulError } from '../errors.ts';

const refused = (path: string, why: string, cause?: Error): PhaulError => new PhaulError('ERR_AGENT_SOCKET', `The agent can't listen on ${path}: ${why}.`, { cause });

/** A socket outlives whoever listened on it. */
const answers = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });

export async function listenOn(path: string, onConnection: (duplex: Duplex) => void): Promise<Server> {
  if (await answers(path)) {
    throw refused(path, 'another agent does');
  }
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    rmSync(path, { force: true });
  } catch (cause) {
    throw refused(path, (cause as Error).message, cause as Error);
  }
  const server = createServer(onConnection);
  const mask = process.umask(0o077);
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => reject(refused(path, cause.message, cause)));
    server.listen(path, () => {
      chmodSync(path, 0o600);
      resolve(server);
    });
    process.umask(mask); // the name was bound already
  });
}
