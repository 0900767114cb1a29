/** The first words of both sides, before anything is looked at or touched. */
import { hostname } from 'node:os';
import { PhaulError } from './errors.ts';
import { PROTOCOL_VERSION, type Params } from './messages.ts';
import { version } from './version.ts';

export const hello = (): Params<'hello'> => ({ protocol: PROTOCOL_VERSION, version, hostname: hostname() });

/** An older one may not know how to refuse, so that each side looks. */
export function requireSameProtocol({ protocol, version: theirs, hostname: peer }: Params<'hello'>): void {
  if (protocol !== PROTOCOL_VERSION) {
    throw new PhaulError('ERR_PEER_VERSION', `${hostname()} has phaul ${version} (protocol ${PROTOCOL_VERSION}), ${peer} has ${theirs} (protocol ${protocol}): install the same version on both.`);
  }
}
