import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';

test('a reader that takes its time gets all of what status has to say', async (t) => {
  const journals = mkdtempSync(join(tmpdir(), 'phaul-journals-'));
  t.teardown(() => rmSync(journals, { recursive: true }));
  const line = { state: 'preparing', at: 1, comm: 'c'.repeat(300), host: 'beta', process: { pid: 1, startedAt: 1, boot: 'another' } };
  const count = 1_000;
  for (let i = 0; i < count; i++) {
    writeFileSync(join(journals, `${i.toString(16).padStart(16, '0')}.source.jsonl`), `${JSON.stringify(line)}\n`);
  }
  const child = spawn('bin/phaul', ['status', '--all', '--json'], { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, PHAUL_JOURNAL: journals } });
  await sleep(3000); // it has said all that a pipe has room for
  t.is((await text(child.stdout)).trim().split('\n').length, count);
});
