/** Migrations in which something dies, stops or is cut at a named step, and where the process is afterwards. */
import { spawn } from 'node:child_process';
import { chmodSync, closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DoneEvent } from '../../src/events.ts';
import { FAULT_POINTS, type FaultPoint } from '../../src/fault.ts';
import { Bed } from '../moves/bed.ts';

const WAIT_MS = 60_000;
const SETTLE_MS = 15_000;

/** Where a move that succeeds doesn't come by, or where it has just been to another point. */
const ASIDE = ['source:copying', 'source:asking', 'source:recalling', 'source:thawing', 'source:returning', 'source:leaving', 'target:receiving', 'target:held', 'target:promising', 'target:discarding'];

export const sourcePoints = FAULT_POINTS.filter((point) => point.startsWith('source:') && !ASIDE.includes(point));
export const targetPoints = FAULT_POINTS.filter((point) => point.startsWith('target:') && !ASIDE.includes(point));

/** At these the source has committed, or is about to. */
const late: FaultPoint[] = ['source:waiting', 'source:after-commit', 'source:ending', 'target:ready-sent', 'target:commit-received', 'target:running', 'target:released'];
export const isLate = (point: FaultPoint): boolean => late.includes(point);

/** A migration under way. */
export interface Departure {
  point: FaultPoint;
  /** Of the victim. */
  name: string;
  pid: number;
  /** What leads phaul into alpha, in the test's pid namespace. */
  enter: number;
  ending: Promise<Ending>;
}

export interface Ending {
  exitCode: number | null;
  at: number;
  /** Undefined if phaul was killed. */
  done: DoneEvent | undefined;
  stderr: string;
}

/** held: traced, by a phaul. */
export type Place = 'runs' | 'stopped' | 'held' | 'gone';

export async function until(what: string, condition: () => boolean | Promise<boolean>, limitMs = WAIT_MS): Promise<void> {
  for (const deadline = Date.now() + limitMs; !(await condition()); await sleep(25)) {
    if (Date.now() > deadline) {
      throw new Error(`${what}: not within ${limitMs / 1000} s`);
    }
  }
}

export class FaultBed extends Bed {
  readonly #phaul: string;
  #count = 0;
  readonly #services: number[] = [];

  /** `phaul`: what both hosts have. */
  constructor(name: string, phaul = join(process.cwd(), 'bin/phaul')) {
    super(name);
    this.#phaul = phaul;
  }

  #read(name: string): string {
    return existsSync(this.report(name)) ? readFileSync(this.report(name), 'utf8') : '';
  }

  /** No other way leads to an agent that ssh starts: beta's phaul finds the next one's fault in a file. */
  override async up(hosts = 2): Promise<void> {
    await super.up(hosts);
    // An agent that has a pid which the process needs is left for another one, that has no fault.
    await this.on('beta', 'sh', '-c', 'echo 20000 >/proc/sys/kernel/ns_last_pid');
    const wrapper = `#!/bin/sh
if [ "$2" = --stdio ] && mv ${this.report('next')} ${this.report('next')}.$$ 2>/dev/null; then
	. ${this.report('next')}.$$
	exec 2>"$log.agent"
	echo $$ >"$log.agent.pid"
	export PHAUL_FAULT
fi
exec ${this.#phaul} "$@"
`;
    this.#install('alpha', `#!/bin/sh\nexec ${this.#phaul} "$@"\n`);
    this.#install('beta', wrapper);
  }

  #install(host: string, text: string): void {
    const phaul = `/run/phaul-two-hosts-${this.set}/${host}/sbin/phaul`;
    writeFileSync(`${phaul}.new`, text);
    chmodSync(`${phaul}.new`, 0o755);
    renameSync(`${phaul}.new`, phaul);
  }

  /** What stalls at the gate stands still while it is shut. */
  get gate(): string {
    return this.report('gate');
  }

  shutGate(): void {
    writeFileSync(this.gate, '');
  }

  openGate(): void {
    rmSync(this.gate, { force: true });
  }

  /** A victim on its way to beta, with a fault on one side. */
  async depart(point: FaultPoint, action: string, options: string[] = [], victim = 'patient', args: string[] = []): Promise<Departure> {
    const name = `${victim}.${++this.#count}`;
    return this.departAs(name, await this.victim(name, ...args), point, action, options);
  }

  /** The same of a process that is there; `name`: of the logs. */
  async departAs(name: string, pid: number, point: FaultPoint, action: string, options: string[] = []): Promise<Departure> {
    const isSource = point.startsWith('source:');
    const log = this.report(`${name}.log`);
    const own = this.#services.length === 0;
    if (own) {
      writeFileSync(this.report('next'), `PHAUL_FAULT=${isSource ? '' : `${point}:${action}`}\nlog=${log}\n`);
    }
    const command = `echo $$ >${log}.pid; ${isSource ? `PHAUL_FAULT=${point}:${action} ` : ''}exec phaul migrate ${pid} root@beta --json --verbose ${options.join(' ')}`;
    const stderr = openSync(log, 'w');
    const child = spawn('scripts/two-hosts', ['exec', 'alpha', '--', 'sh', '-c', command], {
      env: { ...process.env, PHAUL_TWO_HOSTS: this.set },
      stdio: ['ignore', 'pipe', stderr],
    });
    closeSync(stderr);
    let stdout = '';
    child.stdout?.on('data', (bytes: Buffer) => (stdout += bytes.toString()));
    const ending = new Promise<Ending>((resolve) =>
      child.on('close', (exitCode) => {
        const last = JSON.parse(stdout.trim().split('\n').at(-1) || '{}') as DoneEvent;
        resolve({ exitCode, at: Date.now(), done: last.event === 'done' ? last : undefined, stderr: this.#read(`${name}.log`) });
      }),
    );
    let hasEnded = false;
    void ending.then(() => (hasEnded = true));
    if (own) {
      await until(`an agent for ${point}`, () => hasEnded || !existsSync(this.report('next')));
      rmSync(this.report('next'), { force: true });
    }
    return { point, name, pid, enter: child.pid ?? 0, ending };
  }

  /** An agent that beta runs as a service, with a fault; `within`: a command that runs a command. */
  async startService(point: FaultPoint, action: string, ...within: string[]): Promise<void> {
    const log = this.report('service.log');
    rmSync(log, { force: true });
    this.#services.push(await this.start('beta', 'sh', '-c', `exec 2>${log}; exec "$@"`, 'sh', ...within, 'env', `PHAUL_FAULT=${point}:${action}`, 'phaul', 'agent'));
    await until('the service', async () => (await this.on('beta', 'sh', '-c', 'ss -lx | grep -q /run/phaul/agent.sock')).exitCode === 0);
  }

  async stopServices(): Promise<void> {
    for (const pid of this.#services.splice(0)) {
      await this.on('beta', 'kill', '-TERM', String(pid));
      await until('the end of the service', async () => !(await this.alive('beta', pid)));
    }
  }

  /** The one with the fault has come to its point. */
  async arrived({ point, name }: Departure): Promise<void> {
    const logs = (): string => this.#read(`${name}.log`) + this.#read(`${name}.log.agent`) + this.#read('service.log');
    await until(`${name} at ${point}`, () => logs().includes(`fault at ${point}\n`));
  }

  /** To the phaul with the fault. */
  async signal({ point, name, enter }: Departure, signal: string): Promise<void> {
    const isSource = point.startsWith('source:');
    const pid = (isSource ? undefined : this.#services.at(-1)?.toString()) ?? this.#read(`${name}.log${isSource ? '' : '.agent'}.pid`).trim();
    await this.on(isSource ? 'alpha' : 'beta', 'kill', signal, pid);
    if (isSource && signal === '-CONT') {
      process.kill(enter, 'SIGCONT'); // who waits for it in the test's own pid namespace stopped with it
    }
  }

  async place(host: string, pid: number): Promise<Place> {
    const status = await this.status(host, pid);
    const [, state = 'Z'] = /^State:\t(\w)/m.exec(status) ?? [];
    if (state === 'Z' || state === 'X') {
      return 'gone';
    }
    return !/^TracerPid:\t0$/m.test(status) ? 'held' : state === 'T' ? 'stopped' : 'runs';
  }

  /** "alpha runs, beta gone" as soon as it is one of the wanted, or after a while. */
  async settled(pid: number, wanted: string[]): Promise<string> {
    for (const deadline = Date.now() + SETTLE_MS; ; await sleep(50)) {
      const [alpha, beta] = await Promise.all([this.place('alpha', pid), this.place('beta', pid)]);
      const places = `alpha ${alpha}, beta ${beta}`;
      if (wanted.includes(places) || Date.now() > deadline) {
        return places;
      }
    }
  }

  /** Agents that are still there. */
  async agents(): Promise<string[]> {
    const { stdout } = await this.on('beta', 'pgrep', '-fa', 'cli.ts agent');
    return stdout.trim().split('\n').filter((line) => line !== '');
  }
}
