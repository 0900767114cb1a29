import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createProgram } from '../../src/cli/program.ts';

const silent = { write: () => {}, isTTY: false, columns: 80 };
const { commands } = createProgram({ stdout: silent, stderr: silent });
const BASH_COMPLETION = '/usr/share/bash-completion/bash_completion';

const generated = (shell: string): string => spawnSync(process.execPath, [join(import.meta.dirname, '../../scripts/completion.ts'), shell], { encoding: 'utf8' }).stdout;
const bash = generated('bash');

/** What bash offers for the last word. */
function offered(...words: string[]): string[] {
  const script = `source ${BASH_COMPLETION}; ${bash}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=\${#COMP_LINE}
_phaul; printf '%s\\n' "\${COMPREPLY[@]}"`;
  return spawnSync('bash', ['-c', script, 'bash', ...words], { encoding: 'utf8' }).stdout.trim().split('\n');
}

test('every command and option is in both completions, and the shells can read them', (t) => {
  for (const [shell, text] of [['bash', bash], ['zsh', generated('zsh')]] as const) {
    for (const command of commands) {
      t.true(text.includes(command.name()), `${shell} ${command.name()}`);
      for (const { long } of command.options) {
        t.true(text.includes(long ?? ''), `${shell} ${command.name()} ${long}`);
      }
    }
    const { status, stderr, error } = spawnSync(shell, ['-n'], { input: text, encoding: 'utf8' });
    if (error === undefined) {
      t.is(status, 0, stderr);
    } else {
      t.log(`${shell} isn't here to read its completion`);
    }
  }
});

(existsSync(BASH_COMPLETION) ? test : test.skip)('bash offers commands, options of the command, their words, and pids (skipped without the package bash-completion)', (t) => {
  t.deepEqual(offered('phaul', 'mi'), ['migrate']);
  t.deepEqual(offered('phaul', 'migrate', '--max'), ['--max-downtime']);
  t.deepEqual(offered('phaul', 'migrate', '4242', '--tcp', ''), ['established', 'close', 'refuse']);
  t.deepEqual(offered('phaul', 'dump', '--max'), ['']);
  t.true(offered('phaul', 'check', '--tcp', 'close', '').includes(String(process.pid)));
});
