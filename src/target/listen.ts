/** Unix sockets that only root can reach, made here or by a service manager. */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { engine } from '../engine/libphaul.ts';
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

/** Node knows the descriptor, and tells nobody. */
const descriptorOf = (socket: Socket): number => (socket as unknown as { _handle?: { fd: number } })._handle?.fd ?? -1;

/** Whatever became of the socket's mode: who can speak to an agent is root. */
function isFriend(socket: Socket): boolean {
  try {
    const uid = engine.peerUser(descriptorOf(socket));
    return uid === 0 || uid === process.geteuid?.();
  } catch {
    return false;
  }
}

const sendingStrangersAway =
  (path: string, onConnection: (duplex: Duplex) => void) =>
  (socket: Socket): void => {
    if (isFriend(socket)) {
      onConnection(socket);
    } else {
      process.stderr.write(`phaul: somebody who is not root connected to ${path}, and was sent away; the socket should be root's alone\n`);
      socket.destroy();
    }
  };

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
  const server = createServer(sendingStrangersAway(path, onConnection));
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

/** The first descriptor that a service manager passes: sd_listen_fds(3). */
const PASSED = 3;

/** The socket that a service manager listens on for this agent (socket activation); undefined: there is none. */
export async function listenOnPassed(onConnection: (duplex: Duplex) => void): Promise<Server | undefined> {
  const { LISTEN_PID: pid, LISTEN_FDS: count } = process.env;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) {
    delete process.env[name]; // they are not for children
  }
  if (pid !== String(process.pid) || count === undefined) {
    return undefined;
  }
  if (count !== '1') {
    throw new PhaulError('ERR_AGENT_SOCKET', `The service manager passed ${count} sockets to the agent, which serves one: let its socket unit have a single ListenStream=.`);
  }
  const server = createServer(sendingStrangersAway('the socket of the service manager', onConnection));
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => reject(new PhaulError('ERR_AGENT_SOCKET', `The agent can't use the socket that the service manager passed: ${cause.message}.`, { cause })));
    server.listen({ fd: PASSED }, () => resolve(server));
  });
}
