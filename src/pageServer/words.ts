/** What a dump and its page server on another host say to each other: one line of JSON each, on the server's stdin and stdout. */
import { z } from 'zod';

export const order = z.object({
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
