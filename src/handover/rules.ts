/**
 * How a process passes from one host to the other, as two tables: what each side does, and what follows from how that
 * ends. The agents run by them (follow.ts), and test/handover tries them against every death of either side and every loss,
 * delay and repetition of a word.
 *
 *   source                                       target
 *   copying    rounds, freeze, state  ------>    receiving   pages, then the whole process is built
 *                                     <------    noting      "held"     announcing
 *   noting     "committing"                      held        waits for the source's word, for ever
 *   stopping   can't run by itself any more
 *   promising  "committed"
 *   waiting    says the commit        ------>    promising   "releasing"
 *                                     <------    releasing   lets it go
 *   ending     kills the original                running
 *
 * Three rules carry the rest. The original is not given up before the target has proved that the process runs there. After
 * the commit it doesn't run before the target has proved that the copy never ran and never will. What can't be taken back is
 * in the journal before it is done.
 */

/** For each activity: what may come of it, and what is done then. One that nothing comes of is the end. */
export type Rules = Readonly<Record<string, Readonly<Record<string, string>>>>;

export const sourceRules = {
  /** Until the target has the whole process, which stands still here by then. */
  copying: { ready: 'noting', failed: 'thawing' },
  noting: { done: 'stopping', failed: 'thawing' },
  /** From here on the original stands still when its phaul ends, whatever that ends of. */
  stopping: { done: 'promising', failed: 'thawing' },
  promising: { done: 'waiting', failed: 'thawing' },
  /** Says the commit: the point of no return. */
  waiting: { running: 'ending', failed: 'asking' },
  /** By way of control, over a connection of its own: commits again. A target that doesn't know won't know later. */
  asking: { running: 'ending', discarded: 'returning', unknown: 'leaving', unanswered: 'asking', failed: 'asking', late: 'recalling' },
  /** A target that answers and still can't let the process go gives it back. */
  recalling: { running: 'ending', discarded: 'returning', unknown: 'leaving', unanswered: 'leaving', failed: 'leaving' },
  ending: { done: 'moved' },
  thawing: { done: 'kept' },
  /** As thawing, after the commit. */
  returning: { done: 'returned' },
  /** Stopped, for whoever learns what became of it. */
  leaving: { done: 'unknown' },
  moved: {},
  kept: {},
  returned: {},
  unknown: {},
} as const satisfies Rules;

export const targetRules = {
  receiving: { built: 'noting', failed: 'discarding' },
  noting: { done: 'announcing', failed: 'discarding' },
  announcing: { done: 'held', failed: 'discarding' },
  held: { commit: 'promising', abort: 'discarding', failed: 'held' },
  promising: { done: 'releasing', failed: 'held' },
  /** What can't be let go has not run: the engine's promise. */
  releasing: { done: 'running', failed: 'discarding' },
  running: { done: 'released' },
  discarding: { done: 'discarded' },
  released: {},
  discarded: {},
} as const satisfies Rules;

export type SourceActivity = keyof typeof sourceRules;
export type TargetActivity = keyof typeof targetRules;
