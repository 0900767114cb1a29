/** The hosts of scripts/lab, and programs on them. All that is emulated takes its time: limits are wide. */
import { setTimeout as sleep } from 'node:timers/promises';
import { $ as shell } from 'zx';
import type { DoneEvent } from '../src/events.ts';

const CLOSE_ALL = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done';

/** What a guest's agent may give: a program of this machine may have more. */
const LIMITS = 'prlimit --nofile=4096:4096 --nproc=4096:4096 --sigpending=4096:4096';

/** For a line of a program that works in an emulated guest. */
const WAIT_MS = 180_000;
const POLL_MS = 500;

/** On each host, whatever moves. */
const DIRECTORY = '/tmp/phaul-lab';

export type Host = 'alpha' | 'beta' | 'gamma' | 'delta';

export class Lab {
  readonly #shell = shell({ nothrow: true, quiet: true, env: { ...process.env, PHAUL_LAB: process.env['PHAUL_LAB'] ?? 'matrix' } });
  #reports = 0;
  #hosts: Host[] = [];

  /** "gamma", or "gamma=6.12,Nehalem": see scripts/lab. */
  async up(...guests: string[]): Promise<void> {
    const { exitCode, stderr } = await this.#shell`scripts/lab up ${guests}`;
    if (exitCode !== 0) {
      throw new Error(stderr);
    }
    this.#hosts = ['alpha', 'beta', ...guests.map((guest) => guest.replace(/=.*/, '') as Host)];
    await Promise.all(this.#hosts.map((host) => this.on(host, 'mkdir', '-p', DIRECTORY)));
  }

  async down(): Promise<void> {
    await Promise.all(this.#hosts.slice(0, 1).map((host) => this.on(host, 'rm', '-rf', DIRECTORY)));
    await this.#shell`scripts/lab down`;
  }

  on(host: Host, ...command: string[]) {
    return this.#shell`scripts/lab exec ${host} -- ${command}`;
  }

  /** A program of its own session that holds nothing of ours. */
  async start(host: Host, ...command: string[]): Promise<number> {
    const { stdout } = await this.on(host, 'bash', '-c', `${CLOSE_ALL}; cd /; exec setsid ${LIMITS} "$@" </dev/null >/dev/null 2>&1 & echo $!`, 'bash', ...command);
    return Number(stdout);
  }

  /** A file that is the same wherever its writer is. */
  newReport(): string {
    return `${DIRECTORY}/${process.pid}.${++this.#reports}`;
  }

  /** The last line of a report that begins with one of these, or with "failed". */
  async hear(host: Host, report: string, ...words: string[]): Promise<string> {
    let text = '';
    for (const deadline = Date.now() + WAIT_MS; Date.now() < deadline; await sleep(POLL_MS)) {
      text = (await this.on(host, 'cat', report)).stdout.trim();
      const line = text.split('\n').findLast((one) => [...words, 'failed'].some((word) => one.startsWith(word)));
      if (line !== undefined) {
        return line;
      }
    }
    throw new Error(`the program on ${host} reports "${text}", not ${words.join(' or ')}`);
  }

  /** By way of a directory. */
  async carry(from: Host, pid: number, to: Host): Promise<void> {
    const images = `${this.newReport()}.images`;
    await this.#must(from, 'phaul', 'dump', '-t', String(pid), '-D', images);
    await this.#must(from, 'bash', '-c', `tar -C ${images} -cf - . | ssh root@${to} 'mkdir ${images} && tar -C ${images} -xf -'`);
    await this.#must(to, 'phaul', 'restore', '-D', images);
  }

  async #must(host: Host, ...command: string[]): Promise<void> {
    const { exitCode, stderr } = await this.on(host, ...command);
    if (exitCode !== 0) {
      throw new Error(stderr);
    }
  }

  async migrate(from: Host, pid: number, to: Host, ...options: string[]): Promise<DoneEvent> {
    const { stdout, stderr } = await this.on(from, 'phaul', 'migrate', String(pid), `root@${to}`, '--json', ...options);
    const last = stdout.trim().split('\n').at(-1) ?? '';
    if (!last.startsWith('{')) {
      throw new Error(stderr);
    }
    return JSON.parse(last) as DoneEvent;
  }
}
