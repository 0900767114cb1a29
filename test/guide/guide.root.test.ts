/** Each command of docs/guide.md does what is written there, in its order. */
import { readFileSync } from 'node:fs';
import test from 'ava';
import { Bed, CLOSE_ALL } from '../moves/bed.ts';

const bed = new Bed('guide-test');
const MINUTES_MAX = 10;

interface Command {
  host: string;
  line: string;
  exitCode: number;
}

const guide = readFileSync(new URL('../../docs/guide.md', import.meta.url), 'utf8');
const commands = [...guide.matchAll(/^```console\n([^]*?)^```$/gm)].flatMap(([, block = '']) => block.trim().split('\n')).map((text): Command => {
  const [, host = '', line = '', code] = /^(\w+)# (.*?)(?: +# exits with (\d))?$/.exec(text) ?? [];
  return { host, line, exitCode: Number(code ?? 0) };
});

test.before(() => bed.up());
test.after.always(() => bed.down());

test.serial('every command of the guide works as it is written', async (t) => {
  t.timeout(MINUTES_MAX * 60_000);
  t.true(commands.length > 20);
  for (const { host, line, exitCode } of commands) {
    t.regex(host, /^(alpha|beta)$/, line);
    const { exitCode: found, stdout, stderr } = await bed.on(host, 'bash', '-c', `${CLOSE_ALL}\n${line}`);
    t.is(found, exitCode, `${host}# ${line}\n${stdout}${stderr}`);
    if (line.includes('get greeting')) {
      t.is(stdout.trim(), 'hello');
    }
  }
});
