/** What the engine needs of the kernel and of the agent's rights to build the process here. */
import { existsSync } from 'node:fs';
import { release } from 'node:os';
import { bootId } from '../../journal.ts';
import { hashVdso, readPageSize, readSysctl } from '../../proc.ts';
import type { Check, Finding } from '../preflight.ts';
import { readCapabilities } from '../../capabilities.ts';

/** clone3 with set_tid is of 5.5, pidfd_getfd of 5.6, CAP_CHECKPOINT_RESTORE of 5.9. */
const OLDEST_KERNEL = [5, 9] as const;

const YAMA_NO_ATTACH = 3;

export const checkKernel: Check = async (plan, host) => {
  const findings: Finding[] = [];
  const [major = 0, minor = 0] = release().split('.').map((part) => Number.parseInt(part, 10));
  if (major < OLDEST_KERNEL[0] || (major === OLDEST_KERNEL[0] && minor < OLDEST_KERNEL[1])) {
    findings.push({
      code: 'KERNEL_OLD',
      subject: release(),
      sentence: `${host} runs Linux ${release()}, but building a process takes ${OLDEST_KERNEL.join('.')} or newer: choose another host, or update its kernel.`,
    });
  }
  findings.push(...(await missingRights(plan.uid, plan.gid, host)));
  if ((await readSysctl('kernel.yama.ptrace_scope')) === YAMA_NO_ATTACH) {
    findings.push({
      code: 'PTRACE_FORBIDDEN',
      subject: 'kernel.yama.ptrace_scope',
      sentence: `${host} forbids ptrace for everyone (kernel.yama.ptrace_scope is 3) until it is booted anew with another value.`,
    });
  }
  const pageSize = await readPageSize('self');
  if (pageSize !== plan.pageSize) {
    findings.push({
      code: 'PAGE_SIZE',
      subject: String(pageSize),
      sentence: `The pages of ${host} have ${pageSize} bytes, those of ${plan.host} ${plan.pageSize}: choose a host with a kernel of the same page size.`,
    });
  }
  // Without one, there is nothing that the process's own vdso could lead into.
  if ((await hashVdso('self')) === '') {
    findings.push({
      code: 'VDSO',
      subject: 'vdso',
      sentence: `The kernel of ${host} (${release()}) gives processes no vdso, through which ${plan.comm} is built: boot it without vdso=0.`,
    });
  }
  if (plan.bootId !== bootId() && !existsSync('/proc/self/ns/time')) {
    findings.push({
      code: 'TIME_NAMESPACE',
      subject: 'CLOCK_MONOTONIC',
      sentence:
        `The kernel of ${host} (${release()}) has no time namespaces (CONFIG_TIME_NS), without which the clocks of ${plan.comm} (CLOCK_MONOTONIC) would ` +
        `leap or step back from those of ${plan.host}: choose a host whose kernel has them.`,
    });
  }
  return findings;
};

async function missingRights(uid: number, gid: number, host: string): Promise<Finding[]> {
  const has = await readCapabilities();
  const missing = [
    has('sys_admin') || has('checkpoint_restore') ? [] : ['CAP_CHECKPOINT_RESTORE'],
    has('sys_ptrace') ? [] : ['CAP_SYS_PTRACE'],
    uid === 0 || has('setuid') ? [] : ['CAP_SETUID'],
    gid === 0 || has('setgid') ? [] : ['CAP_SETGID'],
    uid === 0 || has('setpcap') ? [] : ['CAP_SETPCAP'],
  ].flat();
  if (missing.length === 0) {
    return [];
  }
  return [
    {
      code: 'CAPABILITY',
      subject: missing.join(' '),
      sentence: `The agent on ${host} lacks ${missing.join(', ')}: start it as root, outside of a container that takes these away.`,
    },
  ];
}
