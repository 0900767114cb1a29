/** Which capabilities this phaul has. */
import { readStatus } from './proc.ts';

/** Numbers from linux/capability.h. */
const BITS = {
  dac_override: 1n,
  kill: 5n,
  setgid: 6n,
  setuid: 7n,
  setpcap: 8n,
  sys_ptrace: 19n,
  sys_admin: 21n,
  sys_resource: 24n,
  checkpoint_restore: 40n,
} as const;

export type Capability = keyof typeof BITS;

export async function readCapabilities(): Promise<(name: Capability) => boolean> {
  const status = await readStatus('self');
  const effective = BigInt(`0x${status.get('CapEff') ?? '0'}`);
  return (name) => ((effective >> BITS[name]) & 1n) === 1n;
}
