/** Chaos finds what it is for: nothing with the rules as they are, and two running copies with one rule that is wrong. */
import test from 'ava';
import { $ } from 'zx';

const chaos = async (...options: string[]): Promise<{ exitCode: number | null; last: Record<string, number>; stdout: string }> => {
  const { exitCode, stdout } = await $({ nothrow: true, quiet: true })`node_modules/.bin/node --disable-warning=DEP0190 scripts/chaos.ts ${options}`;
  return { exitCode, last: JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as Record<string, number>, stdout };
};

test.serial('whatever happens, exactly one copy is there', async (t) => {
  const { exitCode, last, stdout } = await chaos('--rounds', '5', '--seed', '4');
  t.is(exitCode, 0, stdout);
  t.deepEqual(last, { rounds: 5, exactlyOne: 5, lost: 0, doubled: 0, corrupt: 0, stuck: 0, misreported: 0 });
});

test.serial('an original that goes on although the commit was not answered is found', async (t) => {
  const { exitCode, last, stdout } = await chaos('--rounds', '1', '--only', 'streams reset', '--step', 'target:releasing', '--break', 'waiting.failed=returning');
  t.is(exitCode, 1, stdout);
  t.like(last, { rounds: 1, exactlyOne: 0, doubled: 1 });
});
