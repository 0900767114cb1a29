/** The process keeps its pid and its threads keep theirs, so each must be free here. */
import { readProc, readStatus, readSysctl } from '../../proc.ts';
import type { Plan } from '../../source/plan.ts';
import { arriving } from '../arriving.ts';
import type { Check, Finding } from '../preflight.ts';

const SHOWN_MAX = 5;

export const checkPids: Check = async (plan, host) => {
  const wanted = [...new Set([plan.pid, ...plan.tids])];
  return [...(await tooLarge(wanted, host)), ...(await taken(wanted, plan, host))];
};

async function tooLarge(wanted: number[], host: string): Promise<Finding[]> {
  const pidMax = await readSysctl('kernel.pid_max');
  const largest = Math.max(...wanted);
  if (pidMax === undefined || largest < pidMax) {
    return [];
  }
  return [
    {
      code: 'PID_TOO_LARGE',
      subject: `pid ${largest}`,
      sentence: `Pid ${largest} is beyond what ${host} allows: run "sysctl kernel.pid_max=${2 ** Math.ceil(Math.log2(largest + 1))}" there.`,
    },
  ];
}

/** One finding for each process that is in the way, not one for each of a thousand threads. */
async function taken(wanted: number[], plan: Plan, host: string): Promise<Finding[]> {
  const owners = new Map<number, { name: string; tids: number[] }>();
  for (const tid of wanted) {
    const owner = await readOwner(tid);
    if (owner !== undefined) {
      const known = owners.get(owner.pid) ?? { name: owner.name, tids: [] };
      known.tids.push(tid);
      owners.set(owner.pid, known);
    }
  }
  const session = await readSession();
  return [...owners].map(([pid, { name, tids }]) => {
    const isAgent = session.has(pid);
    const subject = tids.includes(plan.pid) ? `pid ${plan.pid}` : `thread ${tids[0]}`;
    const [migration] = arriving([pid]);
    const mend = migration !== undefined
      ? `that is what migration ${migration} sent here, which isn't over; don't stop it unless its original still runs where it came from.`
      : isAgent
      ? 'start the migration once more, its agent and ssh session have other pids then.'
      : 'stop that process, or give --pid-namespace new, with which it runs in a pid namespace of its own there.';
    const what = `${tids.length === 1 ? 'Pid' : 'Pids'} ${list(tids)}`;
    return {
      code: isAgent ? 'PID_TAKEN_BY_PHAUL' : 'PID_TAKEN',
      subject,
      sentence: `${what} of ${plan.comm} ${tids.length === 1 ? 'is' : 'are'} taken on ${host} by ${name} (pid ${pid}): ${mend}`,
    };
  });
}

/** The agent and what exists only to carry it: the ssh session, but not the daemon that init started. */
async function readSession(): Promise<Set<number>> {
  const session = new Set([process.pid]);
  let pid = process.ppid;
  while (pid > 1) {
    const parent = Number((await readStatus(pid)).get('PPid'));
    if (parent <= 1) {
      break;
    }
    session.add(pid);
    pid = parent;
  }
  return session;
}

/** /proc answers for the threads of other processes too, though it doesn't list them. */
async function readOwner(tid: number): Promise<{ pid: number; name: string } | undefined> {
  try {
    const pid = Number((await readStatus(tid)).get('Tgid'));
    return { pid, name: (await readProc(pid, 'comm')).toString().trim() };
  } catch {
    return undefined;
  }
}

function list(tids: number[]): string {
  const shown = tids.slice(0, SHOWN_MAX).join(', ');
  return tids.length <= SHOWN_MAX ? shown : `${shown} and ${tids.length - SHOWN_MAX} more`;
}
