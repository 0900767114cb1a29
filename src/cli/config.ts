/**
 * The operator's own defaults: /etc/phaul/phaul.toml has a table for a command, and in it the long names of its options.
 * A value is understood as on the command line, which has the last word.
 */
import type { Command, Option } from 'commander';
import { readFileSync } from 'node:fs';
import { parse, TomlError } from 'smol-toml';
import { PhaulError } from '../errors.ts';

/** What the caller of a command says of itself, not the operator of a host, and what is decided once for each case. */
const NOT_CONFIGURABLE = ['help', 'json', 'stdio', 'own-unit', 'all', 'keep', 'as-service', 'report'];

const wrong = (path: string, sentence: string, cause?: unknown): PhaulError => new PhaulError('ERR_CONFIG', `The configuration ${path} ${sentence}`, { cause });

/** A list for the end of a sentence. */
const listed = (words: string[]): string => words.toSorted().join(', ');

export function configure(commands: readonly Command[], path: string): void {
  for (const [name, table] of Object.entries(readToml(path))) {
    const command = commands.find((candidate) => candidate.name() === name);
    if (command === undefined) {
      throw wrong(path, `has [${name}], but phaul has no such command: it may have ${listed(commands.map((one) => one.name()))}.`);
    }
    if (typeof table !== 'object' || table === null || Array.isArray(table)) {
      throw wrong(path, `has "${name}" outside of a table: write [${name}] above, and options below it.`);
    }
    for (const [key, value] of Object.entries(table)) {
      setDefault(command, key, value, path);
    }
  }
}

function readToml(path: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') {
      return {};
    }
    throw wrong(path, `can't be read: ${(cause as Error).message}.`, cause);
  }
  try {
    return parse(text);
  } catch (cause) {
    if (cause instanceof TomlError) {
      const [sentence] = cause.message.replace('Invalid TOML document: ', '').split('\n');
      throw wrong(path, `is no TOML at line ${cause.line}: ${sentence}.`, cause);
    }
    throw cause;
  }
}

/** An option --no-x has the name x. */
const keyOf = ({ long, negate }: Option): string => long?.slice(negate ? '--no-'.length : '--'.length) ?? '';

const configurable = (command: Command): Option[] => command.options.filter((option) => !NOT_CONFIGURABLE.includes(keyOf(option)));

function setDefault(command: Command, key: string, value: unknown, path: string): void {
  const options = configurable(command);
  const option = options.find((one) => keyOf(one) === key);
  if (option === undefined) {
    throw wrong(path, `has "${key}" in [${command.name()}], which may have ${listed(options.map(keyOf))}.`);
  }
  const understood = option.isBoolean() ? flag(option, value, path) : understand(option, value, path);
  if (understood !== undefined) {
    option.default(understood, `${String(value)} in ${path}`);
    command.setOptionValueWithSource(option.attributeName(), understood, 'default');
  }
}

/** A flag that isn't set is undefined, as on the command line. */
function flag(option: Option, value: unknown, path: string): true | undefined {
  if (typeof value !== 'boolean') {
    throw wrong(path, `has ${JSON.stringify(value)} for "${keyOf(option)}", which is true or false.`);
  }
  return value ? true : undefined;
}

/** A list stands for an option that is given more than once. */
function understand(option: Option, value: unknown, path: string): unknown {
  const words = Array.isArray(value) ? value : [value];
  let understood: unknown;
  for (const word of words) {
    if (typeof word !== 'string' && typeof word !== 'number') {
      throw wrong(path, `has ${JSON.stringify(word)} for "${keyOf(option)}", which takes a number or a string.`);
    }
    try {
      understood = option.parseArg === undefined ? String(word) : option.parseArg(String(word), understood);
    } catch (cause) {
      throw wrong(path, `is wrong: ${(cause as Error).message}`, cause);
    }
  }
  return understood;
}
