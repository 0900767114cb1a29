/** What a host can find out about a migration by itself, and what that proves. */
import type { OutcomeState } from '../messages.ts';

/** committing: may stand still, but no commit was said. committed: stands still; the commit may have been said. */
export type SourceState = 'preparing' | 'committing' | 'committed' | 'gone' | 'thawed' | 'unknown';

/** releasing: the commit is here, and the process is being let go; whether it was is another question. */
export type TargetState = 'preparing' | 'held' | 'releasing' | 'running' | 'discarded';

/** Of a host that gave a process away, or was about to. */
export interface SourceEvidence {
  /** Absent: this host has no journal of it. */
  journal: SourceState | 'absent';
  /** The phaul that wrote it lives. */
  phaul: boolean;
  /** The host was restarted since the journal began: what a dead phaul wrote last may be lost. */
  restarted: boolean;
  /** stopped: in state T, by a dead phaul or by anybody else. held: traced. */
  original: 'running' | 'stopped' | 'held' | 'gone';
}

/** Of a host that received one. */
export interface TargetEvidence {
  journal: TargetState | 'absent';
  restarted: boolean;
  /** There is a process that has the pid and the age of the copy. */
  alive: boolean;
}

/** What has become of the copy, if no agent has it any more: a husk or a held process dies with its agent. */
export function outcomeOf({ journal, restarted, alive }: TargetEvidence): OutcomeState {
  switch (journal) {
    case 'running':
    case 'discarded':
      return journal;
    case 'preparing':
    case 'held':
      return restarted ? 'unknown' : 'discarded';
    case 'releasing':
      // Dead between two system calls. If the process is not there, it has ended, or was never let go.
      return alive ? 'running' : 'unknown';
    case 'absent':
      return 'unknown';
  }
}

/** For an agent that has it: what it is told to do when the source, or an operator, asks for that. */
export function orderOf(question: 'commit' | 'abort' | 'outcome', state: OutcomeState): 'commit' | 'abort' | undefined {
  return question === 'commit' ? (state === 'held' ? 'commit' : undefined) : question === 'abort' ? 'abort' : undefined;
}

/** What the target's answer says to a source that has committed. */
export function proofOf(answer: OutcomeState | undefined): 'running' | 'discarded' | 'unknown' | 'unanswered' {
  return answer === 'running' || answer === 'discarded' || answer === 'unknown' ? answer : 'unanswered';
}
