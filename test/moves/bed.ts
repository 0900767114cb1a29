/** Two hosts for one test file, and programs in them that hold nothing of the test's own. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { $ as shell } from 'zx';
import type { DoneEvent } from '../../src/events.ts';

/** For bash: what the test itself has open is nobody's to move. */
export const CLOSE_ALL = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done';
const WAIT_MS = 60_000;

/** io_uring_setup fails with EPERM in what it runs. */
const FILTER = `
import ctypes, os, struct, sys
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *i) for i in [(0x20, 0, 0, 0), (0x15, 0, 1, 425), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program)):
    sys.exit('no filter')
os.execv(sys.argv[1], sys.argv[1:])
`;

export interface Moved {
  exitCode: number | null;
  done: DoneEvent;
  stderr: string;
}

export interface Resolved {
  id: string;
  exitCode: number | null;
  text: string;
}

export class Bed {
  readonly #shell;
  /** Of the hosts. */
  readonly set: string;
  readonly #started: number[] = [];
  readonly directory = mkdtempSync(join(tmpdir(), 'phaul-moves-'));

  /** Another checkout may be tested on this machine at the same time. */
  constructor(name: string) {
    this.set = `${name}-${basename(process.cwd())}`;
    this.#shell = shell({ nothrow: true, quiet: true, env: { ...process.env, PHAUL_TWO_HOSTS: this.set } });
  }

  /** `behindSeconds`: of the clocks of all hosts but alpha. */
  async up(hosts = 2, behindSeconds = 0): Promise<void> {
    chmodSync(this.directory, 0o755); // victims change their user
    const { exitCode, stderr } = await this.#shell`scripts/two-hosts up --hosts ${hosts} --behind ${behindSeconds}`;
    if (exitCode !== 0) {
      throw new Error(stderr);
    }
  }

  async down(): Promise<void> {
    await this.#shell`scripts/two-hosts down`;
    rmSync(this.directory, { recursive: true, force: true });
  }

  on(host: string, ...command: string[]) {
    return this.#shell`scripts/two-hosts exec ${host} -- ${command}`;
  }

  /** A program of its own session with stdio on /dev/null. */
  async start(host: string, ...command: string[]): Promise<number> {
    const { stdout } = await this.on(host, 'bash', '-c', `${CLOSE_ALL}; cd /tmp; exec setsid "$@" </dev/null >/dev/null 2>&1 & echo $!`, 'bash', ...command);
    this.#started.push(Number(stdout));
    return Number(stdout);
  }

  report(name: string): string {
    return join(this.directory, name);
  }

  lines(name: string): string[] {
    try {
      return readFileSync(this.report(name), 'utf8').trim().split('\n');
    } catch {
      return [];
    }
  }

  /** Waits until the last line of a victim's report is one of those that begin so. */
  async hear(name: string, ...words: string[]): Promise<string> {
    for (const deadline = Date.now() + WAIT_MS; Date.now() < deadline; await sleep(20)) {
      const last = this.lines(name).at(-1);
      if (last !== undefined && words.some((word) => last.startsWith(word))) {
        return last;
      }
    }
    throw new Error(`${name} reported ${JSON.stringify(this.lines(name))}, not ${words.join(' or ')}`);
  }

  protected program(victim: string): string {
    return join(process.cwd(), 'build/victims', victim);
  }

  /** A program of test/victims that is ready to be moved; its report has its name. */
  async victim(name: string, ...args: string[]): Promise<number> {
    const [program = name] = name.split('.');
    const pid = await this.start('alpha', this.program(program), this.report(name), ...args);
    await this.hear(name, 'ready', 'failed');
    return pid;
  }

  /** How the Node of these tests is started that gets no io_uring instance: by a filter of the system call. */
  nodeUnderFilter(): string[] {
    writeFileSync(this.report('filter.py'), FILTER);
    return ['python3', this.report('filter.py'), process.execPath];
  }

  /** From version 22 on, node holds io_uring instances, which can't be moved yet. */
  async nodeWithoutIoUring(): Promise<string | undefined> {
    const { stdout } = await this.on('alpha', 'bash', '-c', 'for n in $(which -a node) /usr/bin/nodejs; do [ "$($n -p "parseInt(process.versions.node) < 22" 2>/dev/null)" = true ] && echo $n; done');
    return stdout.trim().split('\n').find((path) => path !== '');
  }

  /** A service, which migrations find before they start an agent by ssh. */
  async agentWithFault(host: string, fault: string): Promise<number> {
    const agent = await this.start(host, 'env', `PHAUL_FAULT=${fault}`, 'phaul', 'agent');
    while ((await this.on(host, 'test', '-S', '/run/phaul/agent.sock')).exitCode !== 0) {
      await sleep(50);
    }
    return agent;
  }

  async migrate(from: string, pid: number, to: string, ...options: string[]): Promise<Moved> {
    const { exitCode, stdout, stderr } = await this.on(from, 'phaul', 'migrate', String(pid), `root@${to}`, '--json', ...options);
    return { exitCode, done: JSON.parse(stdout.trim().split('\n').at(-1) ?? '{}') as DoneEvent, stderr };
  }

  /** Settles the last migration of a process that has left alpha, there. */
  async resolve(pid: number, ...options: string[]): Promise<Resolved> {
    const { stdout, stderr: failure } = await this.on('alpha', 'phaul', 'status', '--all', '--json');
    const { id = '' } = stdout.trim().split('\n').map((line) => JSON.parse(line) as { id: string; side: string; pid: number }).findLast((one) => one.pid === pid && one.side === 'source') ?? {};
    const { exitCode, stdout: said, stderr } = await this.on('alpha', 'phaul', 'resolve', id, ...options);
    return { id, exitCode, text: failure + said + stderr };
  }

  async alive(host: string, pid: number): Promise<boolean> {
    return (await this.on(host, 'kill', '-0', String(pid))).exitCode === 0;
  }

  async status(host: string, pid: number): Promise<string> {
    return (await this.on(host, 'cat', `/proc/${pid}/status`)).stdout;
  }

  /** Tells a victim to check itself, and what it found. */
  async verdict(host: string, pid: number, name: string): Promise<string> {
    await this.on(host, 'kill', '-TERM', String(pid));
    return this.hear(name, 'ok', 'failed');
  }
}
