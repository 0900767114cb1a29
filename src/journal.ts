/**
 * What this host knows for certain about a migration, on disk before it is acted upon: a line of JSON for
 * each state, the last one counts.
 */
import { closeSync, fdatasyncSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Side } from './events.ts';

export type SourceState = 'preparing' | 'committed' | 'gone' | 'thawed' | 'unknown';
export type TargetState = 'preparing' | 'held' | 'running' | 'discarded';

const DIRECTORY = process.env['PHAUL_JOURNAL'] ?? '/var/lib/phaul/journal';
const pathOf = (id: string, side: Side): string => `${DIRECTORY}/${id}.${side}.jsonl`;

export class Journal<S extends string> {
  readonly #fd: number;

  /** `about` is what a human wants to know: pid, name, hosts. */
  constructor(id: string, side: Side, about: object) {
    const path = pathOf(id, side);
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    this.#fd = openSync(path, 'ax', 0o600);
    this.#append({ state: 'preparing', ...about });
  }

  write(state: S): void {
    this.#append({ state });
  }

  close(): void {
    closeSync(this.#fd);
  }

  #append(line: object): void {
    writeSync(this.#fd, `${JSON.stringify({ ...line, at: Date.now() })}\n`);
    fdatasyncSync(this.#fd);
  }
}

/** The last state that is on disk; undefined if there is no journal of this migration. A torn line doesn't count. */
export function lastState(id: string, side: Side): string | undefined {
  let text: string;
  try {
    text = readFileSync(pathOf(id, side), 'utf8');
  } catch {
    return undefined;
  }
  const lines = text.split('\n').slice(0, -1);
  const last = lines.at(-1);
  return last === undefined ? undefined : String((JSON.parse(last) as { state?: unknown }).state);
}
