/** The report and the agent's page in Chromium: their figures are those of the JSON. */
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { DoneEvent } from '../../src/events.ts';
import { Bed } from '../moves/bed.ts';

const bed = new Bed('web-test');
const without = existsSync('/usr/bin/chromium') ? undefined : 'chromium is not installed: "npm run test:web" brings it';
const PORT = '9420';

/** All that the page shows of the last migration, when it is over. */
const SHOWN = `(() => {
  const article = document.querySelector('article');
  if (!article || !article.dataset.outcome) return null;
  const figures = Object.fromEntries([...article.querySelectorAll('[data-figure]')].map((node) => [node.dataset.figure, Number(node.dataset.value)]));
  return { id: article.dataset.migration, side: article.dataset.side, outcome: article.dataset.outcome, figures, text: article.innerText, rounds: [...article.querySelectorAll('[data-round]')].map((node) => JSON.parse(node.dataset.round)), charts: article.querySelectorAll('.charts canvas').length };
})()`;

interface Shown {
  id: string;
  side: string;
  outcome: string;
  figures: Record<string, number>;
  text: string;
  rounds: [number, number, number][];
  charts: number;
}

const browse = (host: string, url: string, picture?: string) => bed.on(host, process.execPath, '--disable-warning=ExperimentalWarning', 'test/web/browse.ts', url, SHOWN, ...(picture === undefined ? [] : [picture]));

const figuresOf = ({ downtimeMs, totalMs, bytesSent, rssBytes, rounds, phases }: DoneEvent): Record<string, number> => ({
  downtimeMs, totalMs, bytesSent, rssBytes, rounds: rounds.length, ...Object.fromEntries(Object.entries(phases).filter(([, ms]) => ms > 0).map(([name, ms]) => [`phases.${name}`, ms])),
});

test.before(() => bed.up());
test.after.always(() => bed.down());

(without === undefined ? test.serial : test.serial.skip)(`agents on both hosts show a migration while it goes on, and a report shows it afterwards, with the figures of the JSON${without === undefined ? '' : ` (${without})`}`, async (t) => {
  t.timeout(5 * 60_000);
  const pid = await bed.victim('static_writer', '64', '20000');
  for (const host of ['alpha', 'beta']) {
    await bed.start(host, 'phaul', 'agent', '--web', PORT);
    while ((await bed.on(host, 'bash', '-c', `exec 3<>/dev/tcp/127.0.0.1/${PORT}`)).exitCode !== 0) {
      await sleep(100);
    }
  }
  const pages = ['alpha', 'beta'].map((host) => browse(host, `http://127.0.0.1:${PORT}/`, process.env['PHAUL_SCREENSHOTS'] && `${process.env['PHAUL_SCREENSHOTS']}/${host}.png`));
  await Promise.all(pages.map((page) => new Promise<void>((resolve) => page.stderr.on('data', (text) => String(text).includes('open') && resolve()))));
  const report = bed.report('report.html');
  const { exitCode, done, stderr } = await bed.migrate('alpha', pid, 'beta', '--report', report);
  t.is(exitCode, 0, stderr);

  const shown = [...(await Promise.all(pages)), await browse('beta', `file://${report}`, process.env['PHAUL_SCREENSHOTS'] && `${process.env['PHAUL_SCREENSHOTS']}/report.png`)].map(({ stdout, stderr: said }) => JSON.parse(stdout || JSON.stringify(said)) as Shown);
  t.deepEqual(shown.map(({ side }) => side), ['source', 'target', 'source']);
  for (const { outcome, figures, rounds, charts, text } of shown) {
    t.is(outcome, 'moved');
    const { threads, ...others } = figures;
    t.is(threads, 1);
    t.deepEqual(others, figuresOf(done));
    t.deepEqual(rounds, done.rounds.map(({ round, pagesDirty, bytesSent }) => [round, pagesDirty, bytesSent]));
    t.is(charts, 3);
    t.regex(text, /static_writer/);
  }

  const { stdout: metrics } = await bed.on('beta', 'curl', '-s', `http://127.0.0.1:${PORT}/metrics`);
  t.regex(metrics, /^phaul_migrations_total\{side="target",outcome="moved"\} 1$/m);
  t.regex(metrics, /^phaul_migrations_active\{side="target"\} 0$/m);
  t.is(Number(/^phaul_sent_bytes_total\{side="target"\} (\d+)$/m.exec(metrics)?.[1]), done.bytesSent);
  t.is(Number(/^phaul_downtime_seconds_sum\{side="target"\} ([\d.]+)$/m.exec(metrics)?.[1]), done.downtimeMs / 1000);

  const { stdout: stranger } = await bed.on('beta', 'curl', '-s', '-o', '/dev/null', '-w', '%{http_code}', '-H', 'Host: somebody.example:9420', `http://127.0.0.1:${PORT}/metrics`);
  t.is(stranger, '421', 'a page of somebody else gets nothing');
});

test.serial('a unix socket serves the same, for root alone, with what could not be moved', async (t) => {
  const pid = await bed.victim('static_writer.refused', '1', '1');
  await bed.start('alpha', 'phaul', 'agent', '--socket', '/run/phaul/second.sock', '--web', '/run/phaul/web.sock');
  while ((await bed.on('alpha', 'test', '-S', '/run/phaul/web.sock')).exitCode !== 0) {
    await sleep(100);
  }
  t.is((await bed.on('alpha', 'stat', '-c', '%a', '/run/phaul/web.sock')).stdout.trim(), '600');
  const failed = await bed.migrate('alpha', pid, 'beta', '--hook', '/bin/false');
  t.is(failed.exitCode, 1);
  const { stdout: metrics } = await bed.on('alpha', 'curl', '-s', '--unix-socket', '/run/phaul/web.sock', 'http://phaul/metrics');
  t.regex(metrics, /^phaul_migrations_total\{side="source",outcome="failed"\} 1$/m);
  t.regex((await bed.on('alpha', 'curl', '-s', '--unix-socket', '/run/phaul/web.sock', 'http://phaul/')).stdout, /<main id="migrations">/);
  t.is((await bed.on('alpha', 'curl', '-s', '--unix-socket', '/run/phaul/web.sock', '-X', 'POST', '-o', '/dev/null', '-w', '%{http_code}', 'http://phaul/')).stdout, '405');
});
