/** Runs one side by its rules. */
import type { Rules } from './rules.ts';

type Ends<R extends Rules> = { [A in keyof R]: keyof R[A] extends never ? A : never }[keyof R];
export type ActivityOf<R extends Rules> = Exclude<keyof R, Ends<R>> & string;

/** What each activity does, and says of how it ended; nothing is "done", and what it throws "failed". */
export type Activities<R extends Rules> = { [A in ActivityOf<R>]: () => 'done' extends keyof R[A] ? void : Exclude<keyof R[A], 'failed'> };

export interface Watch<A> {
  /** What it throws is a failure of the activity, if that can fail. */
  begins: (activity: A) => void;
  failed: (thrown: unknown, activity: A) => void;
}

/** An activity that can't fail by its rules is done when it throws: that changes nothing about where the process is. */
export function follow<R extends Rules>(rules: R, start: ActivityOf<R>, activities: Activities<R>, watch: Watch<ActivityOf<R>>): Ends<R> {
  for (let at: keyof R = start; ; ) {
    const exits = rules[at] as Record<string, keyof R>;
    if (Object.keys(exits).length === 0) {
      return at as Ends<R>;
    }
    const activity = at as ActivityOf<R>;
    const attempt = (act: () => string | void): string | undefined => {
      try {
        return act() ?? 'done';
      } catch (thrown) {
        watch.failed(thrown, activity);
        return 'failed' in exits ? 'failed' : undefined;
      }
    };
    const begun = attempt(() => watch.begins(activity));
    const event = begun === 'failed' ? begun : (attempt(activities[activity] as () => string | void) ?? 'done');
    at = exits[event] as keyof R;
  }
}
