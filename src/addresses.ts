/** Addresses of this host that go along with a process: --move-ip ADDRESS/PREFIX[@DEVICE[:DEVICE THERE]]. */
import { readFileSync } from 'node:fs';
import { hostname, networkInterfaces } from 'node:os';
import { isIP } from 'node:net';
import { z } from 'zod';
import { PhaulError } from './errors.ts';

const DEVICE = /^[^\s@:/]{1,15}$/;

export const movedAddressSchema = z.strictObject({
  address: z.union([z.ipv4(), z.ipv6()]),
  /** Bits. */
  prefix: z.int().min(0).max(128),
  /** Of the host that it leaves, and of the one that it comes to. */
  device: z.string().regex(DEVICE),
  deviceThere: z.string().regex(DEVICE),
});
export type MovedAddress = z.infer<typeof movedAddressSchema>;

/** As the operator wrote it. */
export interface MoveIp {
  address: string;
  prefix: number;
  device?: string;
  deviceThere?: string;
}

export function parseMoveIp(text: string): MoveIp {
  const [, address = '', prefix = '', device, deviceThere] = /^([^/@%]+)\/(\d{1,3})(?:@([^\s@:/]{1,15})(?::([^\s@:/]{1,15}))?)?$/.exec(text) ?? [];
  const family = isIP(address);
  if (family === 0 || Number(prefix) > (family === 4 ? 32 : 128)) {
    throw new PhaulError('ERR_USAGE', `"${text}" is no address to move: write ADDRESS/PREFIX[@DEVICE[:DEVICE THERE]], such as 10.0.0.7/24 or 10.0.0.7/24@eth0:ens3, as "ip address" shows it.`);
  }
  return { address: canonical(address), prefix: Number(prefix), ...(device !== undefined && { device }), ...(deviceThere !== undefined && { deviceThere }) };
}

/** The URL parser knows how IPv6 addresses are shortened. */
const canonical = (address: string): string => (address.includes(':') ? new URL(`http://[${address}]`).hostname.slice(1, -1) : address);

/** Finds each on this host, or refuses with what is there. */
export function findMoved(wanted: MoveIp[]): MovedAddress[] {
  const here = Object.entries(networkInterfaces()).flatMap(([device, list]) => (list ?? []).map(({ cidr }) => ({ device, cidr })));
  return wanted.map(({ address, prefix, device, deviceThere }) => {
    const found = here.find((one) => one.cidr === `${address}/${prefix}` && (device === undefined || one.device === device));
    if (found === undefined) {
      const known = here.filter(({ cidr }) => cidr !== null).map((one) => `${one.cidr} on ${one.device}`).join(', ');
      throw new PhaulError('ERR_USAGE', `${hostname()} has no address ${address}/${prefix}${device === undefined ? '' : ` on ${device}`} to move; it has ${known}.`);
    }
    refuseToTakeOthersAlong(address, prefix, found.device, here.filter((one) => one.device === found.device).map(({ cidr }) => cidr ?? ''));
    return { address, prefix, device: found.device, deviceThere: deviceThere ?? found.device };
  });
}

/** Of the addresses of one network on a device, Linux takes all off with the first, unless it is told otherwise. */
function refuseToTakeOthersAlong(address: string, prefix: number, device: string, cidrs: string[]): void {
  const network = (cidr: string): number => {
    const [text = '', bits = ''] = cidr.split('/');
    const value = isIP(text) === 4 ? text.split('.').reduce((sum, byte) => sum * 256 + Number(byte), 0) : Number.NaN;
    return Number(bits) === prefix ? Math.floor(value / 2 ** (32 - prefix)) : Number.NaN;
  };
  const own = network(`${address}/${prefix}`);
  const [first, ...others] = cidrs.filter((cidr) => network(cidr) === own);
  const setting = `net.ipv4.conf.${device}.promote_secondaries`;
  if (first === `${address}/${prefix}` && others.length > 0 && readFileSync(`/proc/sys/net/ipv4/conf/${device}/promote_secondaries`, 'utf8').trim() === '0') {
    throw new PhaulError('ERR_USAGE', `${address} is the first address of its network on ${device} of ${hostname()}, and would take ${others.join(', ')} off with it: run "sysctl ${setting}=1" first.`);
  }
}

/** In the words of the engine. */
export const addressText = (moved: MovedAddress[], side: 'device' | 'deviceThere'): string =>
  moved.map((one) => `${one.address}/${one.prefix}@${one[side]}`).join(' ');
