/** Files that go along with a process to a host that has others. */
import { writeFileSync } from 'node:fs';
import test from 'ava';
import { Bed } from './bed.ts';

const bed = new Bed('files-test');

/** Below a directory of each host's own. */
const HOME = '/run/app';

/** Appends to a log, writes to a mapped file with holes, and knows what must be in both; opens another log whenever it is told to. */
const PROGRAM = `
import mmap, os, signal, sys, time
home, report = sys.argv[1:]
os.chdir(home + '/state')
config = open(home + '/etc/config')
db = open(home + '/state/db', 'w+b')
db.truncate(128 << 20)
map = mmap.mmap(db.fileno(), 128 << 20)
log = open(home + '/state/log', 'a')
expected, checks, count, more = {}, 0, 0, None
def say(text):
    with open(report, 'a') as file:
        file.write(text + '\\n')
def open_more(*_):
    global more
    more = open(home + '/state/more', 'a')
    more.write('opened\\n')
    more.flush()
def check(*_):
    global checks
    checks += 1
    lines = open(home + '/state/log').read().split()
    wrong = [page for page, value in expected.items() if os.pread(db.fileno(), 8, page * 4096) != value]
    same = os.path.samestat(os.fstat(log.fileno()), os.stat(home + '/state/log')) and os.path.samestat(os.fstat(db.fileno()), os.stat(home + '/state/db'))
    good = lines == [str(i) for i in range(count)] and not wrong and same and (more is None or open(home + '/state/more').read() == 'opened\\n')
    say(f'checked {checks} {"ok" if good else "failed"} {len(lines)} lines of {count}, {len(wrong)} pages wrong, {same}')
signal.signal(signal.SIGUSR1, check)
signal.signal(signal.SIGUSR2, open_more)
say('ready')
while True:
    log.write(f'{count}\\n')
    log.flush()
    page = count * 7 % 16384
    expected[page] = (count + 1).to_bytes(8, 'big')
    map[page * 4096:page * 4096 + 8] = expected[page]
    count += 1
    time.sleep(0.002)
`;

/** Gives files attributes that programs and administrators give them, or (show) tells which all have. */
const ATTRIBUTES = `
import os, struct, sys
how, home = sys.argv[1:]
def acl(*entries):
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)
NOBODY, USER = 0xffffffff, 4711
ACL = acl((1, 6, NOBODY), (2, 4, USER), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY))
CAPABILITY = struct.pack('<IIIII', 0x02000001, 1 << 10, 0, 0, 0)
GIVEN = {'etc/config': {'user.note': b'of the administrator', 'system.posix_acl_access': ACL}, 'state': {'user.note': b'', 'system.posix_acl_default': ACL},
         'bin/python3': {'security.capability': CAPABILITY, 'trusted.origin': b'alpha'}}
for path, attributes in GIVEN.items():
    for name, value in attributes.items() if how == 'give' else []:
        os.setxattr(f'{home}/{path}', name, value)
for at, directories, files in os.walk(home):
    directories.sort()
    for path in [at] + sorted(f'{at}/{file}' for file in files):
        print(path, {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))})
`;

test.before(async () => {
  await bed.up();
  writeFileSync(bed.report('program.py'), PROGRAM);
  writeFileSync(bed.report('attributes.py'), ATTRIBUTES);
});
test.after.always(() => bed.down());

async function start(name: string): Promise<{ pid: number; home: string }> {
  const home = `${HOME}-${name}`;
  await bed.on('alpha', 'bash', '-c', `mkdir -p ${home}/bin ${home}/etc ${home}/state && cp -L /usr/bin/python3 ${home}/bin/ && chmod 750 ${home}/state && chown daemon ${home}/state && echo "for ${name}" >${home}/etc/config && chmod 4711 ${home}/etc/config`);
  const pid = await bed.start('alpha', 'env', 'PYTHONHOME=/usr', `${home}/bin/python3`, bed.report('program.py'), home, bed.report(name));
  await bed.hear(name, 'ready');
  return { pid, home };
}

async function check(host: string, pid: number, name: string, number: number): Promise<string> {
  await bed.on(host, 'kill', '-USR1', String(pid));
  return bed.hear(name, `checked ${number}`);
}

const listing = async (host: string, home: string): Promise<string> => (await bed.on(host, 'bash', '-c', `cd ${home} && find . -printf '%p %m %u %y\\n' | sort && cat etc/config`)).stdout;

const attributes = async (host: string, how: 'give' | 'show', home: string): Promise<string> => (await bed.on(host, 'python3', bed.report('attributes.py'), how, home)).stdout;

test.serial('a process takes its files along to a host that has none of them, as they are in the freeze, with what it has opened meanwhile', async (t) => {
  const { pid, home } = await start('copy');
  t.regex(await attributes('alpha', 'give', home), /posix_acl_access/);
  const refused = await bed.migrate('alpha', pid, 'beta');
  t.is(refused.exitCode, 1);
  t.true((refused.done.error?.obstacles ?? []).some(({ code }) => code === 'FILE_MISSING'));

  const asked = await bed.on('alpha', 'phaul', 'check', String(pid), 'root@beta', '--files', 'copy');
  t.regex(asked.stdout, /It can move to beta/);

  writeFileSync(bed.report('hook'), `#!/bin/sh\n[ $PHAUL_ACTION != pre-dump ] || { kill -USR2 ${pid}; sleep 0.1; }\n`, { mode: 0o755 });
  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta', '--files', 'copy', '--hook', bed.report('hook'));
  t.is(exitCode, 0, stderr);
  t.regex(await check('beta', pid, 'copy', 1), /ok/);
  const before = await listing('alpha', home);
  t.regex(before, /state\/more/);
  t.is(await listing('beta', home), before);
  t.is(await attributes('beta', 'show', home), await attributes('alpha', 'show', home));
  const { stdout: blocks } = await bed.on('beta', 'stat', '-c', '%b', `${home}/state/db`);
  t.true(Number(blocks) * 512 < 100 * 2 ** 20, 'holes stay holes');

  const differs = await bed.migrate('beta', pid, 'alpha', '--files', 'rsync');
  t.is(differs.exitCode, 1);
  t.regex(differs.done.error?.obstacles?.find(({ code }) => code === 'FILE_DIFFERS')?.sentence ?? '', /--overwrite/);
  const back = await bed.migrate('beta', pid, 'alpha', '--files', 'rsync', '--overwrite');
  t.is(back.exitCode, 0, back.stderr);
  t.regex(await check('alpha', pid, 'copy', 2), /ok/);
  await bed.on('alpha', 'kill', '-9', String(pid));
});

test.serial('what was in the place of files is there again when the move fails, and is replaced when it succeeds', async (t) => {
  const { pid, home } = await start('replaced');
  await bed.on('beta', 'bash', '-c', `mkdir -p ${home}/etc && echo old >${home}/etc/config`);
  const before = await listing('beta', home);
  const differs = await bed.migrate('alpha', pid, 'beta', '--files', 'copy');
  t.is(differs.exitCode, 1);
  t.deepEqual(differs.done.error?.obstacles?.map(({ subject }) => subject), [`file ${home}/etc/config`]);
  t.is(await listing('beta', home), before);

  writeFileSync(bed.report('late'), '#!/bin/sh\n[ $PHAUL_ACTION != network-lock ]\n', { mode: 0o755 });
  const late = await bed.migrate('alpha', pid, 'beta', '--files', 'copy', '--overwrite', '--hook', bed.report('late'));
  t.is(late.done.error?.code, 'ERR_HOOK');
  t.is(await listing('beta', home), before, 'nothing is left of it');
  t.regex(await check('alpha', pid, 'replaced', 1), /ok/);

  const { exitCode, stderr } = await bed.migrate('alpha', pid, 'beta', '--files', 'copy', '--overwrite');
  t.is(exitCode, 0, stderr);
  t.regex(await check('beta', pid, 'replaced', 2), /ok/);
  t.is(await listing('beta', home), await listing('alpha', home));
  await bed.on('beta', 'kill', '-9', String(pid));
});

test.serial('attributes that the file system there can\'t hold are named, and nothing is moved', async (t) => {
  const { pid, home } = await start('plain');
  await attributes('alpha', 'give', home);
  await bed.on('beta', 'bash', '-c', `mkdir -p ${home} && mount -t ramfs plain ${home}`);
  const { exitCode, done } = await bed.migrate('alpha', pid, 'beta', '--files', 'copy');
  t.is(exitCode, 1);
  t.regex(done.error?.message ?? '', /has the (attribute|access control list) [\w.]+, which the file system here can't hold; copy it here without that yourself/);
  t.is((await bed.on('beta', 'find', home, '-mindepth', '1')).stdout, '');
  t.regex(await check('alpha', pid, 'plain', 1), /ok/);
  await bed.on('beta', 'umount', home);
  await bed.on('alpha', 'kill', '-9', String(pid));
});

test.serial('what an agent that is killed has left of files is cleared away by the next one, and what it replaced is back', async (t) => {
  const { pid, home } = await start('killed');
  await bed.on('beta', 'bash', '-c', `mkdir -p ${home}/etc && echo old >${home}/etc/config`);
  const before = await listing('beta', home);
  const agent = await bed.agentWithFault('beta', 'target:built:kill');
  const { done } = await bed.migrate('alpha', pid, 'beta', '--files', 'copy', '--overwrite');
  t.is(done.outcome, 'failed');
  t.false(await bed.alive('beta', agent));
  const left = await listing('beta', home);
  t.regex(left, /etc\/\.phaul-/);
  t.regex(left, /state\/db/);
  await bed.on('beta', 'bash', '-c', `rm ${home}/state/log && echo "of somebody here" >${home}/state/log`);

  const differs = await bed.migrate('alpha', pid, 'beta', '--files', 'copy');
  t.deepEqual(differs.done.error?.obstacles?.map(({ subject }) => subject).toSorted(), [`file ${home}/etc/config`, `file ${home}/state/log`]);
  t.is((await bed.on('beta', 'cat', `${home}/state/log`)).stdout, 'of somebody here\n');
  await bed.on('beta', 'bash', '-c', `rm ${home}/state/log && rmdir ${home}/state`);
  t.is(await listing('beta', home), before);
  t.is((await bed.on('beta', 'bash', '-c', 'ls /var/lib/phaul/journal/*.files')).stdout, '');
  t.regex(await check('alpha', pid, 'killed', 1), /ok/);
  await bed.on('alpha', 'kill', '-9', String(pid));
});
