/** When to freeze: by prediction, not by count. Pure, so that it can be tested with made-up rounds. */
import { PAGE_BYTES } from '../engine/engine.ts';

export interface Progress {
  /** What was still dirty after each round so far, in pages; the last is now. */
  dirtyPages: number[];
  /** Processes that no round has told of yet. */
  heldBack: number;
  /** Of page data, bytes per second, until the target had applied them. */
  bandwidth: number;
  /** What a freeze costs beside its pages, measured. */
  fixedMs: number;
  maxDowntimeMs: number;
  /** False: all pages count as dirty, whatever was sent before. */
  tracked: boolean;
}

export interface Verdict {
  decision: 'round' | 'freeze' | 'diverge';
  predictedMs: number;
  reason: string;
}

/** Another round takes some ms of scanning and waiting by itself: below this it gains nothing. */
const WORTH_A_ROUND_MS = 1;

/** A round that leaves more than this of what there was is not worth many more. */
const SHRINKS_TO = 0.7;

/** Rounds that don't shrink come singly, by a burst of writes or a busy host; two in a row are a trend. */
const PATIENCE = 2;

/** More rounds than this have never made a difference; it bounds how long a process is slowed down. */
const ROUNDS_MAX = 30;

export const transferMs = (pages: number, bandwidth: number): number => (pages * PAGE_BYTES * 1000) / Math.max(bandwidth, 1);

export function converge({ dirtyPages, heldBack, bandwidth, fixedMs, maxDowntimeMs, tracked }: Progress): Verdict {
  const now = dirtyPages.at(-1) ?? 0;
  const pagesMs = transferMs(now, bandwidth);
  const predictedMs = pagesMs + fixedMs;
  const left = `${now.toLocaleString('en-US')} dirty pages are left, which take ${pagesMs.toFixed(1)} ms`;
  if (heldBack > 0) {
    return { decision: 'round', predictedMs, reason: `${heldBack} processes wait for their parents' memory` };
  }
  const within = predictedMs <= maxDowntimeMs;
  if (pagesMs <= WORTH_A_ROUND_MS && within) {
    return { decision: 'freeze', predictedMs, reason: left };
  }
  if (tracked && dirtyPages.length < ROUNDS_MAX && !stalls(dirtyPages)) {
    return { decision: 'round', predictedMs, reason: left };
  }
  const why = tracked ? "rounds don't shrink any more" : "this kernel can't tell which pages are written";
  if (within) {
    return { decision: 'freeze', predictedMs, reason: `${why}, and ${left}` };
  }
  return {
    decision: 'diverge',
    predictedMs,
    reason:
      `${why}: ${left} at ${(bandwidth / 2 ** 20).toFixed(0)} MiB/s, and with ${fixedMs.toFixed(1)} ms ` +
      `for the rest the process would stand still for ${predictedMs.toFixed(0)} ms, while ${maxDowntimeMs} ms are allowed`,
  };
}

const stalls = (dirtyPages: number[]): boolean =>
  dirtyPages.length > PATIENCE &&
  dirtyPages.slice(-PATIENCE).every((pages, i) => pages > SHRINKS_TO * (dirtyPages.at(-PATIENCE - 1 + i) ?? Infinity));
