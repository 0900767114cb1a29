/** The rules that the agents go by, against everything that can go wrong between two hosts; and rules that are broken on purpose. */
import test from 'ava';
import { follow } from '../../src/handover/follow.ts';
import { sourceRules, targetRules, type Rules } from '../../src/handover/rules.ts';
import { explore } from './explorer.ts';
import { model, type Model } from './world.ts';

const ENDS = [...Object.keys(sourceRules).map((end) => `source ${end}`), ...Object.keys(targetRules).map((end) => `target ${end}`)];

test.serial('whatever dies, is lost, repeated or late: a process is never lost, never runs twice, and can be settled', (t) => {
  const { worlds, broken, seen } = explore(model);
  t.is(broken, undefined, JSON.stringify(broken, undefined, 1));
  t.true(worlds > 100_000, `only ${worlds} worlds were reached`);
  for (const end of [...ENDS, ...['commit', 'abort', 'end', 'resume'].map((step) => `resolve ${step}`)]) {
    t.true(seen.has(end), `nothing leads to: ${end}`);
  }
});

const changed = (rules: Rules, activity: string, event: string, next: string): Rules => ({ ...rules, [activity]: { ...rules[activity], [event]: next } });

const MUTANTS: Record<string, [mutant: Partial<Model>, promise: RegExp]> = {
  'the original goes on when the commit is not answered': [{ sourceRules: changed(sourceRules, 'waiting', 'failed', 'returning') }, /at most one runs/],
  'the original goes on when nobody can be asked': [{ sourceRules: changed(sourceRules, 'recalling', 'unanswered', 'returning') }, /at most one runs/],
  'the original is ended before the target has answered': [{ sourceRules: changed(sourceRules, 'waiting', 'failed', 'ending') }, /never none/],
  'the commit is said before the original is bound': [{ sourceRules: changed(sourceRules, 'noting', 'done', 'waiting') }, /at most one runs/],
  'the commit is said before it is in the journal': [{ sourceRules: changed(sourceRules, 'stopping', 'done', 'waiting') }, /at most one runs|not undone/],
  'the copy is let go before that is in the journal': [{ targetRules: changed(targetRules, 'held', 'commit', 'releasing') }, /at most one runs|not undone/],
  'an abort lets the copy go': [{ targetRules: changed(targetRules, 'held', 'abort', 'promising') }, /at most one runs/],
  'the original dies with a phaul that has committed': [{ boundDies: 'gone' }, /never none/],
  'the original goes on when a phaul dies that has committed': [{ boundDies: 'runs' }, /at most one runs/],
  'a dead agent\'s copy counts as discarded, whatever its journal says': [{ outcomeOf: () => 'discarded' }, /at most one runs/],
  'a copy that a restarted host had held counts as discarded': [
    { outcomeOf: (evidence) => model.outcomeOf({ ...evidence, restarted: false }) },
    /not undone/,
  ],
  'resolve lets the original go on whenever it stands still': [
    { verdict: (here, there) => (here.original === 'stopped' ? { step: 'resume', because: '' } : model.verdict(here, there)) },
    /at most one runs/,
  ],
  'resolve ends the original as soon as the copy is whole': [
    { verdict: (here, there) => (here.original === 'stopped' && there === 'held' ? { step: 'end', because: '' } : model.verdict(here, there)) },
    /never none/,
  ],
  'resolve leaves what is held where it is': [
    { verdict: (here, there) => (there === 'held' ? { step: 'none', because: '' } : model.verdict(here, there)) },
    /can be settled/,
  ],
};

for (const [what, [mutant, promise]] of Object.entries(MUTANTS)) {
  test.serial(`the explorer finds it if ${what}`, (t) => {
    const { broken } = explore({ ...model, ...mutant });
    t.regex(broken?.promise ?? 'nothing', promise);
  });
}

test('an activity that throws has failed, and one that can\'t fail is over', (t) => {
  const rules = { first: { done: 'second', failed: 'other' }, second: { done: 'end' }, other: { back: 'second' }, end: {} } as const;
  const seen: string[] = [];
  const end = follow(
    rules,
    'first',
    {
      first: () => {
        throw new Error('no');
      },
      second: () => {
        throw new Error('never mind');
      },
      other: () => 'back',
    },
    { begins: (activity) => seen.push(activity), failed: (thrown, activity) => seen.push(`${activity}: ${(thrown as Error).message}`) },
  );
  t.is(end, 'end');
  t.deepEqual(seen, ['first', 'first: no', 'other', 'second', 'second: never mind']);
});
