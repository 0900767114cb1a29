/** The two hosts of npm run bench, and the programs that are moved between them. */
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { $ as shell } from 'zx';

const WAIT_MS = 120_000;
const CLOSE_ALL = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done';
export const $ = shell({ quiet: true, nothrow: true, env: { ...process.env, PHAUL_TWO_HOSTS: 'bench' } });
export const on = (host: string, ...command: string[]) => $`scripts/two-hosts exec ${host} -- ${command}`;
export const directory = mkdtempSync(join(tmpdir(), 'phaul-bench-'));

/** What moves: starts on alpha, may be told to run anywhere. */
export class Victim {
  static #count = 0;
  readonly #report = join(directory, `report.${++Victim.#count}`);
  pid = '';
  #pidHere = 0;

  async start(...numbers: number[]): Promise<void> {
    await this.startAs('static_writer', ...numbers);
  }

  async startAs(name: string, ...numbers: number[]): Promise<void> {
    const command = [join(process.cwd(), 'build/victims', name), this.#report, ...numbers.map(String)];
    this.pid = (await on('alpha', 'bash', '-c', `${CLOSE_ALL}; exec setsid "$@" </dev/null >/dev/null 2>&1 & printf $!`, 'bash', ...command)).stdout;
    await this.hear('ready');
    this.#pidHere = Number(
      readdirSync('/proc').find((pid) => {
        try {
          return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(this.#report) && new RegExp(`^NSpid:.*\\t${this.pid}$`, 'm').test(readFileSync(`/proc/${pid}/status`, 'utf8'));
        } catch {
          return false;
        }
      }),
    );
  }

  /** From here on the largest gap counts. No program is started for it, which would take a CPU from the victim. */
  mark(): void {
    process.kill(this.#pidHere, 'SIGUSR1');
  }

  /** Numbers of the line that begins so, the nth of them. */
  async hear(word: string, nth = 1): Promise<number[]> {
    for (const deadline = Date.now() + WAIT_MS; Date.now() < deadline; await sleep(10)) {
      const lines = existsSync(this.#report) ? readFileSync(this.#report, 'utf8').trim().split('\n') : [];
      const line = lines.filter((some) => some.startsWith(word))[nth - 1];
      if (line !== undefined) {
        return line.split(' ').slice(1).map(Number);
      }
      const failure = lines.find((some) => some.startsWith('failed'));
      if (failure !== undefined) {
        throw new Error(`the victim ${failure}`);
      }
    }
    throw new Error(`the victim did not report "${word}"`);
  }

  signal(host: string, name: string) {
    return on(host, 'kill', `-${name}`, this.pid);
  }

  /** After it has moved. */
  async largestGapMs(nth = 1): Promise<number> {
    await this.signal('beta', 'USR2');
    const [gap = NaN] = await this.hear('gap', nth);
    await this.signal('beta', 'TERM');
    await this.hear('ok');
    return gap;
  }

  async end(): Promise<void> {
    await Promise.all(['alpha', 'beta'].map((host) => this.signal(host, 'KILL')));
  }
}
