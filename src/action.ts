/** The operator's own programs, which are run at named points. */
import { spawnSync } from 'node:child_process';
import { hostname } from 'node:os';
import { PhaulError } from './errors.ts';

/** Of what one says, in a sentence. */
const SAID_MAX = 300;

/** `what`: what the operator calls it. The point is in PHAUL_ACTION, and in CRTOOLS_SCRIPT_ACTION, as criu calls it. */
export function runAction(what: string, program: string, point: string, environment: Record<string, string>, timeoutMs?: number): void {
  const { error, status, signal, stderr } = spawnSync(program, [], {
    stdio: ['ignore', 'ignore', 'pipe'],
    ...(timeoutMs !== undefined && { timeout: timeoutMs }),
    env: { ...process.env, PHAUL_ACTION: point, CRTOOLS_SCRIPT_ACTION: point, ...environment },
  });
  if (error === undefined && status === 0) {
    return;
  }
  const said = stderr?.toString().trim().slice(0, SAID_MAX) ?? '';
  const how = error !== undefined ? error.message : signal !== null ? `it was ended by ${signal}` : `it ended with ${status}`;
  throw new PhaulError('ERR_HOOK', `The ${what} ${program} on ${hostname()} failed at ${point}: ${how}${said === '' ? '' : `, and said: ${said}`}.`);
}
