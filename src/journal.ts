/**
 * What this host knows for certain about a migration, written before it is acted upon: a line of JSON for each
 * state, the last one counts. The first line also says what it is about, and is on disk before anything else.
 * The others need no disk while the process stands still: a phaul that dies leaves them with the kernel, and
 * after a host that died all but an end is in doubt, which the boot id of the first line tells.
 */
import { closeSync, fdatasyncSync, fsyncSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { z } from 'zod';
import { PhaulError } from './errors.ts';
import type { Side } from './events.ts';
import { parseJson } from './json.ts';
import type { ReachOptions } from './options.ts';
import { HOST_PROC, hostPidOf } from './pidNamespace.ts';
import { JOURNAL_DIRECTORY } from './places.ts';

/** A process that can't be mistaken for a later one with the same pid. */
export interface Instance {
  /** As the host sees it. */
  pid: number;
  /** Clock ticks since boot. */
  startedAt: number;
  /** Of the host, another one after each start. */
  boot: string;
}

export interface About {
  comm: string;
  /** The host at the other end. */
  host: string;
  process: Instance;
  /** As it sees itself, in a pid namespace of its own. */
  pidInside?: number;
  /** The phaul that writes the journal. */
  by: Instance;
  /** Of the source alone: all that it takes to bring the original back, or to end it, without that phaul. */
  original?: {
    reach: ReachOptions;
    /** The other host's address, for the hook. */
    address: string;
    hook?: string;
    /** That went along, in the words of the engine. */
    addresses: string;
    /** Of the tree, those that stood still before they were moved. */
    stopped: number[];
  };
  /** Of the source, noted before the commit: the locks on files that are given back with it, in the words of the engine. */
  locks?: string;
}

const pathOf = (id: string, side: Side): string => `${JOURNAL_DIRECTORY}/${id}.${side}.jsonl`;

export class Journal<S extends string> {
  readonly #fd: number;
  #torn = false;
  /** The last that was written. */
  state = 'preparing' as S;

  constructor(id: string, side: Side, about: About) {
    const path = pathOf(id, side);
    try {
      mkdirSync(JOURNAL_DIRECTORY, { recursive: true, mode: 0o700 });
      this.#fd = openSync(path, 'ax', 0o600);
      this.#append({ state: this.state, ...about });
      fdatasyncSync(this.#fd);
      syncDirectory(JOURNAL_DIRECTORY);
    } catch (cause) {
      throw new PhaulError('ERR_JOURNAL', `The journal ${path} can't be written, without which a process could be lost: ${(cause as Error).message}.`, { cause });
    }
  }

  write(state: S, more: Pick<About, 'locks'> = {}): void {
    this.#append({ state, ...more });
    this.state = state;
  }

  /** To disk, if that can be had: what became of the process doesn't depend on it any more. */
  close(): void {
    try {
      fdatasyncSync(this.#fd);
    } catch {
      // The kernel still has what was written.
    }
    closeSync(this.#fd);
  }

  #append(line: object): void {
    const text = `${this.#torn ? '\n' : ''}${JSON.stringify({ ...line, at: Date.now() })}\n`;
    this.#torn = true;
    if (writeSync(this.#fd, text) < text.length) {
      throw new PhaulError('ERR_JOURNAL', 'The disk of the journal is full.');
    }
    this.#torn = false;
  }
}

/** A file whose name isn't on disk is lost with the power, whatever is in it. */
function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

export interface Entry {
  state: string;
  about: Partial<About>;
  /** ms since 1970: when it began, and when that state was written. */
  began: number;
  at: number;
}

const instance = z.object({ pid: z.int().min(1), startedAt: z.number(), boot: z.string() });
const original = z.object({
  reach: z.object({ destination: z.string(), acceptNewHostKey: z.boolean(), identityFile: z.string().optional(), sshConfigFile: z.string().optional() }),
  address: z.string(),
  hook: z.string().optional(),
  addresses: z.string(),
  stopped: z.array(z.int()),
});

/** Of what another phaul wrote, or a disk has damaged, each field by itself is as if it weren't there. */
const line = z.object({
  state: z.string(),
  at: z.number().catch(0),
  comm: z.string().optional().catch(undefined),
  host: z.string().optional().catch(undefined),
  pidInside: z.int().min(1).optional().catch(undefined),
  process: instance.optional().catch(undefined),
  by: instance.optional().catch(undefined),
  original: original.optional().catch(undefined),
  locks: z.string().optional().catch(undefined),
} satisfies { [field in keyof Required<About> | 'state' | 'at']: z.ZodType });

/** Undefined if there is no journal of this migration. */
export function readJournal(id: string, side: Side): Entry | undefined {
  try {
    return parseJournal(readFileSync(pathOf(id, side), 'utf8'));
  } catch {
    return undefined;
  }
}

/** A torn line doesn't count; undefined if there is no other. */
export function parseJournal(text: string): Entry | undefined {
  const lines = text.split('\n').map((words) => line.safeParse(parseJson(words)).data).filter((parsed) => parsed !== undefined);
  const [first, last] = [lines.at(0), lines.at(-1)];
  const locks = lines.findLast((parsed) => parsed.locks !== undefined)?.locks ?? '';
  return first === undefined || last === undefined ? undefined : { state: last.state, about: { ...first, locks } as Partial<About>, began: first.at, at: last.at };
}

export interface Journalled extends Entry {
  id: string;
  side: Side;
}

const NAME = /^([0-9a-f]{16,64})\.(source|target)\.jsonl$/;

/** All of this host, the oldest first. */
export function listJournals(): Journalled[] {
  let names: string[];
  try {
    names = readdirSync(JOURNAL_DIRECTORY);
  } catch {
    return [];
  }
  const found = names.flatMap((name): Journalled[] => {
    const [, id = '', side] = NAME.exec(name) ?? [];
    const entry = side === undefined ? undefined : readJournal(id, side as Side);
    return entry === undefined ? [] : [{ id, side: side as Side, ...entry }];
  });
  return found.toSorted((a, b) => a.began - b.began);
}

/** What was found out after its phaul had ended. A line that a full disk cut off is ended first. */
export function addToJournal(id: string, side: Side, state: string): void {
  const path = pathOf(id, side);
  const torn = !readFileSync(path, 'utf8').endsWith('\n');
  writeFileSync(path, `${torn ? '\n' : ''}${JSON.stringify({ state, at: Date.now() })}\n`, { flag: 'a', flush: true });
}

/** Nothing that is to be known of these any more. */
const FINAL = ['gone', 'thawed', 'running', 'discarded'];
export const isFinal = (state: string): boolean => FINAL.includes(state);

const KEPT_MS = 30 * 24 * 3600_000;

/** Those that nobody will ask for again. */
export function forgetOldJournals(): void {
  for (const { id, side, state, at } of listJournals()) {
    if (isFinal(state) && Date.now() - at > KEPT_MS) {
      rmSync(pathOf(id, side), { force: true });
    }
  }
}

export const bootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();

/** Has the host died since, and with it all that was running? */
export const isOfEarlierBoot = (instance: Instance | undefined): boolean => instance?.boot !== bootId();

/** `pid`: as the host sees it. */
function startOf(pid: number): number {
  const stat = readFileSync(`${HOST_PROC}/${pid}/stat`, 'utf8');
  // The name in brackets may hold anything, blanks too.
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
}

/** `pid`: as we see it. */
export function instanceOf(pid: number): Instance {
  const onHost = hostPidOf(pid);
  return { pid: onHost, startedAt: startOf(onHost), boot: bootId() };
}

export const isSame = (one: Instance | undefined, other: Instance): boolean => one?.pid === other.pid && one.startedAt === other.startedAt && one.boot === other.boot;

export function isAlive(instance: Instance | undefined): boolean {
  try {
    return instance !== undefined && !isOfEarlierBoot(instance) && startOf(instance.pid) === instance.startedAt;
  } catch {
    return false;
  }
}
