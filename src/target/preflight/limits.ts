/** A process that isn't privileged can't get a higher hard limit than the agent has that makes it. */
import { readHardLimits } from '../../proc.ts';
import { readCapabilities } from '../../capabilities.ts';
import type { Check } from '../preflight.ts';

export const checkLimits: Check = async (plan, host) => {
  const has = await readCapabilities();
  if (has('sys_resource')) {
    return [];
  }
  const here = await readHardLimits('self');
  return Object.entries(plan.limits)
    .filter(([name, hard]) => (hard ?? Infinity) > (here[name] ?? Infinity))
    .map(([name, hard]) => ({
      code: 'LIMIT',
      subject: name,
      sentence:
        `The hard limit "${name}" is ${hard ?? 'unlimited'} for ${plan.comm}, but only ${here[name]} for the agent on ${host}, which may not raise it ` +
        'without CAP_SYS_RESOURCE: raise it for the session or the service that starts the agent.',
    }));
};
