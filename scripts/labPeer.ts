/**
 * The same program from guest to guest by CRIU, in the way of P.Haul: pre-dumps to the other side's page server as long as they
 * get smaller, a last dump, the other images after it, and the restore there. And by phaul.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatMs } from '../src/events.ts';
import { keep, type Measured } from './criuMeasured.ts';
import type { Lab } from './labHosts.ts';
import type { Row } from './labTable.ts';
import { startWriter } from './workloads.ts';

const ROUNDS_MAX = 8;

/** P.Haul's: a round that isn't at least so much smaller is the last one; one of so few pages needs no other. */
const GROWS = 10;
const FEW_PAGES = 64;

/** On the source. Prints what each pre-dump wrote, and how long the program stood still in each, us; then "from TIME" and "to TIME", ns. */
const PROCEDURE = `
set -e
pid=$1 host=$2 top=$3 port=27000 before= round=0
ssh_() { ssh -q -o ControlMaster=auto -o ControlPath=/run/lab-peer -o ControlPersist=600 "root@$host" "$@"; }
receive() {
	port=$((port + 1))
	ssh_ "mkdir -p $top/$round && cd $top/$round && criu page-server -d --images-dir . \${before:+--prev-images-dir ../$before} --port $port -o server.log"
}
pages() { echo "$1" | sed -n 's/^Memory pages written: \\([0-9]*\\).*/\\1/p'; }
stopped() { echo "$1" | sed -n 's/^Frozen time: \\([0-9]*\\).*/\\1/p'; }
ssh_ true
written=
while [ $round -lt ${ROUNDS_MAX} ]; do
	mkdir -p $top/$round
	receive
	said=$(cd $top/$round && criu pre-dump -t $pid --images-dir . \${before:+--prev-images-dir ../$before} --track-mem \\
		--page-server --address $host --port $port --display-stats -o dump.log 2>&1) || true
	now=$(pages "$said")
	[ -n "$now" ] || { echo "$said"; tail -n 5 $top/$round/dump.log; exit 1; }
	echo "round $now $(stopped "$said")"
	before=$round round=$((round + 1))
	[ "$now" -gt ${FEW_PAGES} ] || break
	[ -z "$written" ] || [ "$now" -lt $((written * (100 - ${GROWS}) / 100)) ] || break
	written=$now
done
mkdir -p $top/$round
receive
echo "from $(date +%s%N)"
said=$(cd $top/$round && criu dump -t $pid --images-dir . --prev-images-dir ../$before --track-mem --page-server --address $host \\
	--port $port --display-stats -o dump.log 2>&1) || { echo "$said"; tail -n 5 $top/$round/dump.log; exit 1; }
tar -C $top/$round -cf - . | ssh_ "tar -C $top/$round -xf - && cd $top/$round && criu restore -d --images-dir . -o restore.log || { tail -n 5 restore.log; exit 1; }"
echo "to $(date +%s%N)"
echo "round $(pages "$said") $(stopped "$said")"
`;

interface Figures {
  rounds: number;
  downtimeMs: number;
  totalMs: number;
  said: string;
}

type Mover = (lab: Lab, pid: number) => Promise<Figures>;

const byCriu: Mover = async (lab, pid) => {
  const start = performance.now();
  const { stdout, stderr, exitCode } = await lab.on('gamma', 'bash', '-c', PROCEDURE, 'bash', String(pid), 'delta', `/tmp/peer.${pid}`);
  const totalMs = performance.now() - start;
  const time = (word: string): number => Number(new RegExp(`^${word} (\\d+)$`, 'm').exec(stdout)?.[1] ?? Number.NaN) / 1e6;
  if (exitCode !== 0 || Number.isNaN(time('to'))) {
    throw new Error(`CRIU: ${stdout}${stderr}`);
  }
  const rounds = [...stdout.matchAll(/^round (\d+) (\d+)$/gm)].map(([, pages, us]) => ({ pages: Number(pages), ms: Number(us) / 1000 }));
  const frozen = rounds.at(-1)?.ms ?? Number.NaN;
  const before = rounds.slice(0, -1).reduce((sum, { ms }) => sum + ms, 0);
  return { rounds: rounds.length - 1, downtimeMs: time('to') - time('from'), totalMs, said: `${formatMs(before)} in pre-dumps, ${formatMs(frozen)} in the last dump` };
};

const byPhaul: Mover = async (lab, pid) => {
  const done = await lab.migrate('gamma', pid, 'delta');
  if (done.outcome !== 'moved') {
    throw new Error(done.error?.message ?? done.outcome);
  }
  const stopped = done.rounds.reduce((sum, { stoppedMs }) => sum + stoppedMs, 0);
  return { rounds: done.rounds.length, downtimeMs: done.downtimeMs, totalMs: done.totalMs, said: `${formatMs(stopped)} in rounds` };
};

export const PEER_HEADER = ['program', 'by', 'rounds', 'downtime', 'stopped besides', 'total', 'outcome'];

export async function compareWithCriu(lab: Lab, sizesMib: number[]): Promise<Row[]> {
  const rows: Row[] = [];
  const downtimes: Measured['downtimes'] = [];
  await lab.up('gamma=6.1', 'delta=6.1');
  for (const mib of sizesMib) {
    for (const [name, move] of [['phaul', byPhaul], ['CRIU', byCriu]] as const) {
      const { pid, check } = await startWriter(mib)(lab, 'gamma');
      await sleep(2000);
      const { rounds, downtimeMs, totalMs, said } = await move(lab, pid);
      const { verdict } = await check('delta');
      downtimes.push({ rssMiB: mib, by: name, ms: Math.round(downtimeMs) });
      rows.push({ cells: [`static C, ${mib} MiB`, name, String(rounds), formatMs(downtimeMs), said, formatMs(totalMs), verdict], asExpected: verdict === 'ok' });
    }
  }
  const [kernel, criu] = await Promise.all([lab.on('gamma', 'uname', '-r'), lab.on('gamma', 'criu', '--version')]);
  keep({
    on: new Date().toISOString().slice(0, 'yyyy-mm-dd'.length),
    kernel: kernel.stdout.trim(),
    criu: /^Version: (.*)$/m.exec(criu.stdout)?.[1] ?? 'of no version',
    downtimes,
  });
  return rows;
}
