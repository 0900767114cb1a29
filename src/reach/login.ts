/** One ssh connection: host key checked, logged in with the agent's keys, then with identity files. */
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import ssh2, { type AnyAuthMethod, type Client as SshClient, type ParsedKey } from 'ssh2';
import { PhaulError } from '../errors.ts';
import type { Destination } from './config.ts';
import { fingerprint, hostEntry, judge, keyType, knownKeys, remember, type KnownKey } from './knownHosts.ts';

const DEFAULT_IDENTITIES = ['id_ed25519', 'id_ecdsa', 'id_rsa'];
const HOST_KEY_TYPES = ['ssh-ed25519', 'ecdsa-sha2-nistp256', 'ecdsa-sha2-nistp384', 'ecdsa-sha2-nistp521', 'rsa-sha2-512', 'rsa-sha2-256'];

/** A dead link is noticed within 15 s. */
const ALIVE_INTERVAL_MS = 5_000;
const ALIVE_MISSES = 3;

interface Identity {
  file: string;
  key: ParsedKey | undefined;
  problem: string | undefined;
}

async function readIdentity(file: string): Promise<Identity> {
  try {
    const parsed = ssh2.utils.parseKey(await readFile(file));
    if (parsed instanceof Error) {
      return { file, key: undefined, problem: /encrypted/i.test(parsed.message) ? 'is encrypted: add it to ssh-agent' : parsed.message };
    }
    return { file, key: Array.isArray(parsed) ? parsed[0] : parsed, problem: undefined };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return { file, key: undefined, problem: code === 'ENOENT' ? 'does not exist' : message };
  }
}

/** In OpenSSH's order; `tried` tells afterwards what was offered. */
async function authMethods(to: Destination, tried: string[]): Promise<AnyAuthMethod[]> {
  const agentSocket = to.identityAgent === 'none' ? undefined : (to.identityAgent ?? process.env['SSH_AUTH_SOCK']);
  const files = to.identityFiles ?? DEFAULT_IDENTITIES.map((name) => join(homedir(), '.ssh', name));
  const identities = await Promise.all(files.map(readIdentity));
  const methods: AnyAuthMethod[] = [];
  if (agentSocket !== undefined && agentSocket !== '' && !to.identitiesOnly) {
    methods.push({ type: 'agent', username: to.user, agent: agentSocket });
    tried.push('the keys of ssh-agent');
  }
  for (const { file, key, problem } of identities) {
    if (key !== undefined) {
      methods.push({ type: 'publickey', username: to.user, key });
      tried.push(file);
    } else if (to.identityFiles !== undefined || problem !== 'does not exist') {
      tried.push(`${file} (${problem})`);
    }
  }
  return methods;
}

/** Types that known_hosts has come first: a host known by one key is not refused for another. */
function hostKeyOrder(known: KnownKey[]): string[] {
  const types = new Set(known.flatMap(({ type, marker }) => (marker !== undefined ? [] : type === 'ssh-rsa' ? ['rsa-sha2-512', 'rsa-sha2-256'] : [type])));
  return [...HOST_KEY_TYPES.filter((type) => types.has(type)), ...HOST_KEY_TYPES.filter((type) => !types.has(type))];
}

async function checkHostKey(to: Destination, known: KnownKey[], key: Buffer, acceptNew: boolean): Promise<PhaulError | undefined> {
  const entry = hostEntry(to.keyName, to.port);
  const judged = judge(known, key);
  const print = `${keyType(key)} ${fingerprint(key)}`;
  if (judged.verdict === 'known') {
    return undefined;
  }
  if (judged.verdict === 'changed' || judged.verdict === 'revoked') {
    const { file, line, key: old, type } = judged.by;
    return new PhaulError(
      'ERR_REACH_HOST_KEY_CHANGED',
      judged.verdict === 'revoked'
        ? `The key that ${to.name} shows (${print}) is revoked by ${file}:${line}: somebody may be listening in. Nothing was sent.`
        : `The key of ${to.name} has changed: it shows ${print}, ${file}:${line} has ${type} ${fingerprint(Buffer.from(old, 'base64'))}. Somebody may be listening in, or the ` +
          `host was installed anew; in that case run: ssh-keygen -R '${entry}' -f ${file}`,
    );
  }
  if (!acceptNew && to.strict === 'yes') {
    return new PhaulError(
      'ERR_REACH_HOST_KEY_UNKNOWN',
      `${to.name} is not in known_hosts; its key is ${print}. If that is right, connect once with ssh, or use --accept-new-host-key.`,
    );
  }
  if (to.strict !== 'no' && to.knownHostsFiles[0] !== undefined) {
    await remember(to.knownHostsFiles[0], to.keyName, to.port, key);
  }
  return undefined;
}

/** What ssh2 or the network said, as a sentence. */
function sentence(to: Destination, tried: string[], error: Error & { level?: string; code?: string }): PhaulError {
  const where = `${to.name}${to.hostName === to.name ? '' : ` (${to.hostName})`} port ${to.port}`;
  const cause = { cause: error };
  if (error.level === 'client-authentication') {
    const keys = tried.length === 0 ? 'there is no key to try' : `tried ${tried.join(', ')}`;
    return new PhaulError('ERR_REACH_AUTH', `${where} accepts no key of ours for user ${to.user}: ${keys}. Put a public key into ${to.user}'s authorized_keys there (ssh-copy-id), or name one with --identity.`, cause);
  }
  if (error.code === 'ENOTFOUND' || error.code === 'EAI_AGAIN') {
    return new PhaulError('ERR_REACH_RESOLVE', `The name ${to.hostName} has no address: check the spelling, or add a Host to your ssh configuration.`, cause);
  }
  if (error.level === 'client-timeout' || error.code === 'ETIMEDOUT') {
    return new PhaulError('ERR_REACH_TIMEOUT', `${where} did not answer within ${to.connectTimeoutMs / 1000} s: is the host up, and does a firewall let ssh through?`, cause);
  }
  if (error.code === 'ECONNREFUSED') {
    return new PhaulError('ERR_REACH_UNREACHABLE', `${where} refuses connections: does sshd run there, and on this port?`, cause);
  }
  return new PhaulError('ERR_REACH_UNREACHABLE', `${where} can't be reached by ssh: ${error.message}.`, cause);
}

export interface Login {
  client: SshClient;
  /** The address that the TCP connection really went to; '' behind a jump host. */
  address: string;
}

export async function login(to: Destination, acceptNew: boolean, through?: Duplex): Promise<Login> {
  const known = await knownKeys(to.knownHostsFiles, to.keyName, to.port);
  const tried: string[] = [];
  const methods = await authMethods(to, tried);
  const client = new ssh2.Client();
  let refused: PhaulError | undefined;
  await new Promise<void>((resolve, reject) => {
    client.once('ready', resolve);
    client.once('error', (error: Error) => reject(refused ?? sentence(to, tried, error)));
    client.once('close', () => reject(refused ?? sentence(to, tried, new Error('the connection was closed'))));
    client.connect({
      host: to.hostName,
      port: to.port,
      username: to.user,
      ...(through !== undefined && { sock: through }),
      readyTimeout: to.connectTimeoutMs,
      keepaliveInterval: ALIVE_INTERVAL_MS,
      keepaliveCountMax: ALIVE_MISSES,
      algorithms: { serverHostKey: hostKeyOrder(known) as never },
      hostVerifier: (key: Buffer, verify: (good: boolean) => void) => {
        checkHostKey(to, known, key, acceptNew).then(
          (error) => {
            refused = error;
            verify(error === undefined);
          },
          (error: Error) => {
            refused = new PhaulError('ERR_REACH_CONFIG', `The key of ${to.name} can't be remembered: ${error.message}.`, { cause: error });
            verify(false);
          },
        );
      },
      authHandler: methods as never,
    });
  });
  client.removeAllListeners('close');
  client.on('error', () => {}); // what is open on it fails by itself
  const socket = (client as unknown as { _sock?: { remoteAddress?: string; setNoDelay?: (on: boolean) => void } })._sock;
  socket?.setNoDelay?.(true);
  return { client, address: through === undefined ? (socket?.remoteAddress ?? '') : '' };
}
