/** Huge pages (hugetlb), of which a host has only so many. */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('huge-pages-test');

/** Of the victim and its child, which has those of its parent only as long as they share them; and as many for what the other host makes of it. */
const HUGE_PAGES = 20;

/** Of those, what its mappings reserve on the other host: four for each of the two processes, of what they share, and of the memfd. */
const NEEDED = 16;

/** Until the victim has written to all that it shares with its child. */
const SETTLED_MS = 1_000;

const SETTING = '/proc/sys/vm/nr_hugepages';
const before = Number(readFileSync(SETTING, 'utf8'));
const have = (count: number): void => writeFileSync(SETTING, String(count));

test.before(() => bed.up());
test.after.always(async () => {
  await bed.down();
  have(before);
});

/** Of both hosts, which are one machine. */
function taken(): number {
  const read = (name: string): number => Number(readFileSync(`/sys/kernel/mm/hugepages/hugepages-2048kB/${name}_hugepages`, 'utf8'));
  return read('nr') - read('free') + read('resv');
}

async function begin(t: ExecutionContext): Promise<number | undefined> {
  const wanted = before + 2 * HUGE_PAGES;
  writeFileSync('/proc/sys/vm/compact_memory', '1');
  have(wanted);
  const given = Number(readFileSync(SETTING, 'utf8'));
  if (given < wanted) {
    t.log(`skipped: of ${wanted} huge pages this machine gives ${given}`);
    t.pass();
    return undefined;
  }
  const pid = await bed.victim('hugetlb');
  await sleep(SETTLED_MS);
  return pid;
}

test.serial('a host that has one huge page too few is refused, one that has just enough takes them as they are, there and back', async (t) => {
  const pid = await begin(t);
  if (pid === undefined) {
    return;
  }
  have(taken() + NEEDED - 1);
  const { exitCode, done } = await bed.migrate('alpha', pid, 'beta');
  t.is(exitCode, 1);
  t.regex(JSON.stringify(done), /HUGE_PAGES.*in huge pages of 2\.0 MiB, touched or reserved, but beta has /);
  have(taken() + NEEDED);
  await bed.on('alpha', 'env', 'PHAUL_FAULT=source:before-commit:error', 'phaul', 'migrate', String(pid), 'root@beta');
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha'], ['alpha', 'beta']] as const) {
    have(taken() + NEEDED);
    const moved = await bed.migrate(from, pid, to, '--verify');
    t.is(moved.exitCode, 0, moved.stderr);
  }
  t.is(await bed.verdict('beta', pid, 'hugetlb'), 'ok');
});
