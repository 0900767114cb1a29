import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { configure } from '../../src/cli/config.ts';
import { createProgram } from '../../src/cli/program.ts';
import { PhaulError } from '../../src/errors.ts';

const silent = { write: () => {}, isTTY: false, columns: 80 };
const folder = mkdtempSync(join(tmpdir(), 'phaul-config-'));
let files = 0;

function file(text: string): string {
  const path = join(folder, `${files++}.toml`);
  writeFileSync(path, text);
  return path;
}

function configured(text: string) {
  const program = createProgram({ stdout: silent, stderr: silent });
  configure(program.commands, file(text));
  return program;
}

const values = (text: string): Record<string, object> => Object.fromEntries(configured(text).commands.map((command) => [command.name(), command.opts()]));

test('a file changes defaults, which the help shows and the command line overrides', (t) => {
  const path = file('[migrate]\nmax-downtime = 50\nverify = true\nmove-ip = ["10.0.0.7/24", "10.0.0.8/24"]\n[agent]\nsocket = "/run/other.sock"\n');
  const run = (...words: string[]): string => spawnSync(process.execPath, [join(import.meta.dirname, '../../src/cli.ts'), ...words], { encoding: 'utf8', env: { ...process.env, PHAUL_CONFIG: path } }).stdout;
  t.regex(run('migrate', '--help').replaceAll(/\s+/g, ' '), /--max-downtime .* \(default: 50 in [^ ]*toml\)/);
  t.regex(run('agent', '--help').replaceAll(/\s+/g, ' '), /--socket .* \(default: \/run\/other.sock in /);
  const { migrate } = values(readFileSync(path, 'utf8')) as { migrate: Record<string, unknown> };
  t.is(migrate['maxDowntime'], 50);
  t.is(migrate['verify'], true);
  t.is((migrate['moveIp'] as unknown[]).length, 2);
});

test('an agent with a socket in its configuration still serves on stdin and stdout', async (t) => {
  const program = configured('[agent]\nsocket = "/run/other.sock"\n');
  const agent = program.commands.find((command) => command.name() === 'agent');
  let asked: unknown;
  agent?.action((flags: unknown) => {
    asked = flags;
  });
  await program.parseAsync(['agent', '--stdio'], { from: 'user' });
  t.like(asked, { stdio: true });
});

const WRONG: [text: string, sentence: RegExp][] = [
  ['[migrate]\nmax-downtime = 0\n', /is wrong: --max-downtime takes a whole number from 1 to 3600000, not "0"/],
  ['[migrate]\nmax_downtime = 50\n', /has "max_downtime" in \[migrate\], which may have .*max-downtime/],
  ['[migrate]\nverify = "yes"\n', /has "yes" for "verify", which is true or false/],
  ['[migrate]\nstreams = {}\n', /has \{\} for "streams", which takes a number or a string/],
  ['[migrate]\njson = true\n', /has "json" in \[migrate\]/],
  ['[agent]\nown-unit = false\n', /has "own-unit" in \[agent\]/],
  ['[move]\n', /has \[move\], but phaul has no such command/],
  ['migrate = 1\n', /has "migrate" outside of a table/],
  ['[migrate]\nstreams = \n', /is no TOML at line 2/],
];

for (const [text, sentence] of WRONG) {
  test(`what no option understands is an error that names it: ${text.trim().replace('\n', ' ')}`, (t) => {
    const error = t.throws(() => configured(text), { instanceOf: PhaulError });
    t.regex(error?.message ?? '', sentence);
    t.is(error?.exitCode, 2);
  });
}

test('no file is no error, one that cannot be read is', (t) => {
  t.notThrows(() => configure([], join(folder, 'absent.toml')));
  t.throws(() => configure([], folder), { message: /can't be read/ });
});

/** Of one call, not of a host. */
const PER_CALL = ['json', 'stdio', 'no-own-unit', 'all', 'keep', 'tree', 'images-dir', 'prev-images-dir', 'page-server', 'as-service', 'report'];
/** How to get to the other host, for migrate. */
const EXPLAINED_ONCE = ['identity', 'ssh-config', 'accept-new-host-key'];

test('the file of the package explains each option, and its defaults are those of phaul', (t) => {
  const text = readFileSync(join(import.meta.dirname, '../../debian/phaul.toml'), 'utf8');
  const uncommented = text.replaceAll(/^#(?=[a-z-]+ = )/gm, '');
  t.not(uncommented, text);
  const defaults = values('');
  t.deepEqual(values(text), defaults);
  const shown = values(uncommented);
  for (const command of Object.keys(defaults)) {
    // An empty list is what an option is that may be given more than once and isn't.
    t.deepEqual(Object.fromEntries(Object.entries(shown[command] ?? {}).filter(([, value]) => value !== undefined)), defaults[command], command);
  }
  const tables = uncommented.split(/^(?=\[)/m);
  for (const command of configured('').commands) {
    const table = tables.find((one) => one.startsWith(`[${command.name()}]`)) ?? '';
    const operators = command.options.map(({ long }) => long?.slice(2) ?? '').filter((name) => !PER_CALL.includes(name) && (command.name() === 'migrate' || !EXPLAINED_ONCE.includes(name)));
    for (const name of operators) {
      t.regex(table, new RegExp(`^(#   )?${name} = `, 'm'), `${command.name()} ${name}`);
    }
  }
});
