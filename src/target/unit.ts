/**
 * Where systemd runs, a session is handed to an agent in a transient unit of its own, and this one only passes bytes on.
 * What that agent receives has then the rights of the host and none of this one's sandbox, lives on in the unit when the
 * agent has ended (ExitType=cgroup), and is stopped with the unit by whoever stops it.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { Duplex, type Readable, type Writable } from 'node:stream';
import { PHAUL } from '../places.ts';

const SLICE = 'phaul.slice';
const PROPERTIES = ['ExitType=cgroup', 'TasksMax=infinity', `Slice=${SLICE}`];

/** As sd_booted(3) finds out. */
export const hasUnits = (): boolean => existsSync('/run/systemd/system');

/** Whether this agent is in such a unit. */
export const inUnit = (): boolean => hasUnits() && readFileSync('/proc/self/cgroup', 'utf8').includes(`/${SLICE}/`);

/** An agent in a unit of its own, which speaks on the stdin and stdout of this client of systemd's. */
function startAgent(unit: string, description: string): ChildProcessByStdio<Writable, Readable, null> {
  const client = spawn(
    'systemd-run',
    ['--quiet', '--pipe', '--collect', `--unit=${unit}`, `--description=${description}`, ...PROPERTIES.flatMap((property) => ['-p', property]), PHAUL, 'agent', '--stdio', '--no-own-unit'],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  // It would wait for the end of the unit, which is that of the process.
  const leave = (): boolean => client.kill();
  process.on('exit', leave);
  client.on('exit', () => process.off('exit', leave));
  return client;
}

export function serveInUnit(duplex: Duplex): void {
  const client = startAgent(`phaul-${randomBytes(4).toString('hex')}`, 'A process that phaul receives');
  client.on('error', ({ message }) => {
    process.stderr.write(`phaul agent on ${hostname()} can't have a systemd unit for a process that comes: ${message}\n`);
    duplex.destroy();
  });
  for (const stream of [duplex, client.stdin, client.stdout]) {
    stream.on('error', () => {}); // each ends the other, below
  }
  duplex.pipe(client.stdin);
  client.stdout.pipe(duplex);
  duplex.on('end', () => client.kill());
  duplex.on('close', () => client.kill());
}

/** The way to an agent in a unit of this name. */
export function startInUnit(unit: string, description: string): Duplex {
  const client = startAgent(unit, description);
  const duplex = Duplex.from({ readable: client.stdout, writable: client.stdin });
  client.on('error', (error) => duplex.destroy(error));
  duplex.on('close', () => client.kill());
  return duplex;
}
