/** TCP connections and the address that they are at go along: a client on a third host notices a pause. */
import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { FaultPoint } from '../../src/fault.ts';
import { FaultBed, until } from '../faults/bed.ts';

const bed = new FaultBed('connections-test');
const ADDRESSES = ['10.77.0.100/24', 'fd77::100/64'];
const moveIps = ADDRESSES.flatMap((address) => ['--move-ip', address]);

/** Echoes lines, with one thread for each connection; the first argument's addresses are listened on. */
const SERVER = `
import socket, sys, threading
def serve(c):
    f = c.makefile('rwb')
    for line in f:
        f.write(b'echo ' + line)
        f.flush()
def listen(address):
    s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, 7000))
    s.listen(100)
    while True:
        threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
for address in sys.argv[1:]:
    threading.Thread(target=listen, args=(address,)).start()
`;

/** Sends numbered lines, some at a time, and checks the answers in order, until it is told to end. Reports what it found. */
const CLIENT = `
import json, signal, socket, sys
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
s = socket.create_connection((sys.argv[1], 7000))
f = s.makefile('rwb')
n = 0
problem = ''
open(sys.argv[2], 'w').write('ready\\n')
try:
    while not ended and not problem:
        f.write(b''.join(b'%d\\n' % i for i in range(n, n + 3)))
        f.flush()
        for i in range(n, n + 3):
            answer = f.readline()
            if answer != b'echo %d\\n' % i:
                problem = 'got %r for %d' % (answer, i)
        n += 3
except OSError as e:
    problem = str(e)
open(sys.argv[2], 'w').write(json.dumps({ 'n': n, 'problem': problem }) + '\\n')
`;

/** A new connection for each line, as fast as it goes; says how many were answered and how many failed. */
const DIALER = `
import json, signal, socket, sys
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
answered = failed = 0
open(sys.argv[2], 'w').write('ready\\n')
while not ended:
    try:
        with socket.create_connection((sys.argv[1], 7000), 10) as s:
            s.sendall(b'1\\n')
            answered += s.recv(100) == b'echo 1\\n'
    except OSError as e:
        failed += 1
open(sys.argv[2], 'w').write(json.dumps({ 'n': answered, 'problem': str(failed) }) + '\\n')
`;

test.before(async () => {
  await bed.up(3);
  for (const [host, last] of [['alpha', 1], ['beta', 2], ['gamma', 3]] as const) {
    await bed.on(host, 'ip', 'address', 'add', `fd77::${last}/64`, 'dev', 'eth0', 'nodad');
  }
  for (const address of ADDRESSES) {
    await bed.on('alpha', 'ip', 'address', 'add', address, 'dev', 'eth0', ...(address.includes(':') ? ['nodad'] : []));
  }
  writeFileSync(bed.report('server.py'), SERVER);
  writeFileSync(bed.report('client.py'), CLIENT);
  writeFileSync(bed.report('dialer.py'), DIALER);
});
test.after.always(() => bed.down());

const plain = (address: string): string => address.replace(/\/.*/, '');
const has = async (host: string, address: string): Promise<boolean> => (await bed.on(host, 'ip', 'address')).stdout.includes(` ${address} `);
const tables = async (host: string): Promise<string> => (await bed.on(host, 'nft', 'list', 'tables')).stdout;

/** Exactly one of the hosts has the addresses, and no packet is dropped any more. */
async function settled(host: string): Promise<boolean> {
  for (const address of ADDRESSES) {
    for (const other of ['alpha', 'beta']) {
      if ((await has(other, address)) !== (other === host)) {
        return false;
      }
    }
  }
  return !/phaul/.test((await tables('alpha')) + (await tables('beta')));
}

async function startClients(): Promise<{ name: string; pid: number }[]> {
  return Promise.all(
    [...ADDRESSES, ...ADDRESSES].map(async (address, i) => {
      const name = `client${i}`;
      const pid = await bed.start('gamma', 'python3', bed.report('client.py'), plain(address), bed.report(name));
      await bed.hear(name, 'ready');
      return { name, pid };
    }),
  );
}

async function endClients(clients: { name: string; pid: number }[]): Promise<{ n: number; problem: string }[]> {
  return Promise.all(
    clients.map(async ({ name, pid }) => {
      await bed.on('gamma', 'kill', '-TERM', String(pid));
      await bed.hear(name, '{');
      return JSON.parse(readFileSync(bed.report(name), 'utf8')) as { n: number; problem: string };
    }),
  );
}

test.serial('clients of a server that moves there and back with its addresses lose nothing', async (t) => {
  const pid = await bed.start('alpha', 'python3', bed.report('server.py'), ...ADDRESSES.map(plain));
  await sleep(500);
  const clients = await startClients();
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to, ...moveIps);
    t.is(exitCode, 0, stderr);
    t.true(await settled(to));
    await sleep(300);
  }
  const mss = (await bed.on('alpha', 'ss', '-tni', 'sport', '=', ':7000')).stdout;
  t.regex(mss, /mss:1448/, 'segments are as large as before');
  for (const { n, problem } of await endClients(clients)) {
    t.is(problem, '');
    t.true(n > 10);
  }
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

for (const fault of ['source:before-commit:error', 'source:before-commit:kill', 'source:frozen:kill', 'target:built:kill', 'target:built:error', 'target:commit-received:kill']) {
  test.serial(`after ${fault} the address and the connections are where they were`, async (t) => {
    const pid = await bed.start('alpha', 'python3', bed.report('server.py'), ...ADDRESSES.map(plain));
    await sleep(500);
    const clients = await startClients();
    const agent = fault.startsWith('target') ? await bed.agentWithFault('beta', fault) : undefined;
    const { exitCode } = await bed.on('alpha', 'env', `PHAUL_FAULT=${fault}`, 'phaul', 'migrate', String(pid), 'root@beta', ...moveIps);
    t.true(exitCode !== 0);
    if (agent !== undefined) {
      await bed.on('beta', 'kill', '-TERM', String(agent));
    }
    // A target that holds the process is told by the next migration, or ends with its agent.
    const again = await bed.migrate('alpha', pid, 'beta', ...moveIps);
    t.is(again.exitCode, 0, again.stderr);
    t.true(await settled('beta'));
    const back = await bed.migrate('beta', pid, 'alpha', ...moveIps);
    t.is(back.exitCode, 0, back.stderr);
    t.true(await settled('alpha'));
    for (const { problem } of await endClients(clients)) {
      t.is(problem, '');
    }
    await bed.on('alpha', 'kill', '-KILL', String(pid));
  });
}

const IN_DOUBT: [fault: string, where: 'alpha' | 'beta'][] = [['source:promising:kill', 'alpha'], ['source:waiting:kill', 'beta'], ['source:after-commit:kill', 'beta']];

for (const [fault, where] of IN_DOUBT) {
  test.serial(`after ${fault}, phaul resolve lets the connections live on ${where}`, async (t) => {
    const pid = await bed.start('alpha', 'python3', bed.report('server.py'), ...ADDRESSES.map(plain));
    await sleep(500);
    const clients = await startClients();
    await bed.on('alpha', 'env', `PHAUL_FAULT=${fault}`, 'phaul', 'migrate', String(pid), 'root@beta', ...moveIps);
    const { exitCode, text } = await bed.resolve(pid);
    t.is(exitCode, 0, text);
    t.true(await settled(where), text);
    await sleep(500);
    if (where === 'beta') {
      const back = await bed.migrate('beta', pid, 'alpha', ...moveIps);
      t.is(back.exitCode, 0, back.stderr);
    }
    for (const { n, problem } of await endClients(clients)) {
      t.is(problem, '');
      t.true(n > 10);
    }
    await bed.on('alpha', 'kill', '-KILL', String(pid));
  });
}

/** At the address of beta's host too, which a link that goes down would take from it. */
const CUT = 'add table inet cut; add chain inet cut in { type filter hook input priority -300; policy drop; }; add chain inet cut out { type filter hook output priority -300; policy drop; }';

const CUTS: [point: FaultPoint, cut: 'for three seconds' | 'until phaul gives up', where: ('alpha' | 'beta')[]][] = [
  ['source:frozen', 'until phaul gives up', ['alpha']],
  ['target:built', 'for three seconds', ['alpha', 'beta']],
  ['target:commit-received', 'for three seconds', ['beta']],
  ['source:after-commit', 'for three seconds', ['beta']],
];

for (const [point, cut, where] of CUTS) {
  test.serial(`a link that is cut at ${point} ${cut} leaves the address on one host, and the connections there`, async (t) => {
    const pid = await bed.start('alpha', 'python3', bed.report('server.py'), ...ADDRESSES.map(plain));
    await sleep(500);
    const clients = await startClients();
    bed.shutGate();
    const departure = await bed.departAs(`cut.${point}`, pid, point, `stall:${bed.gate}`, moveIps);
    await bed.arrived(departure);
    await bed.on('beta', 'nft', CUT);
    bed.openGate();
    await (cut === 'for three seconds' ? sleep(3_000) : departure.ending);
    const given = await has('alpha', ADDRESSES[0]!);
    await bed.on('beta', 'nft', 'delete table inet cut');
    const { exitCode, stderr } = await departure.ending;
    const host = exitCode === 0 ? 'beta' : 'alpha';
    t.true(where.includes(host) && exitCode !== 3, stderr);
    t.true(cut === 'for three seconds' || given, 'it is given back while the link is cut');
    await until('all as it is to stay', () => settled(host));
    await sleep(500);
    const back = host === 'alpha' ? undefined : await bed.migrate('beta', pid, 'alpha', ...moveIps);
    t.is(back?.exitCode ?? 0, 0, back?.stderr);
    for (const { n, problem } of await endClients(clients)) {
      t.is(problem, '');
      t.true(n > 10);
    }
    await bed.on('alpha', 'kill', '-KILL', String(pid));
  });
}

test.serial('a server that accepts connections all the time loses none that is being made', async (t) => {
  const pid = await bed.start('alpha', 'python3', bed.report('server.py'), plain(ADDRESSES[0]!));
  await sleep(500);
  const dialers = await Promise.all(
    [1, 2, 3].map(async (i) => {
      const name = `dialer${i}`;
      const dialer = await bed.start('gamma', 'python3', bed.report('dialer.py'), plain(ADDRESSES[0]!), bed.report(name));
      await bed.hear(name, 'ready');
      return { name, pid: dialer };
    }),
  );
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha'], ['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to, ...moveIps);
    t.is(exitCode, 0, stderr);
    t.true(await settled(to));
  }
  await sleep(300);
  for (const { n, problem } of await endClients(dialers)) {
    t.true(n > 10);
    t.is(problem, '0');
  }
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

test.serial("the operator's program is run at its points, and its failure leaves all as it was", async (t) => {
  const said = (): string[] => bed.lines('hook.log');
  writeFileSync(bed.report('hook'), `#!/bin/sh\necho $PHAUL_ACTION $PHAUL_PID $PHAUL_TARGET >>${bed.report('hook.log')}\n[ $PHAUL_ACTION != "$(cat ${bed.report('hook.fails')})" ] || { echo no such address >&2; exit 3; }\n`, { mode: 0o755 });
  const pid = await bed.start('alpha', 'python3', bed.report('server.py'), plain(ADDRESSES[0]!));
  await sleep(500);
  const clients = [{ name: 'hooked', pid: await bed.start('gamma', 'python3', bed.report('client.py'), plain(ADDRESSES[0]!), bed.report('hooked')) }];
  await bed.hear('hooked', 'ready');
  const move = async (fails: string, ...route: ['alpha' | 'beta', 'alpha' | 'beta']) => {
    writeFileSync(bed.report('hook.fails'), fails);
    writeFileSync(bed.report('hook.log'), '');
    return bed.migrate(route[0], pid, route[1], '--hook', bed.report('hook'), ...moveIps);
  };
  const first = await move('pre-dump', 'alpha', 'beta');
  t.is(first.done.error?.code, 'ERR_HOOK');
  t.regex(first.stderr, /The hook .*\/hook on alpha failed at pre-dump: it ended with 3, and said: no such address/);
  t.deepEqual(said(), [`pre-dump ${pid} beta`]);
  const second = await move('network-lock', 'alpha', 'beta');
  t.is(second.exitCode, 1);
  t.deepEqual(said(), [`pre-dump ${pid} beta`, `network-lock ${pid} beta`, `network-unlock ${pid} beta`]);
  t.true(await settled('alpha'));
  for (const [fails, from, to] of [['post-resume', 'alpha', 'beta'], ['', 'beta', 'alpha']] as const) {
    const moved = await move(fails, from, to);
    t.is(moved.exitCode, 0, moved.stderr);
    t.deepEqual(said(), [`pre-dump ${pid} ${to}`, `network-lock ${pid} ${to}`, `post-resume ${pid} ${to}`]);
  }
  const absent = await bed.migrate('alpha', pid, 'beta', '--hook', bed.report('no-hook'));
  t.is(absent.exitCode, 2);
  t.regex(absent.stderr, /no-hook is no program that can be run/);
  t.is((await endClients(clients))[0]?.problem, '');
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});

test.serial('what keeps an address from moving is said, and changes nothing', async (t) => {
  const pid = await bed.start('alpha', 'python3', bed.report('server.py'), plain(ADDRESSES[0]!));
  await sleep(500);
  const clients = await bed.start('gamma', 'python3', bed.report('client.py'), plain(ADDRESSES[0]!), bed.report('refused'));
  await bed.hear('refused', 'ready');
  const stays = await bed.migrate('alpha', pid, 'beta');
  t.is(stays.exitCode, 1);
  t.regex(stays.stderr, /has TCP connections at 10\.77\.0\.100, and beta has no such address.*--move-ip 10\.77\.0\.100\/PREFIX/);
  const refused = await bed.migrate('alpha', pid, 'beta', '--tcp', 'refuse');
  t.regex(refused.stderr, /is a TCP connection 10\.77\.0\.100:7000 <-> 10\.77\.0\.3:\d+, which is not to be moved/);
  const absent = await bed.migrate('alpha', pid, 'beta', '--move-ip', '10.77.0.101/24');
  t.is(absent.exitCode, 2);
  t.regex(absent.stderr, /alpha has no address 10\.77\.0\.101\/24 to move; it has .*10\.77\.0\.1\/24 on eth0/);
  await bed.on('alpha', 'sysctl', '-q', 'net.ipv4.conf.eth0.promote_secondaries=0');
  const first = await bed.migrate('alpha', pid, 'beta', '--move-ip', '10.77.0.1/24');
  t.is(first.exitCode, 2);
  t.regex(first.stderr, /10\.77\.0\.1 is the first address of its network on eth0 of alpha, and would take 10\.77\.0\.100\/24 off with it: run "sysctl net\.ipv4\.conf\.eth0\.promote_secondaries=1" first/);
  const device = await bed.migrate('alpha', pid, 'beta', '--move-ip', '10.77.0.100/24@eth0:eth7');
  t.regex(device.stderr, /is to be put on eth7, which beta does not have; it has .*eth0/);
  const malformed = await bed.migrate('alpha', pid, 'beta', '--move-ip', '10.77.0.100');
  t.is(malformed.exitCode, 2);
  t.true(await settled('alpha'));
  t.is((await endClients([{ name: 'refused', pid: clients }]))[0]?.problem, '');
  await bed.on('alpha', 'kill', '-KILL', String(pid));
});
