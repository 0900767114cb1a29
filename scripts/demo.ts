/**
 * npm run demo: a redis-server with a gigabyte of data moves from alpha to beta while a client on a third host
 * keeps writing. Its address doesn't move, so the client tries the other host when it is disconnected; every
 * write that was acknowledged must be there afterwards.
 *
 *   --keep    leave the hosts and redis as they are, to look around
 *   --mib N   of data (1100)
 */
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { $ as shell } from 'zx';
import type { DoneEvent } from '../src/events.ts';
import { startRedis } from './redis.ts';

const { values } = parseArgs({ options: { keep: { type: 'boolean', default: false }, client: { type: 'boolean', default: false }, mib: { type: 'string', default: '1100' } } });
const env = { ...process.env, PHAUL_TWO_HOSTS: process.env['PHAUL_TWO_HOSTS'] ?? 'demo' };
const $ = shell({ quiet: true, env });
const on = (host: string, ...command: string[]) => $`scripts/two-hosts exec ${host} -- ${command}`;
const say = (text: string): void => console.log(text);

const VALUE_BYTES = 1000;
const MIB = Number(values.mib);

/** Two hundred bytes of redis' own come to each key. */
const KEYS = Math.round((MIB * 2 ** 20) / (VALUE_BYTES + 200));
const WRITES_AFTER_MOVE_MS = 1500;

const cli = async (host: string, ...command: string[]): Promise<string> => (await on(host, 'redis-cli', ...command)).stdout.trim();

/** The client runs in gamma, on the hosts' link; it prints a line for each acknowledged write. */
function startClient(): { stop: () => Promise<{ last: number; longestMs: number }> } {
  const client = on('gamma', process.execPath, 'scripts/demo.ts', '--client').nothrow();
  let output = '';
  client.stdout.on('data', (bytes: Buffer) => (output += bytes.toString()));
  return {
    stop: async () => {
      client.kill('SIGTERM');
      await client;
      const [last = '0', longestMs = '0'] = output.trim().split('\n').at(-1)?.split(' ') ?? [];
      return { last: Number(last), longestMs: Number(longestMs) };
    },
  };
}

async function main(): Promise<void> {
  say('Two hosts, alpha and beta, and a third for the client: network, pid, mount, uts and ipc namespaces, sshd, keys.');
  await $`scripts/two-hosts up --hosts 3`;
  const pid = await startRedis(on);
  say(`redis-server runs on alpha as pid ${pid}; filling it with ${KEYS.toLocaleString('en-US')} keys.`);
  await cli('alpha', 'debug', 'populate', String(KEYS), 'key', String(VALUE_BYTES));
  const digest = await cli('alpha', 'debug', 'digest');
  const client = startClient();
  await sleep(500);
  say('A client on gamma writes as fast as it can. Now:\n\n  alpha# phaul migrate ' + `${pid} root@beta --tcp close\n`);
  const move = $({ nothrow: true })`scripts/two-hosts exec alpha -- phaul migrate ${pid} root@beta --tcp close --json`;
  const { stdout, stderr, exitCode } = await move;
  const done = JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as DoneEvent;
  if (exitCode !== 0) {
    throw new Error(`phaul migrate: exit ${exitCode}\n${stderr}`);
  }
  for (const { round, pagesDirty, ms, bytesSent } of done.rounds) {
    say(`  round ${round}  ${pagesDirty.toLocaleString('en-US')} dirty pages  ${(bytesSent / 2 ** 20).toFixed(1)} MiB sent  ${ms.toFixed(0)} ms`);
  }
  await sleep(WRITES_AFTER_MOVE_MS);
  const { last, longestMs } = await client.stop();
  const kept = Number(await cli('beta', 'get', 'counter'));
  const writes = Number(await cli('beta', 'llen', 'log'));
  await cli('beta', 'del', 'counter', 'log');
  const digestThere = await cli('beta', 'debug', 'digest');
  const gone = (await on('alpha', 'kill', '-0', pid).nothrow()).exitCode !== 0;
  say(`\nThe client had ${last.toLocaleString('en-US')} writes acknowledged; redis on beta has ${writes.toLocaleString('en-US')} and counts to ${kept.toLocaleString('en-US')}.`);
  say(`Its longest wait, reconnecting included: ${longestMs.toFixed(0)} ms. The digest of all other keys: ${digestThere === digest ? 'the same' : 'DIFFERENT'}.`);
  if (digestThere !== digest || writes < last || kept < last || !gone) {
    throw new Error('acknowledged writes or data are missing on beta, or redis still runs on alpha');
  }
  say(`moved redis-server with ${(done.rssBytes / 2 ** 30).toFixed(2)} GiB from alpha to beta: downtime ${done.downtimeMs.toFixed(1)} ms, no acknowledged write lost`);
}

/** A connection to redis that gives one reply to one transaction at a time. */
class Connection {
  readonly #socket: Socket;
  #text = '';
  #wake: () => void = () => {};
  #open = true;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes) => {
      this.#text += bytes.toString();
      this.#wake();
    });
    socket.on('error', () => {});
    socket.once('close', () => {
      this.#open = false;
      this.#wake();
    });
  }

  static open(host: string): Promise<Connection | undefined> {
    return new Promise((resolve) => {
      const socket = connect({ host, port: 6379, noDelay: true });
      socket.once('connect', () => resolve(new Connection(socket)));
      socket.once('error', () => resolve(undefined));
    });
  }

  /** False if the connection ended before the whole reply was here. */
  async execute(...commands: string[]): Promise<boolean> {
    this.#text = '';
    this.#socket.write(['MULTI', ...commands, 'EXEC', ''].join('\r\n'));
    while (this.#open && !/\*2\r\n\+OK\r\n:\d+\r\n$/.test(this.#text)) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return this.#open;
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** In gamma: one write after the other, each waited for; alpha's address, then beta's, then alpha's again. */
async function runClient(): Promise<void> {
  const addresses = ['10.77.0.1', '10.77.0.2'];
  let acknowledged = 0;
  let longestMs = 0;
  let lastMs = performance.now();
  let ended = false;
  process.on('SIGTERM', () => (ended = true));
  for (let i = 0; !ended; i++) {
    const redis = await Connection.open(addresses[i % 2] ?? '');
    // The number, and a line of the log. Repeating it after a lost answer does no harm.
    while (redis !== undefined && !ended && (await redis.execute(`SET counter ${acknowledged + 1}`, `RPUSH log ${acknowledged + 1}`))) {
      acknowledged++;
      longestMs = Math.max(longestMs, performance.now() - lastMs);
      lastMs = performance.now();
    }
    redis?.close();
    await sleep(1);
  }
  console.log(`${acknowledged} ${longestMs}`);
}

if (values.client) {
  await runClient();
} else {
  try {
    await main();
  } catch (error) {
    console.error(`demo: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  } finally {
    if (values.keep) {
      say('The hosts stay: scripts/two-hosts --name demo exec beta; scripts/two-hosts --name demo down.');
    } else {
      await $`scripts/two-hosts down`.nothrow();
    }
  }
}
