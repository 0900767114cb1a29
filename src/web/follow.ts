/** All records of this host, and what is added to them. */
import { closeSync, fstatSync, mkdirSync, openSync, readdirSync, readSync, watch } from 'node:fs';
import { join } from 'node:path';
import type { PhaulEvent, Side } from '../events.ts';
import { parseJson } from '../json.ts';
import { RECORDS_DIRECTORY } from '../places.ts';
import { RECORD_NAME } from '../records.ts';

export interface Told {
  id: string;
  side: Side;
  event: PhaulEvent;
}

interface Reading {
  offset: number;
  /** The beginning of a line. */
  rest: string;
}

export class Follower {
  readonly #readings = new Map<string, Reading>();
  readonly #listeners = new Set<(told: Told) => void>();
  /** In the order in which they were read: of each migration, that of time. */
  readonly told: Told[] = [];

  constructor() {
    mkdirSync(RECORDS_DIRECTORY, { recursive: true, mode: 0o700 });
    watch(RECORDS_DIRECTORY, (_, name) => this.#read(name ?? ''));
    for (const name of readdirSync(RECORDS_DIRECTORY)) {
      this.#read(name);
    }
  }

  /** Returns a function that ends it. */
  listen(listener: (told: Told) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #read(name: string): void {
    const [, id = '', side] = RECORD_NAME.exec(name) ?? [];
    if (side === undefined) {
      return;
    }
    const reading = this.#readings.get(name) ?? { offset: 0, rest: '' };
    this.#readings.set(name, reading);
    const lines = (reading.rest + readFrom(join(RECORDS_DIRECTORY, name), reading)).split('\n');
    reading.rest = lines.pop() ?? '';
    for (const event of lines.map(parseJson)) {
      if (typeof event === 'object' && event !== null) {
        const told = { id, side: side as Side, event: event as PhaulEvent };
        this.told.push(told);
        this.#listeners.forEach((listener) => listener(told));
      }
    }
  }
}

/** What is there beyond the offset, which moves on; nothing of a file that is gone. */
function readFrom(path: string, reading: Reading): string {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch {
    return '';
  }
  try {
    const buffer = Buffer.alloc(Math.max(fstatSync(fd).size - reading.offset, 0));
    const got = readSync(fd, buffer, 0, buffer.length, reading.offset);
    reading.offset += got;
    return buffer.toString('utf8', 0, got);
  } finally {
    closeSync(fd);
  }
}
