/** How long CRIU takes, as npm run lab has last measured it, for npm run bench: it needs guests with another kernel. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';

export interface Measured {
  on: string;
  kernel: string;
  criu: string;
  downtimes: { rssMiB: number; by: string; ms: number }[];
}

const FILE = 'docs/criu.json';

export const keep = (measured: Measured): void => writeFileSync(FILE, `${JSON.stringify(measured, undefined, 2)}\n`);
export const kept = (): Measured | undefined => (existsSync(FILE) ? (JSON.parse(readFileSync(FILE, 'utf8')) as Measured) : undefined);

/** For people, one size a line. */
export function told({ on, kernel, criu, downtimes }: Measured): string {
  const sizes = [...Map.groupBy(downtimes, ({ rssMiB }) => rssMiB)].map(([mib, movers]) => `  ${mib} MiB: ${movers.map(({ by, ms }) => `${by} ${ms} ms`).join(', ')}`);
  return [`not of this run, but measured in the lab on ${on}, between emulated guests (Linux ${kernel}), CRIU ${criu} in the way of P.Haul:`, ...sizes].join('\n');
}
