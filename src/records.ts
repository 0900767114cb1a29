/** What migrations report, kept on both hosts for whoever watches (src/web): a line of JSON for each event, a file for each migration. */
import { appendFileSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { PhaulEvent, Side } from './events.ts';
import { RECORDS_DIRECTORY } from './places.ts';

/** Older ones are forgotten. */
const KEPT_MAX = 200;

export const RECORD_NAME = /^([0-9a-f]{16,64})\.(source|target)\.jsonl$/;

/** A migration goes on whether it can be told of or not. */
export class Record {
  readonly #path: string;
  #begun = false;

  constructor(id: string, side: Side) {
    this.#path = join(RECORDS_DIRECTORY, `${id}.${side}.jsonl`);
  }

  write(event: PhaulEvent): void {
    if (event.event === 'log') {
      return;
    }
    try {
      if (!this.#begun) {
        this.#begun = true;
        mkdirSync(RECORDS_DIRECTORY, { recursive: true, mode: 0o700 });
        forgetOld();
      }
      appendFileSync(this.#path, `${JSON.stringify(event)}\n`, { mode: 0o600 });
    } catch {
      // Nobody will see it.
    }
  }
}

function forgetOld(): void {
  const names = readdirSync(RECORDS_DIRECTORY).filter((name) => RECORD_NAME.test(name));
  if (names.length < KEPT_MAX) {
    return;
  }
  const ages = names.map((name) => ({ path: join(RECORDS_DIRECTORY, name), at: statSync(join(RECORDS_DIRECTORY, name)).mtimeMs }));
  for (const { path } of ages.toSorted((a, b) => b.at - a.at).slice(KEPT_MAX - 1)) {
    rmSync(path, { force: true });
  }
}
