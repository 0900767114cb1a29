/** The way to the phaul agent on another host: by ssh, to its service's socket or to one that ssh starts. */
import type { Duplex } from 'node:stream';
import { promisify } from 'node:util';
import type { Client as SshClient, ClientChannel } from 'ssh2';
import { PhaulError } from './errors.ts';
import type { ReachOptions } from './options.ts';
import { AGENT_SOCKET } from './places.ts';
import { resolveDestination, type Destination } from './reach/config.ts';
import { login, type Login } from './reach/login.ts';

const AGENT_COMMAND = 'phaul agent --stdio';

/** Of what the agent writes to its stderr, for the error when it fails. */
const STDERR_BYTES = 8192;

const COMMAND_NOT_FOUND = 127;

export interface Reached {
  /** As the operator called it. */
  host: string;
  /** Where page streams connect to. */
  address: string;
  user: string;
  /** How long ssh's configuration gives the host for its first word. */
  connectTimeoutMs: number;
  /** A byte stream to the agent. */
  open: () => Promise<Duplex>;
  /** To stdin and from stdout of a phaul that is started there. */
  start: (command: string) => Promise<Duplex>;
  exec: (command: string) => Promise<{ code: number; stdout: string; stderr: string }>;
  close: () => void;
}

async function exec(client: SshClient, command: string): Promise<{ code: number; stdout: string; stderr: string }> {
  const channel = await promisify((line: string, done: (error: Error | undefined, channel: ClientChannel) => void) => client.exec(line, done))(command);
  const output = { stdout: '', stderr: '' };
  channel.on('data', (bytes: Buffer) => (output.stdout += bytes.toString()));
  channel.stderr.on('data', (bytes: Buffer) => (output.stderr += bytes.toString()));
  const code = await new Promise<number>((resolve) => channel.on('close', (status: number | null) => resolve(status ?? -1)));
  return { code, ...output };
}

/** What ssh2 throws when the connection has ended meanwhile says neither where nor why. */
async function overSsh<T>({ name }: Destination, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw cause instanceof PhaulError ? cause : new PhaulError('ERR_LINK_LOST', `The ssh connection to ${name} ended before phaul was started there (${(cause as Error).message}): is the host too busy to answer, or was its sshd ended?`, { cause });
  }
}

/** Undefined if no service listens there. */
const openSocket = (client: SshClient, path: string): Promise<Duplex | undefined> =>
  new Promise((resolve) => client.openssh_forwardOutStreamLocal(path, (error, channel) => resolve(error ? undefined : channel)));

/** `status`: the exit code or the name of a signal. */
function agentFailure(to: Destination, status: number | string, stderr: string, hasAnswered: boolean): PhaulError {
  const said = stderr.trim();
  const sayings = said === '' ? '' : `: ${said}`;
  if (hasAnswered) {
    return new PhaulError('ERR_LINK_LOST', `The phaul agent on ${to.name} ended with ${status} in the middle of the migration${sayings}.`);
  }
  if (status === COMMAND_NOT_FOUND || /not found/.test(said)) {
    return new PhaulError('ERR_REACH_NO_PHAUL', `${to.name} has no phaul: install it there so that "ssh ${to.user}@${to.name} phaul --version" works (it must be on the PATH of non-interactive sessions).`);
  }
  if (/^sudo:/m.test(said)) {
    return new PhaulError('ERR_REACH_SUDO', `User ${to.user} may not become root on ${to.name} without a password ("${said}"): allow "sudo -n phaul", or log in as root.`);
  }
  return new PhaulError('ERR_REACH_AGENT_EXITED', `The phaul agent on ${to.name} ended with ${status} before it said anything${sayings}.`);
}

/** Resolves when the agent is known to run: a failure to start it is told in its own words. */
async function startAgent(client: SshClient, to: Destination, command: string): Promise<Duplex> {
  const root = to.user === 'root' || (await exec(client, 'id -u')).stdout.trim() === '0';
  const line = root ? command : `sudo -n ${command}`;
  const channel = await promisify((text: string, done: (error: Error | undefined, channel: ClientChannel) => void) => client.exec(text, done))(line);
  let stderr = '';
  let status: number | string | null = null;
  let hasAnswered = false;
  channel.stderr.on('data', (bytes: Buffer) => (stderr = (stderr + bytes.toString()).slice(-STDERR_BYTES)));
  channel.once('data', () => (hasAnswered = true));
  channel.on('exit', (code: number | null, signal?: string) => (status = signal ?? code));
  channel.on('close', () => {
    if (status !== null && status !== 0) {
      channel.emit('error', agentFailure(to, status, stderr, hasAnswered));
    }
  });
  return channel;
}

async function loginThroughJumps(options: ReachOptions, to: Destination, logins: Login[]): Promise<Login> {
  let through: Duplex | undefined;
  for (const hop of to.jumps) {
    const via = await resolveDestination(hop, options.sshConfigFile, options.identityFile);
    const last = await login(via, options.acceptNewHostKey, through);
    logins.push(last);
    const next = to.jumps[to.jumps.indexOf(hop) + 1];
    const { hostName, port } = next === undefined ? to : await resolveDestination(next, options.sshConfigFile, options.identityFile);
    through = await new Promise<Duplex>((resolve, reject) => {
      last.client.forwardOut('127.0.0.1', 0, hostName, port, (error, channel) =>
        error ? reject(new PhaulError('ERR_REACH_UNREACHABLE', `${via.name} can't reach ${hostName} port ${port}: ${error.message}.`, { cause: error })) : resolve(channel),
      );
    });
  }
  const final = await login(to, options.acceptNewHostKey, through);
  logins.push(final);
  return final;
}

export interface ReachTestOptions {
  remoteCommand?: string;
  agentSocket?: string;
}

export async function reach(options: ReachOptions, { remoteCommand = AGENT_COMMAND, agentSocket = AGENT_SOCKET }: ReachTestOptions = {}): Promise<Reached> {
  const to = await resolveDestination(options.destination, options.sshConfigFile, options.identityFile);
  const logins: Login[] = [];
  const close = (): void => {
    for (const { client } of logins.toReversed()) {
      client.end();
    }
  };
  try {
    const { client, address } = await loginThroughJumps(options, to, logins);
    return {
      host: to.name,
      address: address === '' ? to.hostName : address.replace(/^::ffff:/, ''),
      user: to.user,
      connectTimeoutMs: to.connectTimeoutMs,
      open: () => overSsh(to, async () => (await openSocket(client, agentSocket)) ?? startAgent(client, to, remoteCommand)),
      start: (command) => overSsh(to, () => startAgent(client, to, command)),
      exec: (command) => overSsh(to, () => exec(client, command)),
      close,
    };
  } catch (thrown) {
    close();
    throw thrown;
  }
}

