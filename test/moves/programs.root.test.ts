/** Services as they are run, with all their processes: to a directory and back, and live to another host and back. */
import { createHash, randomBytes } from 'node:crypto';
import { globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('programs-test');

test.before(() => bed.up());
test.after.always(() => bed.down());

const WORKERS = 3;

async function checkpoint(pid: number, name: string): Promise<string> {
  const directory = bed.report(name);
  mkdirSync(directory);
  const dumped = await bed.on('alpha', 'phaul', 'dump', '-t', String(pid), '-D', directory);
  const restored = dumped.exitCode === 0 ? await bed.on('alpha', 'phaul', 'restore', '-D', directory) : undefined;
  return `${dumped.stderr}${restored?.stderr ?? ''}${restored?.exitCode === 0 ? 'restored' : ''}`;
}

test.serial('nginx with its workers serves what it served, from a directory, on another host and back', async (t) => {
  const content = randomBytes(1 << 20);
  writeFileSync(bed.report('file'), content);
  writeFileSync(
    bed.report('nginx.conf'),
    `daemon off; worker_processes ${WORKERS}; pid ${bed.report('nginx.pid')}; error_log ${bed.report('error.log')};
events { worker_connections 64; }
http {
  access_log off; limit_req_zone $binary_remote_addr zone=one:1m rate=10000r/s;
  client_body_temp_path ${bed.report('1')}; proxy_temp_path ${bed.report('2')}; fastcgi_temp_path ${bed.report('3')}; uwsgi_temp_path ${bed.report('4')}; scgi_temp_path ${bed.report('5')};
  server { listen 8080; root ${bed.directory}; location / { limit_req zone=one burst=100; } }
}
`,
  );
  const pid = await bed.start('alpha', 'nginx', '-c', bed.report('nginx.conf'));
  await bed.hear('nginx.pid', '1', '2', '3', '4', '5', '6', '7', '8', '9');
  const served = async (host: string): Promise<boolean> =>
    (await bed.on(host, 'bash', '-c', `curl -s http://127.0.0.1:8080/file | sha256sum`)).stdout.startsWith(createHash('sha256').update(content).digest('hex'));
  const workers = async (host: string): Promise<string[]> => (await bed.on(host, 'pgrep', '-P', String(pid))).stdout.trim().split('\n');
  t.true(await served('alpha'));
  const before = await workers('alpha');
  t.is(before.length, WORKERS);
  t.is(await checkpoint(pid, 'nginx.images'), 'restored');
  t.true(await served('alpha'));
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to, '--verify');
    t.is(exitCode, 0, stderr);
    t.true(await served(to));
    t.deepEqual(await workers(to), before);
    t.false(await bed.alive(from, pid));
  }
  // The workers are still its children: it ends them, and begins others.
  await bed.on('alpha', 'kill', '-HUP', String(pid));
  for (let i = 0; i < 100 && (await workers('alpha')).some((worker) => before.includes(worker)); i++) {
    await sleep(100);
  }
  t.is((await workers('alpha')).length, WORKERS);
  t.true(await served('alpha'));
  await bed.on('alpha', 'kill', '-QUIT', String(pid));
});

test.serial('PostgreSQL goes along with the clients that write to it, and loses nothing', async (t) => {
  const [bin] = globSync('/usr/lib/postgresql/*/bin').toSorted();
  const data = bed.report('postgres');
  mkdirSync(data);
  // The shell that begins all of it is the root of the tree.
  writeFileSync(
    bed.report('all.sh'),
    `cd ${data} && ${bin}/initdb -D ${data}/data -A trust >/dev/null && echo "unix_socket_directories='${data}'
listen_addresses=''" >>data/postgresql.conf
${bin}/postgres -D ${data}/data >${data}/log 2>&1 &
server=$!
until ${bin}/psql -h ${data} -c 'select 1' postgres >/dev/null 2>&1; do sleep 0.1; done
${bin}/pgbench -h ${data} -i -s 1 postgres >/dev/null 2>&1
echo ready >>${data}/report
${bin}/pgbench -h ${data} -c 3 -t 100000 -n postgres >${data}/bench 2>&1 &
clients=$!
while [ ! -e ${data}/enough ]; do sleep 0.1; done
kill -0 $clients && echo the clients still write >>${data}/bench
kill -TERM $clients; wait $clients
${bin}/psql -h ${data} -At -c "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), count(*) > 100 from pgbench_history" postgres >${data}/verdict 2>&1
kill -INT $server; wait $server
echo end >>${data}/verdict
`,
  );
  await bed.on('alpha', 'chown', 'postgres', data);
  const pid = await bed.start('alpha', 'setpriv', '--reuid', 'postgres', '--regid', 'postgres', '--clear-groups', 'bash', bed.report('all.sh'));
  await bed.hear('postgres/report', 'ready');
  await sleep(1_000);
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to);
    t.is(exitCode, 0, stderr);
    await sleep(1_000);
  }
  t.is(await checkpoint(pid, 'postgres.images'), 'restored');
  await sleep(1_000);
  writeFileSync(bed.report('postgres/enough'), '');
  await bed.hear('postgres/verdict', 'end');
  t.deepEqual(bed.lines('postgres/verdict'), ['t|t', 'end']);
  t.regex(readFileSync(bed.report('postgres/bench'), 'utf8'), /the clients still write/);
  t.notRegex(readFileSync(bed.report('postgres/log'), 'utf8'), /PANIC|crash|terminated by signal/);
});
