/**
 * npm run soak [-- --moves N --mib M --threads T]: moves one process there and back between two agents that stay, checks its memory
 * every so often (it ends with that, and another one goes on), and looks whether the agents grow. The last line is JSON. SIGINT ends
 * it after the move that is under way.
 */
import { parseArgs } from 'node:util';
import { Bed } from '../test/moves/bed.ts';

const { values } = parseArgs({ options: { moves: { type: 'string', default: '1000' }, mib: { type: 'string', default: '256' }, threads: { type: 'string', default: '8' } } });
const MOVES = Number(values.moves);

/** The process dirties so many pages a second. */
const RATE = '1000';
/** Moves between two looks at the agents, and of one process. */
const SAMPLE = 25;
const LIFE = 100;

interface Sample {
  moves: number;
  rssMib: number;
  descriptors: number;
  threads: number;
}

const bed = new Bed('soak');
const hosts = ['alpha', 'beta'] as const;

async function startAgent(host: string): Promise<number> {
  const pid = await bed.start(host, 'phaul', 'agent');
  while ((await bed.on(host, 'sh', '-c', 'ss -lx | grep -q /run/phaul/agent.sock')).exitCode !== 0) {
    // It loads its modules.
  }
  return pid;
}

async function sample(host: string, agent: number, moves: number): Promise<Sample> {
  const status = await bed.status(host, agent);
  const { stdout } = await bed.on(host, 'sh', '-c', `ls /proc/${agent}/fd | wc -l`);
  return { moves, rssMib: Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) / 1024), descriptors: Number(stdout), threads: Number(/^Threads:\s+(\d+)/m.exec(status)?.[1]) };
}

const at = (sorted: number[], share: number): number => Number((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN).toFixed(1));

const downtimes: number[] = [];
const samples: Record<string, Sample[]> = { alpha: [], beta: [] };
const failures: string[] = [];
const startMs = performance.now();
let goes = true;
process.once('SIGINT', () => (goes = false));
try {
  await bed.up();
  const agents = { alpha: await startAgent('alpha'), beta: await startAgent('beta') };
  for (let moves = 0, life = 0; goes && moves < MOVES && failures.length === 0; life++) {
    const name = `static_writer.${life}`;
    const pid = await bed.victim(name, values.mib, RATE, values.threads);
    for (const end = Math.min(MOVES, moves + LIFE); goes && moves < end; moves++) {
      const [from, to] = moves % 2 === 0 ? hosts : hosts.toReversed();
      const { exitCode, done, stderr } = await bed.migrate(from ?? '', pid, to ?? '');
      if (exitCode !== 0) {
        failures.push(`move ${moves + 1}: ${stderr}`);
        break;
      }
      downtimes.push(done.downtimeMs);
      if ((moves + 1) % SAMPLE === 0) {
        for (const host of hosts) {
          samples[host]?.push(await sample(host, agents[host], moves + 1));
        }
        process.stdout.write(`${moves + 1} moves, ${JSON.stringify({ alpha: samples['alpha']?.at(-1), beta: samples['beta']?.at(-1) })}\n`);
      }
    }
    const place = moves % 2 === 0 ? 'alpha' : 'beta';
    const verdict = await bed.verdict(place, pid, name);
    if (verdict !== 'ok') {
      failures.push(`after ${moves} moves: ${verdict}`);
    }
  }
} finally {
  await bed.down();
}
downtimes.sort((a, b) => a - b);
const grown = (host: string): object => ({ first: samples[host]?.[0], last: samples[host]?.at(-1) });
process.stdout.write(
  `${JSON.stringify({ moves: downtimes.length, failures, minutes: Math.round((performance.now() - startMs) / 60_000), downtimeMs: { median: at(downtimes, 0.5), p99: at(downtimes, 0.99), max: at(downtimes, 1) }, alpha: grown('alpha'), beta: grown('beta') })}\n`,
);
process.exitCode = failures.length === 0 ? 0 : 1;
