/**
 * npm run demo:connections: a redis-server with a floating address moves from alpha to beta and back, again and again,
 * while clients on a third host hold their connections open, send several writes at a time and check the answers in
 * order. The last line is JSON: clients, moves, resets, lost, doubled, medianPauseMs, maxPauseMs. A pause is the longest
 * that any client waited for its answers while the server moved.
 *
 *   --clients N   connections (200)
 *   --moves N     there and back counts two (20)
 */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { $ as shell } from 'zx';
import type { DoneEvent } from '../src/events.ts';
import { startRedis } from './redis.ts';

const { values } = parseArgs({ options: { clients: { type: 'string', default: '200' }, moves: { type: 'string', default: '20' }, client: { type: 'boolean', default: false } } });
const env = { ...process.env, PHAUL_TWO_HOSTS: process.env['PHAUL_TWO_HOSTS'] ?? 'connections' };
const $ = shell({ quiet: true, env });
const on = (host: string, ...command: string[]) => $`scripts/two-hosts exec ${host} -- ${command}`;
const say = (text: string): void => console.log(text);

const ADDRESS = '10.77.0.100';
const PREFIX = 24;
const PORT = 6379;
/** Writes that are sent at once, and the rest before the next ones. */
const BATCH = 5;
const REST_MS = 20;

/** Before a move and after it, so that each has clients that are at work. */
const BETWEEN_MS = 500;

interface Found {
  longestMs: number;
  resets: number;
  lost: number;
  doubled: number;
  writes: number;
}

/** All clients are one program on gamma: it answers each line with what was found since the line before. */
function startClients(): { ask: () => Promise<Found>; end: () => void } {
  const client = on('gamma', process.execPath, 'scripts/demoConnections.ts', '--client', '--clients', values.clients).nothrow();
  const answers = createInterface({ input: client.stdout })[Symbol.asyncIterator]();
  return {
    ask: async () => {
      client.stdin.write('\n');
      const { value, done } = await answers.next();
      if (done === true) {
        throw new Error(`the clients ended: ${(await client).stderr}`);
      }
      return JSON.parse(value as string) as Found;
    },
    end: () => client.stdin.end(),
  };
}

async function move(from: string, to: string, pid: string): Promise<DoneEvent> {
  const { stdout, stderr, exitCode } = await $({ nothrow: true })`scripts/two-hosts exec ${from} -- phaul migrate ${pid} root@${to} --move-ip ${ADDRESS}/${PREFIX} --json`;
  if (exitCode !== 0) {
    throw new Error(`phaul migrate: exit ${exitCode}\n${stderr}`);
  }
  return JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as DoneEvent;
}

const median = (numbers: number[]): number => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? 0;

async function main(): Promise<void> {
  say(`Three hosts; redis-server on alpha at ${ADDRESS}, and ${values.clients} clients on gamma.`);
  await $`scripts/two-hosts up --hosts 3`;
  await on('alpha', 'ip', 'address', 'add', `${ADDRESS}/${PREFIX}`, 'dev', 'eth0');
  const pid = await startRedis(on);
  const clients = startClients();
  await clients.ask();
  say(`\n  alpha# phaul migrate ${pid} root@beta --move-ip ${ADDRESS}/${PREFIX}\n`);
  const total = { resets: 0, lost: 0, doubled: 0 };
  const pauses: number[] = [];
  for (let i = 0; i < Number(values.moves); i++) {
    const [from, to] = i % 2 === 0 ? ['alpha', 'beta'] : ['beta', 'alpha'];
    await sleep(BETWEEN_MS);
    const before = await clients.ask();
    const { downtimeMs } = await move(from as string, to as string, pid);
    await sleep(BETWEEN_MS);
    const found = await clients.ask();
    for (const name of ['resets', 'lost', 'doubled'] as const) {
      total[name] += found[name] + before[name];
    }
    pauses.push(found.longestMs);
    say(`  ${from} -> ${to}: downtime ${downtimeMs.toFixed(1)} ms, longest wait of a client ${found.longestMs.toFixed(0)} ms (${before.longestMs.toFixed(0)} ms without a move), ${found.writes.toLocaleString('en-US')} writes meanwhile`);
  }
  clients.end();
  const round = (ms: number): number => Math.round(ms * 10) / 10;
  say(JSON.stringify({ clients: Number(values.clients), moves: pauses.length, ...total, medianPauseMs: round(median(pauses)), maxPauseMs: round(Math.max(...pauses)) }));
  if (total.resets + total.lost + total.doubled > 0) {
    throw new Error('a connection was reset, or an answer was not the next one');
  }
}

/** One connection: a counter of its own, whose answers tell whether a write was lost or done twice. */
class Client {
  readonly #socket: Socket;
  readonly #found: Found;
  readonly #command: string;
  #text = '';
  #expected = 1;
  #left = 0;
  #sentMs = 0;

  constructor(number: number, found: Found) {
    this.#found = found;
    this.#command = `INCR counter:${number}\r\n`.repeat(BATCH);
    this.#socket = connect({ host: ADDRESS, port: PORT, noDelay: true });
    this.#socket.once('connect', () => this.#send());
    this.#socket.on('data', (bytes) => this.#hear(bytes.toString()));
    this.#socket.on('error', () => found.resets++);
    this.#socket.on('end', () => found.resets++);
  }

  /** How long it has been waiting. */
  get waitingMs(): number {
    return this.#left === 0 ? 0 : performance.now() - this.#sentMs;
  }

  #send(): void {
    this.#left = BATCH;
    this.#sentMs = performance.now();
    this.#socket.write(this.#command);
  }

  #hear(text: string): void {
    const lines = (this.#text + text).split('\r\n');
    this.#text = lines.pop() ?? '';
    for (const line of lines) {
      const value = Number(line.slice(1));
      this.#found.lost += value < this.#expected ? 1 : 0;
      this.#found.doubled += value > this.#expected ? 1 : 0;
      this.#expected = value + 1;
      this.#found.writes++;
      this.#left--;
    }
    if (this.#left === 0 && lines.length > 0) {
      this.#found.longestMs = Math.max(this.#found.longestMs, performance.now() - this.#sentMs);
      setTimeout(() => this.#send(), REST_MS);
    }
  }
}

async function runClients(): Promise<void> {
  const found: Found = { longestMs: 0, resets: 0, lost: 0, doubled: 0, writes: 0 };
  const clients = Array.from({ length: Number(values.clients) }, (_, i) => new Client(i, found));
  for await (const _ of createInterface({ input: process.stdin })) {
    found.longestMs = Math.max(found.longestMs, ...clients.map(({ waitingMs }) => waitingMs));
    console.log(JSON.stringify(found));
    Object.assign(found, { longestMs: 0, resets: 0, lost: 0, doubled: 0, writes: 0 });
  }
  process.exit();
}

if (values.client) {
  await runClients();
} else {
  try {
    await main();
  } catch (error) {
    console.error(`demo:connections: ${error instanceof Error ? error.message : String(error)}`);
    process.exitCode = 1;
  } finally {
    await $`scripts/two-hosts down`.nothrow();
  }
}
