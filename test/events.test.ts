import test from 'ava';
import { emitTo, eventText, formatBytes, formatMs, logLine, type DoneEvent, type PhaulEvent, type RoundEvent } from '../src/events.ts';

const round: RoundEvent = {
  event: 'round',
  at: new Date(2026, 0, 2, 12, 4, 5, 118).getTime(),
  side: 'source',
  round: 3,
  pagesDirty: 4112,
  bytesSent: 16.1 * 2 ** 20,
  ms: 38,
  bandwidth: 420 * 2 ** 20,
  dirtyRate: 2 ** 20,
  predictedDowntimeMs: 4.04, stoppedMs: 0,
};

const done: DoneEvent = {
  event: 'done',
  at: 0,
  side: 'source',
  outcome: 'moved',
  pid: 1042,
  comm: 'redis-server',
  host: 'beta',
  downtimeMs: 4.1,
  totalMs: 2310,
  rounds: [round, round, round],
  bytesSent: 1.1 * 2 ** 30,
  rssBytes: 2 ** 30,
  phases: { stop: 0.2 },
};

test('a log line has the time, the side, and columns two spaces apart', (t) => {
  t.is(logLine(round), '12:04:05.118 source  round 3  dirty 4,112 pages  16.1 MiB  38 ms  420.0 MiB/s  predicted downtime 4.0 ms');
});

test('the line of a move names the process, the host and one downtime', (t) => {
  t.is(eventText(done), 'moved redis-server (pid 1042) to beta: downtime 4.1 ms, total 2.31 s, 3 rounds, 1.1 GiB sent');
});

test('a failure says where the process runs, unless it is known not to', (t) => {
  const failed: DoneEvent = { ...done, outcome: 'failed', host: 'alpha', error: { code: 'ERR_TIMEOUT', message: 'Beta took too long.' } };
  t.is(eventText(failed), 'not moved, redis-server (pid 1042) still runs on alpha: Beta took too long.');
  t.is(eventText({ ...failed, error: { code: 'ERR_PROCESS_EXITED', message: 'It ended.' } }), 'not moved: It ended.');
  t.is(eventText({ ...failed, error: { code: 'ERR_USAGE', message: 'No pid.' } }), 'not moved: No pid.');
  t.regex(eventText({ ...failed, outcome: 'unknown' }), /^unknown where redis-server \(pid 1042\) runs now: /);
});

test('a process that names itself with escape sequences does not reach the terminal with them', (t) => {
  t.is(eventText({ ...done, comm: 'a\x1b[31mb\n' }).includes('\x1b'), false);
  t.false(logLine({ event: 'notice', at: 0, side: 'target', text: 'a\nb' }).includes('\n'));
});

test('sizes and times keep the digits that matter', (t) => {
  t.deepEqual([0, 0.5, 1023, 1024, 2 ** 30 * 1.5, 2 ** 60].map(formatBytes), ['0 B', '1 B', '1023 B', '1.0 KiB', '1.5 GiB', '1048576.0 TiB']);
  t.deepEqual([0.04, 9.94, 38.4, 999, 2310].map(formatMs), ['0.0 ms', '9.9 ms', '38 ms', '999 ms', '2.31 s']);
});

test('emitted events carry the time and the side, unless they bring their own', (t) => {
  const seen: PhaulEvent[] = [];
  const emit = emitTo((event) => seen.push(event));
  emit({ event: 'commit' });
  emit({ event: 'notice', text: 'x', at: 5, side: 'target' });
  t.is(seen[0]?.side, 'source');
  t.true(Math.abs(Date.now() - (seen[0]?.at ?? 0)) < 60_000);
  t.deepEqual(seen[1], { event: 'notice', text: 'x', at: 5, side: 'target' });
});
