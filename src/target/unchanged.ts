/** Files that the process maps must not change between their comparison and the moment when it goes on with them. */
import { statSync } from 'node:fs';
import { hostname } from 'node:os';
import { PhaulError } from '../errors.ts';
import type { Plan } from '../source/plan.ts';

export interface Mark {
  path: string;
  /** What is another one after each change, whoever made it. */
  mark: string;
}

function markOf(path: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs].join();
  } catch {
    return '';
  }
}

/** Of those whose content counts; before they are compared. */
export const markFiles = ({ files }: Plan): Mark[] =>
  files.filter(({ kind, writable }) => kind === 'file' && !writable).map(({ path }) => ({ path, mark: markOf(path) }));

export function requireUnchanged(marks: Mark[], comm: string): void {
  const changed = marks.find(({ path, mark }) => markOf(path) !== mark);
  if (changed !== undefined) {
    throw new PhaulError('ERR_FILE_CHANGED', `${changed.path} on ${hostname()}, which ${comm} needs as it is, was changed while ${comm} was being moved: try again when whatever changes it there is done.`);
  }
}
