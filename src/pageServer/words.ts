/** What a dump and its page server on another host say to each other: one line of JSON each, on the server's stdin and stdout. */
import { hostname } from 'node:os';
import { z } from 'zod';
import { PhaulError } from '../errors.ts';
import { parseJson } from '../json.ts';
import { version } from '../version.ts';

const order = z.object({
  version: z.string(),
  directory: z.string(),
  /** The checkpoint before, seen from that directory. */
  previous: z.string().optional(),
  autoDedup: z.boolean(),
  /** Where to listen. */
  address: z.string(),
  /** Of the page channel, in base64. */
  key: z.string(),
});
export type Order = z.infer<typeof order>;

/** A phaul of another version may order something else. */
export function parseOrder(line: string | undefined): Order {
  const { success, data: about } = z.object({ version: z.string().optional() }).safeParse(line === undefined ? undefined : parseJson(line));
  if (!success) {
    throw new PhaulError('ERR_PROTOCOL', 'Nobody said what to receive: "phaul dump --page-server" starts this by itself.');
  }
  if (about.version !== version) {
    throw new PhaulError('ERR_PEER_VERSION', `${hostname()} has phaul ${version}, the host that dumps has ${about.version ?? 'another'}: install the same version on both.`);
  }
  const parsed = order.safeParse(parseJson(line ?? ''));
  if (!parsed.success) {
    throw new PhaulError('ERR_PROTOCOL', `The host that dumps said what can't be: ${parsed.error.issues[0]?.path.join('.')}: ${parsed.error.issues[0]?.message}.`);
  }
  return parsed.data;
}

export const answer = z.union([
  z.object({ port: z.number().int() }),
  z.object({ done: z.object({ bytes: z.number() }) }),
  z.object({ discarded: z.literal(true) }),
  z.object({ error: z.object({ code: z.string(), message: z.string() }) }),
]);
export type Answer = z.infer<typeof answer>;

/** Said when all has arrived: the processes go on, so that it is of no use. Whoever says nothing may have none any more. */
export const DISCARD = 'discard';

export const KEY_BYTES = 32;
/** Pages go one behind the other. */
export const STREAMS = 1;
