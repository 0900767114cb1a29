/** Is it a program at all that is to be moved, and may phaul look at it? */
import { stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { readCapabilities, type Capability } from '../capabilities.ts';
import { PhaulError } from '../errors.ts';
import { isKernelThread, procError, readStatus } from '../proc.ts';

/**
 * Refuses, before anything else is looked at, what no process could be moved by: a pid that is not a
 * program's, or phaul's own. Returns its name.
 */
export async function requireProgram(pid: number): Promise<string> {
  const host = hostname();
  const status = await readStatus(pid);
  const name = status.get('Name') ?? '';
  if (Number(status.get('Tgid')) !== pid) {
    throw new PhaulError('ERR_NO_PROCESS', `${pid} is a thread of process ${status.get('Tgid')} (${name}) on ${host}: give the pid of the process, all its threads move with it.`);
  }
  if (pid === process.pid || pid === process.ppid) {
    throw new PhaulError('ERR_OWN_PROCESS', `Process ${pid} (${name}) on ${host} is phaul itself or what started it, and can't be moved by it.`);
  }
  if (await isKernelThread(pid)) {
    throw new PhaulError('ERR_KERNEL_THREAD', `Process ${pid} (${name}) is a thread of ${host}'s kernel: only programs can be moved.`);
  }
  if (status.get('State')?.startsWith('Z')) {
    throw new PhaulError('ERR_NO_PROCESS', `Process ${pid} (${name}) on ${host} has already ended and waits for its parent: there is nothing to move.`);
  }
  if (pid === 1) {
    throw new PhaulError('ERR_INIT', `Process 1 (${name}) is the init of ${host}: its pid is taken on every host, and all other processes would end with it.`);
  }
  await requireAccess(pid, name);
  return name;
}

/** To stop a process of another user, and to read all of it; of each, one is enough. */
const NEEDED: readonly (readonly [Capability, ...Capability[]])[] = [['sys_ptrace'], ['dac_override'], ['kill'], ['checkpoint_restore', 'sys_admin']];

/** Without root, the kernel hides from phaul what it has to read. */
async function requireAccess(pid: number, name: string): Promise<void> {
  if (process.geteuid?.() !== 0) {
    throw new PhaulError('ERR_NOT_ROOT', `Moving process ${pid} (${name}) takes root on ${hostname()}: run phaul with sudo.`);
  }
  const has = await readCapabilities();
  const missing = NEEDED.filter((names) => !names.some(has)).map(([name]) => `CAP_${name.toUpperCase()}`);
  if (missing.length > 0) {
    throw new PhaulError('ERR_NOT_ROOT', `Moving process ${pid} (${name}) takes ${missing.join(', ')}, which root on ${hostname()} lacks here: run phaul outside of the container or unit that takes it away.`);
  }
  try {
    await stat(`/proc/${pid}/exe`);
  } catch (error) {
    throw procError(pid, 'exe', error);
  }
}
