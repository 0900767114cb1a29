/** Ports that the process listens on must be free here, and its addresses must be on this host. */
import { existsSync, readdirSync } from 'node:fs';
import { networkInterfaces } from 'node:os';
import type { MovedAddress } from '../../addresses.ts';
import { formatEndpoint, readBoundSockets, type BoundSocket, type Protocol } from '../../sockets.ts';
import type { Plan } from '../../source/plan.ts';
import type { Check, Finding } from '../preflight.ts';

type PlanSocket = Plan['sockets'][number];

export const checkSockets: Check = async (plan, host) => {
  const here = await readBoundSockets('self');
  const before = listAddresses();
  const addresses = new Set([...before, ...plan.movedAddresses.map(({ address }) => address)]);
  const findings: Finding[] = plan.movedAddresses.flatMap((moved) => checkMoved(moved, before, host));
  for (const address of plan.connectionAddresses.filter((one) => !isHere(one, addresses))) {
    findings.push({
      code: 'CONNECTION_ADDRESS',
      subject: `tcp ${address}`,
      sentence:
        `${plan.comm} has TCP connections at ${address}, and ${host} has no such address, so they would break: let the address move too (--move-ip ${address}/PREFIX), ` +
        'or reset them (--tcp close).',
    });
  }
  for (const socket of plan.sockets) {
    const subject = `${socket.protocol} ${formatEndpoint(socket.address, socket.port)}`;
    const other = here.find((candidate) => conflict(socket, candidate, plan.sockets));
    if (other !== undefined) {
      findings.push({
        code: 'PORT_TAKEN',
        subject,
        sentence:
          `${plan.comm} waits on ${subject}, but on ${host} something else has ${other.protocol} ${formatEndpoint(other.address, other.port)}: ` +
          `find it there with "ss -lnp sport = :${other.port}" and stop it.`,
      });
    }
    if (!isHere(socket.address, addresses)) {
      findings.push({
        code: 'ADDRESS_MISSING',
        subject,
        sentence:
          `${plan.comm} waits on ${subject}, but ${host} has no address ${socket.address}, so nobody would reach it: ` +
          'move the address first, or let the program listen on all addresses.',
      });
    }
  }
  return findings;
};

function checkMoved({ address, deviceThere }: MovedAddress, here: Set<string>, host: string): Finding[] {
  const subject = `address ${address}`;
  if (here.has(address)) {
    return [{ code: 'ADDRESS_TAKEN', subject, sentence: `The address ${address} is to move to ${host}, which has it already: take it off there, or leave --move-ip out.` }];
  }
  if (!existsSync(`/sys/class/net/${deviceThere}`)) {
    return [
      {
        code: 'DEVICE_MISSING',
        subject,
        sentence: `The address ${address} is to be put on ${deviceThere}, which ${host} does not have; it has ${readdirSync('/sys/class/net').join(', ')}: name one of them, as in --move-ip ${address}/PREFIX@DEVICE:${readdirSync('/sys/class/net')[0] ?? 'DEVICE'}.`,
      },
    ];
  }
  return [];
}

const isWildcard = (address: string): boolean => address === '0.0.0.0' || address === '::';
const unmapped = (address: string): string => address.replace(/^::ffff:(?=\d+\.)/, '');
const transport = (protocol: Protocol): string => protocol.slice(0, 3);

/**
 * Whether both can't be bound at the same time. A socket on :: usually takes the port of 0.0.0.0 too,
 * which /proc doesn't tell; a process that holds both itself has a :: that doesn't.
 */
function conflict(wanted: PlanSocket, other: BoundSocket, all: PlanSocket[]): boolean {
  if (wanted.port !== other.port || transport(wanted.protocol) !== transport(other.protocol)) {
    return false;
  }
  if (wanted.protocol === other.protocol) {
    return isWildcard(wanted.address) || isWildcard(other.address) || wanted.address === other.address;
  }
  const hasBoth = all.some((socket) => socket.port === wanted.port && socket.protocol === other.protocol);
  const sameAddress = unmapped(wanted.address) === unmapped(other.address);
  return sameAddress || (!hasBoth && (wanted.address === '::' || other.address === '::'));
}

function listAddresses(): Set<string> {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return new Set(addresses.map(({ address }) => address));
}

/** Broadcast and multicast addresses belong to no host. */
function isHere(address: string, addresses: Set<string>): boolean {
  const plain = unmapped(address);
  const first = Number.parseInt(plain, 10);
  const everywhere = isWildcard(plain) || plain === '255.255.255.255' || /^ff..:/.test(plain);
  return everywhere || (plain.includes('.') && (first === 127 || (first >= 224 && first < 240))) || addresses.has(plain);
}
