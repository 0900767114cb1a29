/** Inputs of parsers, changed at random by numbers that are the same in each run. */
import { PhaulError } from '../../src/errors.ts';

/** Numbers from 0 to below 1: mulberry32. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export type Random = ReturnType<typeof random>;

export const below = (next: Random, most: number): number => Math.floor(next() * most);
export const pick = <T>(next: Random, list: readonly T[]): T => list[below(next, list.length)] as T;

const PIECES = ['', ' ', '\n', '\r', '\t', '\0', ',', ':', '/', '@', '[', ']', '|', '|1|', '*', '?', '!', '%', '%h', '"', "'", '\\', '{', '}', '-', '.', '~', '#', '=', '0', '1', '-1', '65536', '4194305', '1e9', 'NaN', '99999999999999999999', '٣', '💥', '\ud800', '__proto__', 'constructor', 'Host *', 'Match all', 'Include /', '@revoked', 'x'.repeat(300)];

function changeOnce(next: Random, text: string, others: readonly string[]): string {
  const at = below(next, text.length + 1);
  const end = Math.min(text.length, at + 1 + below(next, 8));
  switch (below(next, 6)) {
    case 0:
      return text.slice(0, at) + pick(next, PIECES) + text.slice(at);
    case 1:
      return text.slice(0, at) + text.slice(end);
    case 2:
      return text.slice(0, at) + pick(next, PIECES) + text.slice(end);
    case 3:
      return text.slice(0, end) + text.slice(at);
    case 4: {
      const other = pick(next, others);
      return text.slice(0, at) + other.slice(below(next, other.length + 1));
    }
    default:
      return text.slice(0, at) + String.fromCharCode(below(next, 256)) + text.slice(at + 1);
  }
}

/** One of the texts with a few changes. */
export function changedText(next: Random, texts: readonly string[]): string {
  let text = pick(next, texts);
  for (let left = 1 + below(next, 5); left > 0; left--) {
    text = changeOnce(next, text, texts);
  }
  return text;
}

const VALUES: readonly unknown[] = [undefined, null, true, false, 0, 1, -1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, -(2 ** 53), 1e300, '', 'x', '\0', '0'.repeat(5000), [], {}, [[]], { __proto__: null }, 'a'.repeat(16), [null], [1, 2, 3], { id: 1 }];

/** A value of JSON with one part of it, at whatever depth, another one or gone. */
export function changedValue(next: Random, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || next() < 0.15) {
    return pick(next, VALUES);
  }
  const keys = Object.keys(value);
  if (keys.length === 0) {
    return pick(next, VALUES);
  }
  const key = pick(next, keys);
  if (Array.isArray(value)) {
    const copy = [...(value as unknown[])];
    const at = Number(key);
    return next() < 0.2 ? copy.toSpliced(at, 1) : next() < 0.2 ? [...copy, ...copy] : copy.with(at, changedValue(next, copy[at]));
  }
  const { [key]: old, ...rest } = value as Record<string, unknown>;
  return next() < 0.15 ? rest : { ...value, [next() < 0.1 ? `${key}x` : key]: changedValue(next, old) };
}

/** Bytes with a few changes: flipped, cut, doubled, written over. */
export function changedBytes(next: Random, bytes: Uint8Array): Buffer {
  let copy = Buffer.from(bytes);
  for (let left = 1 + below(next, 4); left > 0 && copy.length > 0; left--) {
    const at = below(next, copy.length);
    switch (below(next, 5)) {
      case 0:
        copy[at] = (copy[at] ?? 0) ^ (1 << below(next, 8));
        break;
      case 1:
        copy = copy.subarray(0, at);
        break;
      case 2:
        copy.fill(pick(next, [0, 0xff, 0x80, 0x7f]), at, Math.min(copy.length, at + 1 + below(next, 9)));
        break;
      case 3:
        copy = Buffer.concat([copy.subarray(0, at), copy.subarray(below(next, copy.length))]);
        break;
      default:
        copy[at] = below(next, 256);
    }
  }
  return copy;
}

/** The result; or a PhaulError with a sentence, for which there is none. */
export function attempt<T>(act: () => T, input: unknown): T | undefined {
  try {
    return act();
  } catch (thrown) {
    if (!(thrown instanceof PhaulError) || thrown.message.length < 10) {
      throw new Error(`${JSON.stringify(input)} led to ${String(thrown)}`, { cause: thrown });
    }
    return undefined;
  }
}
