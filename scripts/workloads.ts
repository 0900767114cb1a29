/** Programs that are moved in the lab, and how each proves that nothing of it was lost. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Host, Lab } from './labHosts.ts';

export interface Running {
  pid: number;
  /** After a move: "ok", or what is wrong. It has ended then. `gapMs`: how long it stood still, by its own clock. */
  check(host: Host): Promise<{ verdict: string; gapMs?: number }>;
}

export type Workload = (lab: Lab, host: Host) => Promise<Running>;

/** Of test/victims: they check themselves. */
const victim =
  (name: string, ...args: string[]): Workload =>
  async (lab, host) => {
    const report = lab.newReport();
    const pid = await lab.start(host, join(process.cwd(), 'build/victims', name), report, ...args);
    await lab.hear(host, report, 'ready');
    await lab.on(host, 'kill', '-USR1', String(pid)); // from here on the largest gap counts
    return {
      pid,
      check: async (there) => {
        await lab.on(there, 'kill', '-USR2', String(pid));
        const gap = await lab.hear(there, report, 'gap');
        await lab.on(there, 'kill', '-TERM', String(pid));
        const verdict = await lab.hear(there, report, 'ok');
        return { verdict, ...(gap.startsWith('gap') && { gapMs: Number(gap.slice('gap '.length)) }) };
      },
    };
  };

/** It dirties 200 pages a second, and leaves the guest's CPU to others meanwhile. */
export const startWriter = (mib: number): Workload => victim('static_writer', String(mib), '200', '1', '2000');

/** Hashes memory that it changes all the time (OpenSSL chooses the instructions), and at the end does all of it again. */
const HASHES = `
import hashlib, signal, sys, time
def say(line):
    with open(sys.argv[1], 'a') as f: f.write(line + '\\n')
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
def memory(): return [bytes([i % 251]) * 4096 for i in range(2048)]
def step(data, n, digest):
    digest = hashlib.sha256(digest + data[n % 2048]).digest()
    data[n % 2048] = digest * 128
    return digest
data, n, digest, gap, last = memory(), 0, b'', 0, 0
say('ready')
while not ended:
    digest = step(data, n, digest)
    n += 1
    now = time.monotonic()
    gap = max(gap, now - last) if last else 0
    last = now
    time.sleep(0.005)
data, again = memory(), b''
for i in range(n): again = step(data, i, again)
say('ok %.3f' % (gap * 1000) if again == digest and n > 10 else 'failed: after %d steps the digest is wrong' % n)
`;

const python: Workload = async (lab, host) => {
  const report = lab.newReport();
  const pid = await lab.start(host, '/usr/bin/python3', '-c', HASHES, report);
  await lab.hear(host, report, 'ready');
  return {
    pid,
    check: async (there) => {
      await lab.on(there, 'kill', '-TERM', String(pid));
      const [verdict = '', gap] = (await lab.hear(there, report, 'ok')).split(/ (?=[\d.]+$)/);
      return { verdict, ...(gap !== undefined && { gapMs: Number(gap) }) };
    },
  };
};

const REDIS = ['--save', '', '--appendonly', 'no', '--bind', '0.0.0.0', '--protected-mode', 'no', '--enable-debug-command', 'yes', '--dir', '/tmp'];

/** Of keys whose values have 200 bytes. */
export const redis =
  (keys: number): Workload =>
  async (lab, host) => {
    const ask = async (there: Host, ...command: string[]): Promise<string> => (await lab.on(there, 'redis-cli', ...command)).stdout.trim();
    const pid = await lab.start(host, 'redis-server', ...REDIS);
    while ((await ask(host, 'ping')) !== 'PONG') {
      await sleep(500);
    }
    await ask(host, 'debug', 'populate', String(keys), 'key', '200');
    const digest = await ask(host, 'debug', 'digest');
    return {
      pid,
      check: async (there) => {
        const now = await ask(there, 'debug', 'digest');
        const written = await ask(there, 'set', 'after', 'the move');
        await lab.on(there, 'redis-cli', 'shutdown', 'nosave');
        return { verdict: now !== digest ? `its data are ${now}, and were ${digest}` : written === 'OK' ? 'ok' : `it answers a write with "${written}"` };
      },
    };
  };

export const workloads = {
  'static C': startWriter(16),
  threads: victim('threads'),
  'guard regions': victim('cow'),
  python3: python,
  redis: redis(50_000),
} satisfies Record<string, Workload>;
export type WorkloadName = keyof typeof workloads;
