/** With the capabilities that docs/security.md names, and no others. */
import test, { type ExecutionContext } from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('rights-test');

test.before(async () => {
  await bed.up();
  await bed.on('alpha', 'chmod', '777', bed.directory);
});
test.after.always(() => bed.down());

const NOBODY = '65534';
const SOURCE = ['sys_ptrace', 'dac_override', 'kill', 'checkpoint_restore'];
const TARGET = ['sys_ptrace', 'dac_override', 'checkpoint_restore', 'setuid', 'setgid', 'setpcap'];

const only = (capabilities: string[]): string[] => ['setpriv', '--bounding-set', ['-all', ...capabilities.map((name) => `+${name}`)].join(',')];

/** One of an ordinary user, by phauls that have these alone. `refused`: what is said of those that are missing. */
async function moves(t: ExecutionContext, victim: string, more: string[], refused?: RegExp): Promise<void> {
  const agent = await bed.start('beta', ...only([...TARGET, ...more]), 'phaul', 'agent');
  while ((await bed.on('beta', 'sh', '-c', 'ss -lx | grep -q /run/phaul/agent.sock')).exitCode !== 0) {
    // It loads its modules.
  }
  const pid = await bed.start('alpha', 'setpriv', '--reuid', NOBODY, '--regid', NOBODY, '--clear-groups', '--bounding-set', '-all', `${process.cwd()}/build/victims/${victim}`, bed.report(victim));
  t.is(await bed.hear(victim, 'ready', 'failed'), 'ready');
  const { exitCode, stderr } = await bed.on('alpha', ...only([...SOURCE, ...more]), 'phaul', 'migrate', String(pid), 'root@beta');
  t.is(exitCode, refused === undefined ? 0 : 1, stderr);
  t.regex(stderr, refused ?? /^/);
  t.is(await bed.verdict(refused === undefined ? 'beta' : 'alpha', pid, victim), 'ok');
  await bed.on('beta', 'kill', String(agent));
  while (await bed.alive('beta', agent)) {
    // It ends.
  }
}

test.serial('a tree of an ordinary user moves with what it takes to stop, read and build it', async (t) => moves(t, 'tree', []));

test.serial('its sockets take CAP_NET_ADMIN', async (t) => moves(t, 'inet_sockets', ['net_admin']));

test.serial('its shared memory takes CAP_IPC_OWNER, and those to give files to whom they belong', async (t) => moves(t, 'sysv', ['ipc_owner', 'chown', 'fowner']));

test.serial('without CAP_IPC_OWNER that is refused by name', async (t) => moves(t, 'sysv', [], /another user: run phaul with CAP_IPC_OWNER/));
