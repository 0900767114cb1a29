/** The file that a process that comes writes its stdout and stderr to. */
import { accessSync, closeSync, constants, existsSync, openSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import type { Obstacle } from '../errors.ts';
import type { Place } from '../options.ts';

/** Only looked at: what isn't moved leaves nothing behind. */
export function outputObstacles({ output }: Place, comm: string): Obstacle[] {
  if (output === undefined) {
    return [];
  }
  try {
    accessSync(existsSync(output) ? output : dirname(output), constants.W_OK);
    return [];
  } catch (cause) {
    const host = hostname();
    return [{ code: 'STDIO', subject: output, host, sentence: `${comm} is to write to ${output} on ${host}, which can't be (${(cause as Error).message}): give another file to --stdio, or make its directory there.` }];
  }
}

/** The engine opens what is there. */
export function makeOutput({ output }: Place): void {
  if (output !== undefined) {
    closeSync(openSync(output, 'a', 0o600));
  }
}
