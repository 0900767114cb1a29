/**
 * Processes that came here with --pid-namespace new: they have their pids in a namespace of their own, whose init
 * is native/husk/init.c. The agent that receives such a process is in that namespace itself, and so is the phaul that
 * sends it on: for the engine there are no other pids. Journals have those of the host, which all others see.
 */
import { spawn } from 'node:child_process';
import { openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { PhaulError } from './errors.ts';
import { PHAUL } from './places.ts';

/** Of a phaul in such a namespace: where it has the host's /proc, which it was given as descriptor 3. */
const HOST_PROC_VARIABLE = 'PHAUL_HOST_PROC';
const HOST_PROC_THERE = '/proc/self/fd/3';
export const HOST_PROC = process.env[HOST_PROC_VARIABLE] ?? '/proc';
export const isInside = HOST_PROC !== '/proc';

const INIT_PROGRAM = '/memfd:phaul-init (deleted)';

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

/** From the outermost namespace that this /proc knows to the innermost. */
function pidsOf(proc: string, pid: number): number[] {
  const line = /^NSpid:\s*(.*)$/m.exec(readFileSync(`${proc}/${pid}/status`, 'utf8'))?.[1] ?? '';
  return line.split(/\s+/).map(Number);
}

/** The process of a namespace, as `proc` shows it, that has this pid in there; 0: there is none. */
function find(proc: string, namespace: string, pid: number): number {
  const candidates = readdirSync(proc).filter((name) => /^\d+$/.test(name)).map(Number);
  return candidates.find((candidate) => {
    try {
      return linkOf(`${proc}/${candidate}/ns/pid`) === namespace && pidsOf(proc, candidate).at(-1) === pid;
    } catch {
      return false; // it has ended
    }
  }) ?? 0;
}

/** How the host calls a process that has this pid for us. */
export const hostPidOf = (pid: number): number => (isInside ? find(HOST_PROC, linkOf('/proc/self/ns/pid'), pid) : pid);

/** For a phaul that will be in such a namespace. */
export const environmentInside = (): NodeJS.ProcessEnv => ({ ...process.env, [HOST_PROC_VARIABLE]: HOST_PROC_THERE });

/** The other namespaces must be ours: what is a container stays one. */
function isOurKind(pid: number, init: number): boolean {
  const same = ['net', 'ipc', 'uts', 'user'].every((name) => linkOf(`/proc/${pid}/ns/${name}`) === linkOf(`/proc/self/ns/${name}`));
  return same && linkOf(`/proc/${init}/exe`) === INIT_PROGRAM && linkOf(`/proc/${pid}/ns/mnt`) === linkOf(`/proc/${init}/ns/mnt`);
}

/** As of a child of nsenter, which passes no signals on. */
function childrenOf(pid: number | undefined): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter((word) => word !== '').map(Number);
  } catch {
    return [];
  }
}

async function runInNamespaceOf(init: number): Promise<never> {
  const nsenter = spawn('nsenter', ['--target', String(init), '--pid', '--mount', '--', 'env', `--chdir=${process.cwd()}`, PHAUL, ...process.argv.slice(2)], {
    env: environmentInside(),
    stdio: ['inherit', 'inherit', 'inherit', openSync('/proc', 'r')],
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => childrenOf(nsenter.pid).forEach((pid) => process.kill(pid, signal)));
  }
  const code = await new Promise<number | null>((resolve, reject) => {
    nsenter.on('error', (cause) => reject(new PhaulError('ERR_NAMESPACE', `The pid namespace of the process can't be entered on ${hostname()}: ${cause.message}; nsenter is in the package util-linux.`, { cause })));
    nsenter.on('exit', resolve);
  });
  if (code === null) {
    throw new PhaulError('ERR_UNKNOWN_OUTCOME', `The phaul in the pid namespace of the process was killed: run "phaul status" on ${hostname()}, which knows where the process is.`);
  }
  process.exit(code);
}

/**
 * Of a process as it was typed: the pid that it is dealt with by. If it is in a namespace that phaul made, another phaul
 * does all in there, and this one ends with it.
 */
export async function enterNamespaceOf(pid: number): Promise<number> {
  if (isInside) {
    return pidsOf(HOST_PROC, pid).at(-1) ?? pid; // that phaul has looked at it before
  }
  const namespace = linkOf(`/proc/${pid}/ns/pid`);
  if (namespace === '' || namespace === linkOf('/proc/self/ns/pid')) {
    return pid;
  }
  const init = find('/proc', namespace, 1);
  return init !== 0 && isOurKind(pid, init) ? runInNamespaceOf(init) : pid;
}
