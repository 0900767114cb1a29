/** Sockets that wait for peers, as /proc/PID/net shows them. */
import { readProc, type Pid } from './proc.ts';

export const PROTOCOLS = ['tcp', 'tcp6', 'udp', 'udp6'] as const;
export type Protocol = (typeof PROTOCOLS)[number];

export interface BoundSocket {
  protocol: Protocol;
  address: string;
  port: number;
  inode: number;
}

const LISTEN = '0A'; // TCP_LISTEN
const UNCONNECTED = '07'; // TCP_CLOSE, the state of a UDP socket without a peer
const NO_CONNECTION = ['06', UNCONNECTED, LISTEN]; // TCP_TIME_WAIT belongs to no process any more

/** Listening TCP and unconnected UDP sockets of the network namespace that the process is in. */
export async function readBoundSockets(pid: Pid): Promise<BoundSocket[]> {
  const lists = await Promise.all(PROTOCOLS.map((protocol) => readTable(pid, protocol, (state) => state === (protocol.startsWith('tcp') ? LISTEN : UNCONNECTED))));
  return lists.flat();
}

/** TCP connections in that namespace, by their local end. */
export async function readConnections(pid: Pid): Promise<BoundSocket[]> {
  const lists = await Promise.all((['tcp', 'tcp6'] as const).map((protocol) => readTable(pid, protocol, (state) => !NO_CONNECTION.includes(state))));
  return lists.flat();
}

async function readTable(pid: Pid, protocol: Protocol, isWanted: (state: string) => boolean): Promise<BoundSocket[]> {
  let text: string;
  try {
    text = (await readProc(pid, `net/${protocol}`)).toString();
  } catch {
    return []; // a kernel without IPv6 has no tcp6
  }
  const sockets: BoundSocket[] = [];
  for (const line of text.split('\n').slice(1)) {
    const [, local = '', , state = '', , , , , , inode] = line.trim().split(/\s+/);
    const [address = '', port = ''] = local.split(':');
    if (isWanted(state) && port !== '') {
      sockets.push({ protocol, address: decodeAddress(address), port: Number.parseInt(port, 16), inode: Number(inode) });
    }
  }
  return sockets;
}

const V4_MAPPED = Buffer.from('00000000000000000000ffff', 'hex');

/** "0100007F" is 127.0.0.1: each 32 bit word is printed as a number of the host's byte order. */
export function decodeAddress(hex: string): string {
  const bytes = Buffer.from(hex, 'hex');
  bytes.swap32();
  if (bytes.length === 4) {
    return bytes.join('.');
  }
  if (bytes.subarray(0, 12).equals(V4_MAPPED)) {
    return `::ffff:${bytes.subarray(12).join('.')}`;
  }
  const groups: string[] = [];
  for (let at = 0; at < bytes.length; at += 2) {
    groups.push(bytes.readUInt16BE(at).toString(16));
  }
  // The URL parser knows how IPv6 addresses are shortened.
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1);
}

/** 10.0.0.1:80, [::1]:80 */
export const formatEndpoint = (address: string, port: number): string =>
  address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
