/** Copies memory round by round while the process runs, until a freeze would be short enough. */
import { engine } from '../engine/libphaul.ts';
import { PAGE_BYTES, type Channel, type Source } from '../engine/engine.ts';
import type { Tracing } from '../engine/tracing.ts';
import { PhaulError } from '../errors.ts';
import type { Round } from '../events.ts';
import { fault } from '../fault.ts';
import { APPLIED, hear } from '../notes.ts';
import { converge, type Verdict } from './converge.ts';
import type { SourceNews, SourceOrder } from './order.ts';

/** A round's pages are applied as they come; what is left after the last was sent is little. */
const APPLIED_TIMEOUT_MS = 15_000;

/** Below this, a round says more about waiting than about the link. */
const TELLING_BYTES = 4 << 20;

/** Stopping threads, registers, descriptors, building and two words across, for an ordinary process; what others take that move with it, and connections. */
const FREEZE_BASE_MS = 5;
const FREEZE_PROCESS_MS = 3;
const FREEZE_CONNECTION_MS = 0.2;

/** Assumed until a round was large enough to tell. */
const UNKNOWN_BANDWIDTH = 100 << 20;

const fixedMs = ({ processes, connections }: SourceOrder): number => FREEZE_BASE_MS + (processes.length - 1) * FREEZE_PROCESS_MS + connections * FREEZE_CONNECTION_MS;

/** What the rounds have shown of the way so far: those that are made again, for new children, are too small to show it. */
export interface Way {
  /** Bytes per second; 0: no round has told yet. */
  bandwidth: number;
}

export function precopy(source: Source, channel: Channel, order: SourceOrder, { latch, tell }: Tracing<SourceNews>, way: Way): Verdict {
  engine.setPriority('low');
  const dirtyPages: number[] = [];
  let armedAtMs = 0;
  for (;;) {
    const startMs = engine.nowMs();
    const sent = source.round(channel);
    const applied = hear(channel, APPLIED, APPLIED_TIMEOUT_MS, order.host);
    applied.said.forEach((sentence) => tell({ type: 'notice', text: `On ${order.host} ${sentence}.` }));
    const endMs = engine.nowMs();
    const seconds = Math.max(endMs - startMs - sent.scanMs, 0.01) / 1000;
    if (way.bandwidth === 0 || applied.bytes >= TELLING_BYTES) {
      way.bandwidth = applied.bytes >= TELLING_BYTES ? applied.bytes / seconds : UNKNOWN_BANDWIDTH;
    }
    if (sent.heldBack > 0) {
      dirtyPages.length = 0; // all that the next generation has is to come
    }
    dirtyPages.push(source.dirty());
    const lookMs = engine.nowMs() - endMs;
    const verdict = converge({ dirtyPages, heldBack: sent.heldBack, bandwidth: way.bandwidth, fixedMs: fixedMs(order) + lookMs, maxDowntimeMs: order.maxDowntimeMs, tracked: order.tracker !== 'none' });
    tell({
      type: 'round',
      round: {
        round: sent.round,
        pagesDirty: sent.pagesDirty,
        bytesSent: sent.bytesSent,
        ms: endMs - startMs,
        bandwidth: sent.bytesSent / seconds,
        dirtyRate: armedAtMs === 0 ? 0 : (sent.pagesDirty * PAGE_BYTES * 1000) / Math.max(startMs - armedAtMs, 1),
        predictedDowntimeMs: verdict.predictedMs,
        stoppedMs: sent.stoppedMs,
      } satisfies Round,
      text: `scan ${sent.scanMs.toFixed(1)} ms, ${sent.vmas} mappings, ${sent.pagesZero} zero pages, ${sent.pagesInherited} shared with parents, target: layout ${applied.layoutMs.toFixed(1)} ms; ${verdict.reason}`,
    });
    armedAtMs = startMs + sent.scanMs;
    if (sent.round === 1) {
      fault('source:after-round-1');
    }
    if (latch.cancelled) {
      throw new PhaulError('ERR_INTERRUPTED', 'The migration was cancelled.');
    }
    if (verdict.decision === 'diverge' && order.onDiverge === 'abort') {
      throw new PhaulError('ERR_DIVERGES', `The process writes faster than it can be copied: ${verdict.reason}. Allow more with --max-downtime, or use --on-diverge freeze.`);
    }
    if (verdict.decision !== 'round') {
      return verdict;
    }
  }
}
