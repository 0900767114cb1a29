/** A redis with half a GiB goes from guest to guest over a slow way that loses packets, while a client on a third host writes to it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatBytes, formatMs, type DoneEvent } from '../src/events.ts';
import type { Lab } from './labHosts.ts';
import type { Row } from './labTable.ts';

/** Each guest delays what it sends by half of the round trip. */
const WAY = ['delay', '25ms', 'rate', '100mbit', 'loss', '0.1%', 'limit', '10000'];
const ADDRESS = '10.77.0.9';

/** No way takes less than the round trips of the commit. */
const IMPOSSIBLE_MS = 20;
const BUDGET_MS = 2000;

/** Text of 64 kinds in values of 128 KiB: it is about a third as large when it is compressed. */
const FILL = `
local kinds = {}
for kind = 1, 64 do
  local lines = {}
  for i = 1, 48 do lines[i] = string.format('{"id":%d,"user":"u%d","score":%.6f,"token":"%x"}', kind * i, kind * 7919 % 1000, math.random(), math.random(2^30)) end
  kinds[kind] = table.concat(lines, '\\n')
end
for key = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local parts = {}
  for i = 1, 32 do parts[i] = kinds[math.random(64)] end
  redis.call('set', 'key' .. key, table.concat(parts))
end
return redis.status_reply('OK')`;
const KEYS = 5376;
const KEYS_AT_ONCE = 256;

/** Writes twenty times a second, and at the end reads all of it again. */
const CLIENT = `
import signal, socket, sys, time
report = open(sys.argv[1], 'a', buffering=1)
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
f = socket.create_connection((sys.argv[2], 6379)).makefile('rwb', buffering=0)
n, longest = 0, 0
report.write('ready\\n')
try:
    while not ended:
        start = time.monotonic()
        f.write(b'set w%d %d\\r\\n' % (n, n * 7))
        answer = f.readline()
        if answer != b'+OK\\r\\n': raise ValueError('write %d is answered with %r' % (n, answer))
        longest = max(longest, time.monotonic() - start)
        n += 1
        time.sleep(0.05)
    for i in range(n):
        f.write(b'get w%d\\r\\n' % i)
        f.readline()
        if f.readline().strip() != b'%d' % (i * 7): raise ValueError('write %d is lost' % i)
    report.write('ok %d writes, longest wait %.0f ms\\n' % (n, longest * 1000))
except (OSError, ValueError) as e:
    report.write('failed: %s\\n' % e)
`;

async function startRedis(lab: Lab): Promise<number> {
  await lab.on('gamma', 'ip', 'address', 'add', `${ADDRESS}/24`, 'dev', 'eth0');
  const pid = await lab.start('gamma', 'redis-server', '--save', '', '--appendonly', 'no', '--bind', '0.0.0.0', '--protected-mode', 'no', '--dir', '/tmp', '--repl-diskless-sync', 'no');
  while ((await lab.on('gamma', 'redis-cli', 'ping')).stdout.trim() !== 'PONG') {
    await sleep(500);
  }
  for (let key = 0; key < KEYS; key += KEYS_AT_ONCE) {
    const { stdout } = await lab.on('gamma', 'redis-cli', 'eval', FILL, '0', String(key), String(key + KEYS_AT_ONCE - 1));
    if (stdout.trim() !== 'OK') {
      throw new Error(`redis could not be filled: ${stdout}`);
    }
  }
  return pid;
}

const shape = (lab: Lab) => Promise.all((['gamma', 'delta'] as const).map((guest) => lab.on(guest, 'tc', 'qdisc', 'replace', 'dev', 'eth0', 'root', 'netem', ...WAY)));

const row = (budgetMs: number, outcome: string, done: DoneEvent, said: string, asExpected: boolean): Row => ({
  cells: ['6.1', '6.1', 'soft-dirty', `redis, ${formatBytes(done.rssBytes)}, --max-downtime ${budgetMs}`, outcome, done.outcome === 'moved' ? formatMs(done.downtimeMs) : '', said, formatMs(done.totalMs)],
  asExpected,
});

export async function moveOverWan(lab: Lab): Promise<Row[]> {
  await lab.up('gamma=6.1', 'delta=6.1');
  const pid = await startRedis(lab);
  const report = lab.newReport();
  const client = await lab.start('alpha', 'python3', '-c', CLIENT, report, ADDRESS);
  await lab.hear('alpha', report, 'ready');
  await shape(lab);
  const move = (budgetMs: number): Promise<DoneEvent> =>
    lab.migrate('gamma', pid, 'delta', '--move-ip', `${ADDRESS}/24@eth0`, '--on-diverge', 'abort', '--max-downtime', String(budgetMs));
  const refused = await move(IMPOSSIBLE_MS);
  const arithmetic = /would stand still for .* are allowed/.test(refused.error?.message ?? '');
  const rows = [row(IMPOSSIBLE_MS, `refused: ${refused.error?.message ?? refused.outcome}`, refused, '', refused.outcome === 'failed' && arithmetic)];
  const moved = await move(BUDGET_MS);
  await lab.on('alpha', 'kill', '-TERM', String(client));
  const said = await lab.hear('alpha', report, 'ok');
  const outcome = moved.outcome === 'moved' ? `moved, ${formatBytes(moved.bytesSent)} sent` : `refused: ${moved.error?.message ?? moved.outcome}`;
  rows.push(row(BUDGET_MS, outcome, moved, said, said.startsWith('ok') && moved.outcome === 'moved' && moved.downtimeMs <= BUDGET_MS));
  return rows;
}
