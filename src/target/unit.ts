/**
 * Where systemd runs, a session is handed to an agent in a transient unit of its own, and this one only passes bytes on.
 * What that agent receives has then the rights of the host and none of this one's sandbox, lives on in the unit when the
 * agent has ended (ExitType=cgroup), and is stopped with the unit by whoever stops it.
 */
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';

const PHAUL = join(import.meta.dirname, '../../bin/phaul');
const SLICE = 'phaul.slice';
const PROPERTIES = ['ExitType=cgroup', 'TasksMax=infinity', `Slice=${SLICE}`];

/** As sd_booted(3) finds out. */
export const hasUnits = (): boolean => existsSync('/run/systemd/system');

/** Whether this agent is in such a unit. */
export const inUnit = (): boolean => hasUnits() && readFileSync('/proc/self/cgroup', 'utf8').includes(`/${SLICE}/`);

export function serveInUnit(duplex: Duplex): void {
  const unit = `phaul-${randomBytes(4).toString('hex')}`;
  const client = spawn(
    'systemd-run',
    ['--quiet', '--pipe', '--collect', `--unit=${unit}`, '--description=A process that phaul receives', ...PROPERTIES.flatMap((property) => ['-p', property]), PHAUL, 'agent', '--stdio', '--no-own-unit'],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  client.on('error', ({ message }) => {
    process.stderr.write(`phaul agent on ${hostname()} can't have a systemd unit for a process that comes: ${message}\n`);
    duplex.destroy();
  });
  for (const stream of [duplex, client.stdin, client.stdout]) {
    stream.on('error', () => {}); // each ends the other, below
  }
  duplex.pipe(client.stdin);
  client.stdout.pipe(duplex);
  // It would wait for the end of the unit, which is that of the process.
  const leave = (): boolean => client.kill();
  duplex.on('end', leave);
  duplex.on('close', leave);
  process.on('exit', leave);
  client.on('exit', () => process.off('exit', leave));
}
