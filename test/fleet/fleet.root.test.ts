/** The Ansible collection against four hosts over ssh: twelve services of one of them go to the others, by Debian's own ansible. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { FleetBed, PYTHON, STUBBORN, type Service } from './services.ts';

const missing = ['ansible-playbook', 'ansible-lint', 'redis-server', 'nginx'].filter((name) => !(process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, name))));
const run = missing.length === 0 ? test.serial : test.serial.skip;
const title = (text: string): string => (missing.length === 0 ? text : `${text} (${missing.join(', ')} not installed: "npm run test:fleet" brings it)`);

const bed = new FleetBed('fleet-test', 'beta');
const collections = bed.report('collections');
const COLLECTION = join(process.cwd(), 'ansible');

/** The controller is on alpha, and what it drains on beta. */
const CONTROLLER = 'alpha';
const DRAINED = bed.home;
const ADDRESSES: Record<string, string> = { alpha: '10.77.0.1', beta: '10.77.0.2', gamma: '10.77.0.3', delta: '10.77.0.4' };

const services: Service[] = [];
let stubborn = 0;

test.before(async (t) => {
  t.timeout(600_000);
  if (missing.length > 0) {
    return;
  }
  await bed.up(4);
  const target = join(collections, 'ansible_collections/phaul');
  mkdirSync(target, { recursive: true });
  execFileSync('cp', ['-r', COLLECTION, join(target, 'fleet')]);
  writeFileSync(bed.report('ansible.cfg'), `[defaults]\ninventory = ${bed.report('inventory')}\ncollections_path = ${collections}\ninterpreter_python = /usr/bin/python3\nretry_files_enabled = false\nlocal_tmp = ${bed.report('tmp')}\nremote_tmp = ${bed.report('remote')}\nnocows = true\n[ssh_connection]\ncontrol_path_dir = ${bed.report('cp')}\n`);
  writeFileSync(bed.report('inventory'), Object.entries(ADDRESSES).map(([name, address]) => `${name} ansible_host=${address} ansible_user=root\n`).join(''));
  for (const number of [0, 1, 2]) {
    services.push(await bed.redis(number), await bed.nginx(number), await bed.node(number), await bed.python(number));
  }
  stubborn = await bed.start(DRAINED, '/usr/bin/python3', bed.script('stubborn.py', STUBBORN), 'service-stubborn');
});
test.after.always(() => bed.down());

const ansible = (...words: string[]) => bed.on(CONTROLLER, 'env', `ANSIBLE_CONFIG=${bed.report('ansible.cfg')}`, 'ANSIBLE_FORCE_COLOR=false', 'HOME=/root', ...words);
const module = (host: string, name: string, args: object, ...words: string[]) => ansible('ansible', host, '-m', `phaul.fleet.${name}`, '-a', JSON.stringify(args), ...words);
const MATCH = ['^redis-server', '^nginx: master', 'service-'];
const playbook = (name: string, variables: object, ...words: string[]) => ansible('ansible-playbook', `phaul.fleet.${name}`, '-e', JSON.stringify(variables), ...words);

async function whereIs(pid: number): Promise<string[]> {
  const found = await Promise.all(Object.keys(ADDRESSES).map(async (host) => ((await bed.alive(host, pid)) ? [host] : [])));
  return found.flat();
}

/** Of the recap's line of a host. */
const changed = (stdout: string, host: string): number => Number(new RegExp(`^${host} .*changed=(\\d+)`, 'm').exec(stdout)?.[1]);

run(title('check mode asks whether all could be moved, and moves nothing'), async (t) => {
  t.timeout(600_000);
  const { exitCode, stdout } = await playbook('drain', { drain: DRAINED, to: 'gamma:delta', match: MATCH }, '--check');
  t.is(exitCode, 0, stdout.slice(-3000));
  t.is([...stdout.matchAll(/would move: /g)].length, services.length, stdout);
  for (const { pid } of services) {
    t.deepEqual(await whereIs(pid), [DRAINED]);
  }
});

run(title('drain.yml empties a host: all that can move answers on its new host, and what cannot is told and left alone'), async (t) => {
  t.timeout(900_000);
  const { exitCode, stdout } = await playbook('drain', { drain: DRAINED, to: 'all', match: MATCH });
  t.is(exitCode, 2, stdout.slice(-3000));
  t.regex(stdout, /beta: 12 moved, 1 stay/);
  t.regex(stdout, new RegExp(`stays: .*pid ${stubborn}\\), .*traced`));
  const places = new Map<string, number>();
  for (const { name, pid, answer, expected } of services) {
    const [host = 'nowhere', ...others] = await whereIs(pid);
    t.deepEqual(others, [], `${name} is in one place`);
    t.not(host, DRAINED, name);
    t.is(await answer(host), expected, `${name} on ${host}`);
    places.set(host, (places.get(host) ?? 0) + 1);
  }
  t.is(places.size, 3, 'all targets were used');
  t.deepEqual(await whereIs(stubborn), [DRAINED]);
});

run(title('a second run of drain.yml changes nothing'), async (t) => {
  t.timeout(600_000);
  const { exitCode, stdout } = await playbook('drain', { drain: DRAINED, to: 'all', match: MATCH, leftovers: 'report' });
  t.is(exitCode, 0, stdout.slice(-3000));
  t.is(changed(stdout, DRAINED), 0);
  t.regex(stdout, /beta: 0 moved, 1 stay/);
});

run(title('migrate does nothing for a process that is there already, by pid and by match, and moves what is not'), async (t) => {
  t.timeout(600_000);
  const { pid } = services[0] ?? { pid: 0 };
  const [there = ''] = await whereIs(pid);
  const to = `root@${ADDRESSES[there] ?? ''}`;
  for (const subject of [{ pid }, { match: '^redis-server .*:6400' }]) {
    const { stdout } = await module(DRAINED, 'migrate', { ...subject, to });
    t.regex(stdout, /"changed": false/, stdout);
    t.regex(stdout, /"outcome": "there"/);
  }
  const back = `root@${ADDRESSES[DRAINED] ?? ''}`;
  const dry = await module(there, 'migrate', { match: '^redis-server .*:6400', to: back }, '--check');
  t.regex(dry.stdout, /"outcome": "movable"/, dry.stdout);
  t.deepEqual(await whereIs(pid), [there]);
  const moved = await module(there, 'migrate', { match: '^redis-server .*:6400', to: back });
  t.regex(moved.stdout, /"outcome": "moved"/, moved.stdout);
  t.regex(moved.stdout, /"downtimeMs": [\d.]+/);
  t.deepEqual(await whereIs(pid), [DRAINED]);
  const nowhere = await module(there, 'migrate', { match: 'no-such-program', to: back });
  t.regex(nowhere.stdout, /No process matches 'no-such-program', neither here nor on/);
  const many = await module(DRAINED, 'migrate', { match: '^redis-server|service-', to });
  t.regex(many.stdout, /processes match .* one is to be moved/);
});

run(title('drain.yml ends with the first process of which nobody knows where it is, and tells of all'), async (t) => {
  t.timeout(600_000);
  const pids: number[] = [];
  for (const name of ['one', 'two', 'three']) {
    pids.push(await bed.start(DRAINED, '/usr/bin/python3', bed.script('sleeper.py', 'import time\nwhile True: time.sleep(0.1)\n'), `sleeper-${name}`));
  }
  await bed.agentWithFault('gamma', 'target:releasing:kill');
  const { exitCode, stdout } = await playbook('drain', { drain: DRAINED, to: 'gamma', match: ['sleeper-'], phaul_stdio: 'null' });
  t.not(exitCode, 0, stdout.slice(-3000));
  t.regex(stdout, /"beta: 0 moved, 0 stay"/, stdout.slice(-3000));
  const unknown = Number(/unknown: python3 \(pid (\d+)\), .*phaul resolve/.exec(stdout)?.[1]);
  t.true(pids.includes(unknown), stdout.slice(-3000));
  for (const pid of pids.filter((one) => one !== unknown)) {
    t.deepEqual(await whereIs(pid), [DRAINED]);
    t.notRegex(await bed.status(DRAINED, pid), /State:\s+[Tt]/);
  }
  for (const pid of pids) {
    await bed.on(DRAINED, 'kill', '-9', String(pid));
  }
});

run(title('migrate takes a process to a host that has its pid taken and none of its files, and finds it there the second time'), async (t) => {
  t.timeout(600_000);
  const home = '/run/fleet-app';
  await bed.on(DRAINED, 'bash', '-c', `mkdir ${home} && cp ${bed.script('service.py', PYTHON)} ${home}/app.py && cp -L /usr/bin/python3 ${home}/`);
  const pid = await bed.start(DRAINED, 'env', 'PYTHONHOME=/usr', `${home}/python3`, `${home}/app.py`, 'app-with-files', '8700');
  await bed.answers(DRAINED, 8700);
  await bed.on('gamma', 'bash', '-c', `echo ${pid - 1} >/proc/sys/kernel/ns_last_pid; sleep 600 </dev/null >/dev/null 2>&1 & [ $! = ${pid} ]`);
  const to = `root@${ADDRESSES['gamma'] ?? ''}`;
  const refused = await module(DRAINED, 'check', { pid, to });
  t.regex(refused.stdout, /"movable": false/, refused.stdout);
  t.regex(refused.stdout, /FILE_MISSING/);
  t.regex(refused.stdout, /PID_TAKEN/);
  const place = { files: 'copy', pid_namespace: 'new', stdio: 'null', cpu_check: 'used', bandwidth: '100M', freeze_timeout: 20_000 };
  const { bandwidth: _, freeze_timeout: __, ...asked } = place;
  t.regex((await module(DRAINED, 'check', { pid, to, ...asked })).stdout, /"movable": true/);
  const first = await module(DRAINED, 'migrate', { pid, to, ...place, report_file: bed.report('report.html') });
  t.regex(first.stdout, /"outcome": "moved"/, first.stdout);
  t.true(existsSync(bed.report('report.html')));
  t.is(await bed.curl('gamma', 8700), 'python 1');
  t.regex((await module(DRAINED, 'migrate', { pid, to, ...place })).stdout, /"outcome": "there"/);
  await bed.on('gamma', 'bash', '-c', `kill -9 ${pid} $(pgrep -f '[a]pp-with-files')`);
});

run(title('check and processes tell what moves, and why something does not'), async (t) => {
  const answer = await module(DRAINED, 'check', { pid: stubborn });
  t.regex(answer.stdout, /"movable": false/, answer.stdout);
  t.regex(answer.stdout, /traced/);
  const listed = await module(DRAINED, 'processes', { match: ['^redis-server', 'service-'] });
  t.regex(listed.stdout, /"name": "redis-server"/, listed.stdout);
  t.regex(listed.stdout, /"movable": true/);
  t.regex(listed.stdout, new RegExp(`"pid": ${stubborn}`));
});

run(title('balance.yml gives each host a share, and a second run changes nothing'), async (t) => {
  t.timeout(900_000);
  const variables = { hosts: 'all', match: ['service-node', 'service-python'], threshold: 0.5, minimum: 0 };
  // All on one host, first.
  for (const { name, pid } of services.filter((one) => /node|python/.test(one.name))) {
    const [host = ''] = await whereIs(pid);
    if (host !== 'gamma') {
      t.is((await bed.migrate(host, pid, 'gamma')).exitCode, 0, name);
    }
  }
  const first = await playbook('balance', variables);
  t.is(first.exitCode, 0, first.stdout.slice(-3000));
  const hosts = new Set<string>();
  for (const { name, pid, answer, expected } of services.filter((one) => /node|python/.test(one.name))) {
    const [host = 'nowhere'] = await whereIs(pid);
    hosts.add(host);
    t.is((await answer(host)).split(' ')[0], expected.split(' ')[0], name);
  }
  t.is(hosts.size, 4, [...hosts].join());
  const second = await playbook('balance', variables);
  t.regex(second.stdout, /gamma: 0 moved/, second.stdout.slice(-2000));
});

run(title('the role makes keys between hosts, writes the configuration, and changes nothing the second time'), async (t) => {
  t.timeout(600_000);
  writeFileSync(
    bed.report('agent.yml'),
    `- hosts: gamma,delta
  roles:
    - role: phaul.fleet.agent
      vars: { phaul_package: none, phaul_config: { migrate: { max-downtime: 77, tcp: established } } }
`,
  );
  // Each host has a folder of its own here, and no way into the others.
  for (const host of ['gamma', 'delta']) {
    await bed.on(host, 'bash', '-c', `mkdir -p /run/etc-phaul /etc/phaul && mount --bind /run/etc-phaul /etc/phaul && grep root@alpha /root/.ssh/authorized_keys >/root/.ssh/one && cat /root/.ssh/one >/root/.ssh/authorized_keys && : >/root/.ssh/known_hosts`);
  }
  t.not((await bed.on('gamma', 'ssh', '-o', 'BatchMode=yes', ADDRESSES['delta'] ?? '', 'true')).exitCode, 0);
  const first = await ansible('ansible-playbook', bed.report('agent.yml'));
  t.is(first.exitCode, 0, first.stdout.slice(-3000));
  t.is((await bed.on('gamma', 'ssh', '-o', 'BatchMode=yes', ADDRESSES['delta'] ?? '', 'true')).exitCode, 0);
  t.regex((await bed.on('delta', 'phaul', 'migrate', '--help')).stdout, /default: 77 in\s+\/etc\/phaul\/phaul.toml/);
  const second = await ansible('ansible-playbook', bed.report('agent.yml'));
  t.is(second.exitCode, 0, second.stdout.slice(-3000));
  t.is(changed(second.stdout, 'gamma') + changed(second.stdout, 'delta'), 0, second.stdout);
});

run(title('the collection follows the conventions: it builds, its documentation renders, and the lint finds nothing'), async (t) => {
  t.timeout(600_000);
  t.is((await ansible('ansible-galaxy', 'collection', 'build', COLLECTION, '--output-path', bed.report('built'))).exitCode, 0);
  for (const name of readdirSync(join(COLLECTION, 'plugins/modules')).map((file) => file.replace('.py', ''))) {
    const { exitCode, stdout, stderr } = await ansible('ansible-doc', '-t', 'module', `phaul.fleet.${name}`);
    t.is(exitCode, 0, stderr);
    t.regex(stdout, /RETURN VALUES/);
    t.notRegex(stdout, /\b(O|V|RV)\(/, 'markup that this ansible does not know');
  }
  for (const [kind, name] of [['filter', 'spread'], ['filter', 'balance'], ['role', 'agent']] as const) {
    t.regex((await ansible('ansible-doc', '-t', kind, `phaul.fleet.${name}`)).stdout, /OPTIONS/);
  }
  for (const name of ['check', 'migrate']) {
    const help = (await bed.on(CONTROLLER, 'phaul', name, '--help')).stdout;
    const { options } = (JSON.parse((await ansible('ansible-doc', '-t', 'module', '-j', `phaul.fleet.${name}`)).stdout) as Record<string, { doc: { options: object } }>)[`phaul.fleet.${name}`]?.doc ?? { options: {} };
    const flags = [...help.matchAll(/^ +(?:-\w, )?--([a-z-]+)/gm)].map(([, flag = '']) => flag.replaceAll('-', '_')).filter((flag) => !['help', 'json', 'verbose'].includes(flag));
    t.true(flags.length > 8);
    t.deepEqual(flags.filter((flag) => !Object.keys(options).includes(flag === 'report' ? 'report_file' : flag)), [], `phaul ${name} can do what the module can't`);
  }
  const lint = await bed.on(CONTROLLER, 'bash', '-c', `cd ${join(collections, 'ansible_collections/phaul/fleet')} && ANSIBLE_COLLECTIONS_PATH=${collections} ansible-lint --offline -q 2>&1`);
  t.is(lint.exitCode, 0, lint.stdout.slice(-3000));
});
