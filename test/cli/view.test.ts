import test from 'ava';
import type { DoneEvent, PhaulEvent } from '../../src/events.ts';
import { createView, type ViewOptions } from '../../src/cli/view.ts';

const done: DoneEvent = {
  event: 'done',
  at: 0,
  side: 'source',
  outcome: 'moved',
  pid: 7,
  comm: 'victim',
  host: 'beta',
  downtimeMs: 2,
  totalMs: 900,
  rounds: [],
  bytesSent: 2048,
  rssBytes: 4096,
  phases: {},
};

const story: PhaulEvent[] = [
  { event: 'preflight', at: 0, side: 'source', pid: 7, comm: 'victim', host: 'beta', processes: 1, threads: 1, rssBytes: 4096, obstacles: [], notices: [] },
  { event: 'connect', at: 0, side: 'source', host: 'beta', agentVersion: '1.0.0', kernel: '6.18' },
  { event: 'arm', at: 0, side: 'source', stopMs: 0.3, tracker: 'uffd' },
  { event: 'round', at: 0, side: 'source', round: 1, pagesDirty: 4096, bytesSent: 2048, ms: 5, bandwidth: 1e6, dirtyRate: 0, predictedDowntimeMs: 3, stoppedMs: 0 },
  { event: 'log', at: 0, side: 'target', level: 'debug', text: 'staged 3 mappings' },
  { event: 'freeze', at: 0, side: 'source', reason: 'predicted downtime 3.0 ms is within 300 ms' },
  { event: 'commit', at: 0, side: 'source' },
  done,
];

function record(options: Partial<ViewOptions> & { isTTY?: boolean }, events = story): { out: string; err: string } {
  const text = { out: '', err: '' };
  const output = (name: 'out' | 'err') => ({
    write: (part: string) => void (text[name] += part),
    isTTY: options.isTTY === true,
    columns: 80,
  });
  const view = createView({ json: false, verbose: false, stdout: output('out'), stderr: output('err'), ...options });
  for (const event of events) {
    view.show(event);
  }
  return text;
}

test('JSON is one event a line, the last one is done, and log events need --verbose', (t) => {
  const events = (verbose: boolean) =>
    record({ json: true, verbose }).out.trim().split('\n').map((line) => (JSON.parse(line) as PhaulEvent).event);
  t.deepEqual(events(false), ['preflight', 'connect', 'arm', 'round', 'freeze', 'commit', 'done']);
  t.true(events(true).includes('log'));
});

test('a pipe gets short lines without escape sequences', (t) => {
  const { out, err } = record({});
  t.is(out.split('\n').length, 4);
  t.false(out.includes('\x1b'));
  t.regex(out, /\nmoved victim \(pid 7\) to beta: downtime 2\.0 ms, total 900 ms, 0 rounds, 2\.0 KiB sent\n$/);
  t.is(err, '');
});

test('a terminal gets a table that grows, and nothing is drawn in the freeze', (t) => {
  const { out } = record({ isTTY: true });
  t.regex(out, /round  dirty pages/);
  t.regex(out, / {4}1 {8}4,096/);
  const frozen = out.slice(out.indexOf('within 300 ms\n') + 'within 300 ms\n'.length);
  t.regex(frozen, /^\r\x1b\[K.*moved victim/);
});

test('--verbose prints every event with its time', (t) => {
  const lines = record({ verbose: true, isTTY: true }).out.trim().split('\n');
  t.is(lines.length, story.length);
  t.regex(lines[4] ?? '', /^\d\d:\d\d:\d\d\.\d{3} target  staged 3 mappings$/);
});

test('a failure goes to stderr, with all obstacles in one list', (t) => {
  const obstacle = { code: 'FD_KIND', subject: 'fd 14', sentence: 'fd 14 is an io_uring instance.', host: 'alpha' };
  const failed: DoneEvent = {
    ...done,
    outcome: 'failed',
    host: 'alpha',
    error: { code: 'ERR_OBSTACLES', message: '2 obstacles.', obstacles: [obstacle, { ...obstacle, sentence: 'Second.' }] },
  };
  for (const isTTY of [true, false]) {
    const { out, err } = record({ isTTY }, [failed]);
    t.is(err, 'phaul: not moved, victim (pid 7) still runs on alpha: 2 obstacles.\n  - fd 14 is an io_uring instance.\n  - Second.\n');
    t.true(out === '' || (!out.includes('\n') && out.endsWith('\r\x1b[K')), 'the status line is wiped');
  }
});
