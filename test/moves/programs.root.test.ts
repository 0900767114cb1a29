/** Services as they are run, with all their processes: to a directory and back, and live to another host and back. */
import { createHash, randomBytes } from 'node:crypto';
import { appendFileSync, globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
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

/** Has a terminal of its own, in which bash runs, and types what it finds in a file; what it sees it writes to another. */
const TERMINAL = `
import os, pty, select, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp('bash', ['bash', '--norc', '--noprofile', '-i'])
log = open(sys.argv[2], 'ab', 0)
typed = 0
while True:
    if select.select([terminal], [], [], 0.05)[0]:
        try:
            log.write(os.read(terminal, 4096))
        except OSError:
            sys.exit()
    if os.path.exists(sys.argv[1]):
        keys = open(sys.argv[1], 'rb').read()
        os.write(terminal, keys[typed:])
        typed = len(keys)
`;

test.serial('bash in a terminal goes on with its pipeline, and has all control of its jobs', async (t) => {
  writeFileSync(bed.report('terminal.py'), TERMINAL);
  const seen = (): string => readFileSync(bed.report('screen'), 'utf8');
  const type = async (keys: string, until: RegExp): Promise<void> => {
    appendFileSync(bed.report('keys'), keys);
    for (let i = 0; !until.test(seen()); i++) {
      if (i === 600) {
        throw new Error(`the terminal shows ${JSON.stringify(seen())}, not ${String(until)}`);
      }
      await sleep(50);
    }
  };
  const pid = await bed.start('alpha', 'python3', bed.report('terminal.py'), bed.report('keys'), bed.report('screen'));
  await bed.hear('screen', 'bash', '\u001b');
  await type(`tty; kept=value\n`, /\/dev\/pts\/\d+\r/);
  const [tty] = /\/dev\/pts\/\d+/.exec(seen())!;
  await type(`seq 1 1000000 | while read n; do echo $n; sleep 0.01; done | cat >${bed.report('numbers')}\n`, /numbers/);
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha'], ['alpha', 'beta']] as const) {
    await sleep(500);
    const { exitCode, stderr } = await bed.migrate(from, pid, to);
    t.is(exitCode, 0, stderr);
  }
  await type('\u001a', /Stopped/);
  await type('jobs; tty; echo has=$kept\n', /has=value/);
  t.is(seen().split(tty).length, 3, 'the terminal is the same');
  const until = bed.lines('numbers').length;
  await type('fg\n', /fg\r\n[^$]*seq/);
  for (let i = 0; i < 100 && bed.lines('numbers').length < until + 10; i++) {
    await sleep(50);
  }
  await type('\u0003', /\^C/);
  await type('echo status=$?\n', /status=130/);
  const numbers = bed.lines('numbers');
  t.true(numbers.length > until + 10);
  t.deepEqual(numbers, numbers.map((_, i) => String(i + 1)));
  await type('exit\n', /\rexit\r\n/);
});

/** Computes with as many objects as the collector can bear, and talks to itself by sockets. */
const JAVA = `
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.atomic.*;

public class Main {
    static final AtomicReference<String> wrong = new AtomicReference<>("");
    static final AtomicLong answered = new AtomicLong(), computed = new AtomicLong();

    static void serve(Socket socket) {
        try (BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream())); PrintWriter out = new PrintWriter(socket.getOutputStream(), true)) {
            for (String line; (line = in.readLine()) != null; ) out.println("got " + line);
        } catch (IOException e) { wrong.set("server: " + e); }
    }

    static void ask(int port) {
        try (Socket socket = new Socket("127.0.0.1", port); BufferedReader in = new BufferedReader(new InputStreamReader(socket.getInputStream())); PrintWriter out = new PrintWriter(socket.getOutputStream(), true)) {
            for (long n = 0; ; n++) {
                out.println(n);
                String line = in.readLine();
                if (!("got " + n).equals(line)) wrong.set(line + " instead of " + n);
                answered.incrementAndGet();
                Thread.sleep(1);
            }
        } catch (Exception e) { wrong.set("client: " + e); }
    }

    static void compute() {
        for (Random random = new Random(1); ; ) {
            TreeMap<Long, String> map = new TreeMap<>();
            long sum = 0, again = 0;
            for (int i = 0; i < 20000; i++) { long key = random.nextLong() >>> 20; if (map.put(key, "v" + key) == null) sum += key; }
            for (Map.Entry<Long, String> e : map.entrySet()) again += Long.parseLong(e.getValue().substring(1));
            if (sum != again) wrong.set("sum " + again + " instead of " + sum);
            computed.incrementAndGet();
        }
    }

    public static void main(String[] args) throws Exception {
        ServerSocket server = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
        for (int i = 0; i < 4; i++) {
            new Thread(() -> ask(server.getLocalPort())).start();
            Socket accepted = server.accept();
            new Thread(() -> serve(accepted)).start();
        }
        new Thread(Main::compute).start();
        Files.writeString(Path.of(args[0]), "ready\\n");
        while (!Files.exists(Path.of(args[1]))) Thread.sleep(50);
        Files.writeString(Path.of(args[0]), wrong.get().isEmpty() && answered.get() > 100 && computed.get() > 5 ? "ok\\n" : "failed: " + wrong + " " + answered + " " + computed + "\\n");
        System.exit(0);
    }
}
`;

test.serial('a Java virtual machine goes on computing, collecting garbage and talking', async (t) => {
  writeFileSync(bed.report('Main.java'), JAVA);
  if ((await bed.on('alpha', 'javac', '-d', bed.directory, bed.report('Main.java'))).exitCode !== 0) {
    t.log('skipped: there is no javac on this machine');
    t.pass();
    return;
  }
  const pid = await bed.start('alpha', 'java', '-Xmx256m', '-cp', bed.directory, 'Main', bed.report('java'), bed.report('java.enough'));
  await bed.hear('java', 'ready');
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    await sleep(1_000);
    const { exitCode, stderr } = await bed.migrate(from, pid, to);
    t.is(exitCode, 0, stderr);
  }
  await sleep(1_000);
  writeFileSync(bed.report('java.enough'), '');
  t.is(await bed.hear('java', 'ok', 'failed'), 'ok');
});

