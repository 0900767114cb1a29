/** One round: the husk's mappings become the source's, then its pages arrive. */
import type { Channel, Target } from '../engine/engine.ts';
import { APPLIED, say } from '../notes.ts';

/** For the pages of a round, once its layout is here: each stream has limits of its own for stalling. */
const ROUND_TIMEOUT_MS = 10 * 60_000;

export function stageRound(target: Target, channel: Channel, layout: Buffer, verify: boolean): void {
  const applied = target.round(channel, layout, ROUND_TIMEOUT_MS);
  say(channel, APPLIED, { ...applied, said: target.said(), ...(verify && { sums: target.checksum() }) });
}
