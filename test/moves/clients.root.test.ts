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
