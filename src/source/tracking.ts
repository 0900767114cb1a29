/** How pages that are written will be found here, and what there is to say about it before anything is touched. */
import { hostname, release } from 'node:os';
import type { Findings, TrackerName } from '../engine/engine.ts';
import { engine } from '../engine/libphaul.ts';
import { asPhaulError } from '../errors.ts';

export function trackingFindings(wanted?: TrackerName): Findings & { tracker: TrackerName } {
  const found: Findings = { obstacles: [], notices: [] };
  const note = (list: Findings['notices'], sentence: string): void => void list.push({ code: 'TRACKER', subject: 'kernel', sentence });
  let tracker: TrackerName = 'none';
  try {
    tracker = engine.tracker(wanted);
  } catch (thrown) {
    note(found.obstacles, `${hostname()} (Linux ${release()}) can't track written pages by ${wanted}: ${asPhaulError(thrown).message} Leave --tracker out.`);
    return { tracker, ...found };
  }
  if (tracker === 'none' && wanted === undefined) {
    note(
      found.notices,
      `The kernel of ${hostname()} (Linux ${release()}) can't tell which pages are written: it has neither userfaultfd WP_ASYNC (Linux 6.7) nor soft-dirty bits ` +
        '(CONFIG_MEM_SOFT_DIRTY). All memory is sent while the process stands still, after one round that measures how long that takes.',
    );
  }
  return { tracker, ...found };
}
