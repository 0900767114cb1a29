/** What clients of real services, on a third host, notice of a move there and back: nothing. */
import { globSync, mkdirSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('clients-test');
const ADDRESS = '10.77.0.100';

/** A transfer, or a session, lasts as long as two moves and some. */
const SESSION_S = 12;

test.before(async () => {
  await bed.up(3);
  await bed.on('alpha', 'ip', 'address', 'add', `${ADDRESS}/24`, 'dev', 'eth0');
});
test.after.always(() => bed.down());

async function moveThereAndBack(pid: number): Promise<string> {
  await sleep(1_500);
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to, '--move-ip', `${ADDRESS}/24`);
    if (exitCode !== 0) {
      return stderr;
    }
  }
  return 'moved';
}

const shell = (script: string) => bed.on('gamma', 'bash', '-c', script);

test.serial('a slow download over TLS from nginx', async (t) => {
  await bed.on('alpha', 'bash', '-c', `head -c ${SESSION_S * 1_000_000} /dev/urandom >${bed.report('file')}; openssl req -x509 -newkey rsa:2048 -nodes -keyout ${bed.report('key')} -out ${bed.report('certificate')} -days 2 -subj /CN=x`);
  writeFileSync(
    bed.report('nginx.conf'),
    `daemon off; worker_processes 2; pid ${bed.report('nginx.pid')}; error_log ${bed.report('error.log')};
events {}
http {
  access_log off;
  client_body_temp_path ${bed.report('1')}; proxy_temp_path ${bed.report('2')}; fastcgi_temp_path ${bed.report('3')}; uwsgi_temp_path ${bed.report('4')}; scgi_temp_path ${bed.report('5')};
  server { listen ${ADDRESS}:8443 ssl; ssl_certificate ${bed.report('certificate')}; ssl_certificate_key ${bed.report('key')}; root ${bed.directory}; limit_rate 1m; }
}
`,
  );
  const pid = await bed.start('alpha', 'nginx', '-c', bed.report('nginx.conf'));
  await bed.hear('nginx.pid', '1', '2', '3', '4', '5', '6', '7', '8', '9');
  const download = shell(`curl -sSk --max-time 120 https://${ADDRESS}:8443/file | cmp - ${bed.report('file')} && echo the same`);
  t.is(await moveThereAndBack(pid), 'moved');
  t.is((await download).stdout, 'the same\n');
  await bed.on('alpha', 'kill', '-QUIT', String(pid));
});

test.serial('a session with an sshd', async (t) => {
  const key = bed.report('ssh.key');
  await bed.on('alpha', 'bash', '-c', `ssh-keygen -q -t ed25519 -N '' -f ${bed.report('ssh.host')}; ssh-keygen -q -t ed25519 -N '' -f ${key}; cp ${key}.pub ${bed.report('ssh.keys')}`);
  writeFileSync(bed.report('sshd.conf'), `ListenAddress ${ADDRESS}\nPort 2222\nHostKey ${bed.report('ssh.host')}\nAuthorizedKeysFile ${bed.report('ssh.keys')}\nStrictModes no\nPidFile none\nUsePAM no\n`);
  const pid = await bed.start('alpha', '/usr/sbin/sshd', '-D', '-f', bed.report('sshd.conf'));
  await sleep(500);
  const session = shell(`(echo 'x=kept'; sleep ${SESSION_S}; echo 'echo $x'; echo exit) | ssh -T -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i ${key} -p 2222 root@${ADDRESS} bash`);
  t.is(await moveThereAndBack(pid), 'moved');
  t.is((await session).stdout, 'kept\n');
  await bed.on('alpha', 'kill', '-TERM', String(pid));
});

test.serial('a WebSocket to a server in node', async (t) => {
  const node = await bed.nodeWithoutIoUring();
  if (node === undefined) {
    t.log('skipped: there is no node before version 22, and later ones hold io_uring instances');
    t.pass();
    return;
  }
  const ws = `require(${JSON.stringify(`${process.cwd()}/node_modules/ws`)})`;
  writeFileSync(bed.report('server.cjs'), `new (${ws}.WebSocketServer)({ host: '${ADDRESS}', port: 8080 }).on('connection', (c) => { let n = 0; c.on('message', (m) => c.send(m + ' ' + ++n)); });`);
  writeFileSync(
    bed.report('client.cjs'),
    `const c = new (${ws}.WebSocket)('ws://${ADDRESS}:8080'); let n = 0;
const send = () => c.send(String(++n));
c.on('open', send); c.on('close', () => console.log('closed')); c.on('error', (e) => console.log(String(e)));
c.on('message', (m) => { if (String(m) !== n + ' ' + n) console.log('wrong', String(m)); setTimeout(send, 2); });
setTimeout(() => { console.log(n > 100 ? 'all answered' : n); process.exit(); }, ${SESSION_S * 1000});`,
  );
  const pid = await bed.start('alpha', node, bed.report('server.cjs'));
  await sleep(1_000);
  const client = shell(`${node} ${bed.report('client.cjs')}`);
  t.is(await moveThereAndBack(pid), 'moved');
  t.is((await client).stdout, 'all answered\n');
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

test.serial('an open transaction with PostgreSQL', async (t) => {
  const [bin] = globSync('/usr/lib/postgresql/*/bin').toSorted();
  const data = bed.report('postgres');
  mkdirSync(data);
  await bed.on('alpha', 'chown', 'postgres', data);
  await bed.on('alpha', 'setpriv', '--reuid', 'postgres', '--regid', 'postgres', '--clear-groups', 'bash', '-c', `cd ${data}; ${bin}/initdb -D data -A trust; echo "unix_socket_directories=''
listen_addresses='${ADDRESS}'" >>data/postgresql.conf; echo 'host all all 10.77.0.0/24 trust' >>data/pg_hba.conf`);
  const pid = await bed.start('alpha', 'setpriv', '--reuid', 'postgres', '--regid', 'postgres', '--clear-groups', `${bin}/postgres`, '-D', `${data}/data`);
  await shell(`until ${bin}/psql -h ${ADDRESS} -U postgres -c 'select 1'; do sleep 0.1; done`);
  const client = shell(`(echo 'create table t (x int); begin; insert into t values (1);'; sleep ${SESSION_S}; echo "insert into t values (2); commit; select 'rows', count(*) from t;") | ${bin}/psql -h ${ADDRESS} -U postgres -At`);
  t.is(await moveThereAndBack(pid), 'moved');
  t.is((await client).stdout, 'CREATE TABLE\nBEGIN\nINSERT 0 1\nINSERT 0 1\nCOMMIT\nrows|2\n');
  await bed.on('alpha', 'kill', '-INT', String(pid));
});

/** Sets and gets by connections that stay, and checks each answer; at the end all that was ever set. */
const MEMCACHED_CLIENT = `
import socket, sys, time
def connect():
    return socket.create_connection((sys.argv[1], 11211)).makefile('rwb')
links = [connect() for i in range(20)]
def ask(f, request):
    f.write(request)
    f.flush()
    return f.readline()
def get(f, key):
    head = ask(f, b'get %s\\r\\n' % key)
    if head == b'END\\r\\n':
        return None
    value = f.readline()
    return value[:-2] if f.readline() == b'END\\r\\n' else None
n = 0
end = time.monotonic() + float(sys.argv[2])
try:
    while time.monotonic() < end:
        f = links[n % len(links)]
        value = b'%d ' % n * 50
        if ask(f, b'set key%d 0 0 %d\\r\\n%s\\r\\n' % (n, len(value), value)) != b'STORED\\r\\n' or get(f, b'key%d' % (n // 2)) != b'%d ' % (n // 2) * 50:
            print('wrong at', n)
            sys.exit()
        n += 1
    f = connect()
    print('all there' if n > 100 and all(get(f, b'key%d' % i) == b'%d ' % i * 50 for i in range(n)) else 'lost some of %d' % n)
except OSError as e:
    print(e)
`;

test.serial('memcached with what its clients set', async (t) => {
  writeFileSync(bed.report('memcached.py'), MEMCACHED_CLIENT);
  const pid = await bed.start('alpha', 'memcached', '-u', 'nobody', '-l', ADDRESS, '-m', '256');
  await sleep(1_000);
  const client = shell(`python3 ${bed.report('memcached.py')} ${ADDRESS} ${SESSION_S}`);
  t.is(await moveThereAndBack(pid), 'moved');
  t.is((await client).stdout, 'all there\n');
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

const WORKERS = 4;

/** Each connection is counted by the worker that has it; the first process knows how many answers there were. */
const CLUSTER = `
const cluster = require('node:cluster');
if (cluster.isPrimary) {
  let answers = 0;
  for (let i = 0; i < ${WORKERS}; i++) cluster.fork().on('message', function () { this.send(++answers); });
} else {
  let total = 0;
  process.on('message', (n) => { total = n; });
  require('node:http').createServer((request, answer) => {
    request.socket.count = (request.socket.count ?? 0) + 1;
    process.send('answered');
    answer.end(JSON.stringify({ pid: process.pid, count: request.socket.count, total }));
  }).listen(8081, '${ADDRESS}');
}
`;

const CLUSTER_CLIENT = `
const http = require('node:http');
const end = Date.now() + ${SESSION_S * 1000}, pids = new Set();
let done = 0, most = 0, wrong = '';
function run() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  let count = 0, pid = 0;
  const ask = () => http.get({ host: '${ADDRESS}', port: 8081, agent }, (answer) => {
    let text = '';
    answer.on('data', (data) => text += data).on('end', () => {
      const told = JSON.parse(text);
      if (told.count !== ++count || (pid !== 0 && pid !== told.pid)) wrong = text + ' after ' + count;
      pid = told.pid;
      pids.add(pid);
      most = Math.max(most, told.total);
      if (Date.now() < end && wrong === '') return setTimeout(ask, 5);
      if (++done === 12) { console.log(wrong || (pids.size === ${WORKERS} && most > 200 ? 'all answered' : pids.size + ' ' + most)); process.exit(); }
    });
  }).on('error', (error) => { console.log(String(error)); process.exit(); });
  ask();
}
for (let i = 0; i < 12; i++) run();
`;

test.serial(`a node cluster with ${WORKERS} workers`, async (t) => {
  const node = bed.nodeUnderFilter();
  writeFileSync(bed.report('cluster.cjs'), CLUSTER);
  writeFileSync(bed.report('clusterClient.cjs'), CLUSTER_CLIENT);
  const pid = await bed.start('alpha', ...node, bed.report('cluster.cjs'));
  await shell(`until curl -s http://${ADDRESS}:8081/ >/dev/null; do sleep 0.1; done; sleep 1`);
  const client = shell(`${process.execPath} ${bed.report('clusterClient.cjs')}`);
  t.is(await moveThereAndBack(pid), 'moved');
  t.is((await client).stdout, 'all answered\n');
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

