/** What is to be done about a migration whose source phaul is dead, or gave up: by what both hosts know. */
import type { OutcomeState } from '../messages.ts';
import type { SourceEvidence } from './evidence.ts';

/**
 * commit, abort: ask the target to let the copy go, or to discard it; with its answer there is another verdict. end, resume:
 * the original, which stands still. none: nothing is left to do. wait: a phaul is still at it. choose: the journals don't tell,
 * an operator has to. twice: both run, since somebody let one go on.
 */
export type Step = 'commit' | 'abort' | 'end' | 'resume' | 'none' | 'wait' | 'choose' | 'twice';

export interface Verdict {
  step: Step;
  /** Why that is safe, or what isn't known. */
  because: string;
}

/** It stands still because of us. */
export const isStoppedByUs = ({ journal, original }: SourceEvidence): boolean => original === 'stopped' && (journal === 'committing' || journal === 'committed' || journal === 'unknown');

/** The target may have heard of it. */
const mayHaveCommitted = ({ journal }: SourceEvidence): boolean => journal === 'committed' || journal === 'unknown' || journal === 'gone';

const isAtWork = ({ journal, phaul }: SourceEvidence): boolean => phaul && (journal === 'preparing' || journal === 'committing' || journal === 'committed');

/** `there`: what the target says; undefined: it can't be asked. */
export function verdict(here: SourceEvidence, there: OutcomeState | undefined): Verdict {
  if (isAtWork(here)) {
    return { step: 'wait', because: 'the phaul that moves the process still runs' };
  }
  if (here.original === 'held') {
    return { step: 'wait', because: 'the original is traced by somebody' };
  }
  switch (there) {
    case 'running':
      return copyRuns(here);
    case 'discarded':
      return copyIsGone(here);
    case 'held':
      return copyIsHeld(here);
    case 'preparing':
      return { step: 'wait', because: 'the target has not noticed yet that its source is dead' };
    default:
      return copyIsUnknown(here, there);
  }
}

function copyRuns(here: SourceEvidence): Verdict {
  if (here.original === 'running') {
    return { step: 'twice', because: 'somebody has let the original go on, too' };
  }
  return here.original === 'stopped'
    ? { step: 'end', because: 'the process runs on the target, so that the original must not go on' }
    : { step: 'none', because: 'the process runs on the target, and the original is gone' };
}

function copyIsGone(here: SourceEvidence): Verdict {
  if (isStoppedByUs(here)) {
    return { step: 'resume', because: 'the copy never ran and is gone, so that the original is the only one' };
  }
  return here.original === 'gone'
    ? { step: 'none', because: 'the copy never ran, and the original has ended' }
    : { step: 'none', because: 'the copy never ran and is gone, and the original was never given away' };
}

/** No word that is under way can let it go: with the source's phaul its connection is dead. */
function copyIsHeld(here: SourceEvidence): Verdict {
  if (here.original === 'running') {
    return { step: 'abort', because: 'the original was never given away, and runs' };
  }
  if (mayHaveCommitted(here)) {
    return here.original === 'stopped'
      ? { step: 'commit', because: 'the move was committed, both copies are the same, and neither runs' }
      : { step: 'commit', because: 'the move was committed and the original is gone, so that the copy is the only one' };
  }
  if (here.original === 'stopped') {
    return { step: 'abort', because: 'the move was not committed' };
  }
  return here.restarted || here.journal === 'absent' || here.journal === 'committing'
    ? { step: 'choose', because: 'the copy is the only one, but the original may have run on after it was made' }
    : { step: 'abort', because: 'the move was not committed: the original ran on, and has ended since' };
}

function copyIsUnknown(here: SourceEvidence, there: 'unknown' | undefined): Verdict {
  if (isStoppedByUs(here) && here.journal !== 'committing') {
    return { step: 'choose', because: there === undefined ? 'the target can\'t be asked' : 'the target can\'t tell whether the copy has run' };
  }
  if (isStoppedByUs(here)) {
    return { step: 'resume', because: 'the move was not committed, so that no copy can have run' };
  }
  if (here.original !== 'gone') {
    return { step: 'none', because: 'the original was never given away' };
  }
  return { step: 'none', because: here.journal === 'gone' ? 'the process was moved' : 'the original is gone' };
}
