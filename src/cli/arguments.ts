/** What the words of the command line mean, and one sentence for each that means nothing. */
import { Option } from 'commander';
import { accessSync, constants, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { parseMoveIp, type MoveIp } from '../addresses.ts';
import { TRACKERS, type TrackerName } from '../engine/engine.ts';
import { PhaulError } from '../errors.ts';
import { SERVICE_NAME } from '../messages.ts';
import { CPU_CHECKS, FILES_MODES, type FilesMode } from '../options.ts';
import type { WebPlace } from '../web/server.ts';

const PIDS_MAX = 2 ** 22;

const usage = (sentence: string): PhaulError => new PhaulError('ERR_USAGE', sentence);

export function parsePid(text: string): number {
  const pid = /^\d+$/.test(text) ? Number(text) : 0;
  if (pid < 1 || pid > PIDS_MAX) {
    throw usage(`"${text}" is no pid: a pid is a number from 1 to ${PIDS_MAX}, as ps and pgrep show it.`);
  }
  return pid;
}

/** For an option that takes a whole number. */
export const wholeNumber =
  (option: string, min: number, max: number) =>
  (text: string): number => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw usage(`${option} takes a whole number from ${min} to ${max}, not "${text}".`);
    }
    return value;
  };

const UNITS: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** 20M are 20 MiB a second. */
export function parseBandwidth(text: string): number {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)([KMG]?)$/.exec(text) ?? [];
  const bytes = Math.round(Number(number) * (UNITS[unit] ?? 0));
  if (number === '' || bytes < 1024 || bytes > 2 ** 40) {
    throw usage(`--bandwidth takes bytes a second, from 1K, such as 500K, 20M or 1.5G, not "${text}".`);
  }
  return bytes;
}

const DESTINATION = /^(?:[^\s@:/[\]-][^\s@:/[\]]*@)?(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])(?::(\d{1,5}))?$/;

/** Looks at the form only: whether the host exists is found out by reaching it. */
export function parseDestination(text: string): string {
  const match = DESTINATION.exec(text);
  const port = match?.[1] === undefined ? 22 : Number(match[1]);
  if (match === null || port < 1 || port > 65_535) {
    throw usage(`"${text}" is no host: write [USER@]HOST[:PORT], and an IPv6 address in brackets, such as root@beta, beta:2222, root@[fd00::2].`);
  }
  return text;
}

/** Ways to converge that have a name, but no code behind them yet. */
const NOT_YET = ['throttle', 'postcopy'];

export function parseOnDiverge(text: string): 'freeze' | 'abort' {
  if (text === 'freeze' || text === 'abort') {
    return text;
  }
  if (NOT_YET.includes(text)) {
    throw new PhaulError('ERR_NOT_AVAILABLE', `--on-diverge ${text} is not available in this version: choose freeze or abort.`);
  }
  throw usage(`--on-diverge takes freeze or abort, not "${text}".`);
}

function oneOf<T extends string>(option: string, text: string, ...words: T[]): T {
  const word = words.find((candidate) => candidate === text);
  if (word === undefined) {
    throw usage(`${option} takes ${words.join(', ').replace(/, ([^,]*)$/, ' or $1')}, not "${text}".`);
  }
  return word;
}

export const parseTcp = (text: string): 'refuse' | 'close' | 'established' => oneOf('--tcp', text, 'established', 'close', 'refuse');
export const parseRestoreTcp = (text: string): 'close' | 'established' => oneOf('--tcp', text, 'established', 'close');
export const cpuCheckOption = (): Option =>
  new Option('--cpu-check <how>', "what the other host's CPU must have: what programs may have found and used (used), the same as this one (strict), or nothing that is asked for (off)")
    .argParser((text: string) => oneOf('--cpu-check', text, ...CPU_CHECKS))
    .default('used');
export const parseTracker = (text: string): TrackerName | 'auto' => oneOf('--tracker', text, 'auto', ...TRACKERS);

export const parsePidNamespace = (text: string): 'same' | 'new' => oneOf('--pid-namespace', text, 'same', 'new');

export const parseFiles = (text: string): FilesMode => oneOf('--files', text, ...FILES_MODES);

/** Whoever is on another host comes by ssh (-L), which knows who that is. */
export function parseWeb(text: string): WebPlace {
  const [, host = '127.0.0.1', port] = /^(?:(127\.0\.0\.1|localhost|\[::1\]):)?(\d{1,5})$/.exec(text) ?? [];
  if (text.startsWith('/')) {
    return { path: text };
  }
  if (port === undefined || Number(port) < 1 || Number(port) > 65_535) {
    throw usage(`--web takes a port of this host (9420, 127.0.0.1:9420, [::1]:9420) or the whole path of a unix socket, not "${text}": nobody is asked for a password there.`);
  }
  return { host: host.replace(/^\[|\]$/g, ''), port: Number(port) };
}

/** undefined: as here. */
export function parseStdio(text: string): string | undefined {
  if (text !== 'keep' && text !== 'null' && !text.startsWith('/')) {
    throw usage(`--stdio takes keep, null, or the whole path of a file on the other host, not "${text}".`);
  }
  return text === 'null' ? '/dev/null' : text === 'keep' ? undefined : text;
}

export function parseService(text: string): string {
  const name = text.replace(/\.service$/, '');
  if (!SERVICE_NAME.test(name)) {
    throw usage(`--as-service takes the name of a systemd unit, such as redis-moved, not "${text}".`);
  }
  return name;
}

/** May be given more than once. */
export const moveIpOption = (): Option =>
  new Option('--move-ip <address>', 'ADDRESS/PREFIX[@DEVICE[:DEVICE THERE]]: takes this address along; repeat for more').argParser((text: string, before: MoveIp[] | undefined) => [...(before ?? []), parseMoveIp(text)]);

/** [USER@]HOST[:PORT]:/DIRECTORY */
export function parsePlace(text: string): { destination: string; directory: string } {
  const [, destination, directory] = /^(.+):(\/.*)$/.exec(text) ?? [];
  if (destination === undefined || directory === undefined) {
    throw usage(`"${text}" is no directory of a host: write [USER@]HOST[:PORT]:/DIRECTORY, such as root@beta:/var/tmp/4242.`);
  }
  return { destination: parseDestination(destination), directory };
}

/** For an option that takes a program that can be run: its whole path. */
export const program =
  (option: string) =>
  (text: string): string => {
    const path = resolve(text);
    try {
      accessSync(path, constants.X_OK);
    } catch {
      throw usage(`${option} ${text} is no program that can be run: give the path of an executable file.`);
    }
    if (!statSync(path).isFile()) {
      throw usage(`${option} ${text} is no file: give the path of an executable file.`);
    }
    return path;
  };

/** May be given more than once. */
export const actionScriptOption = (): Option =>
  new Option('--action-script <file>', 'a program to be run at named points, with criu\'s names and environment; repeat for more').argParser((text: string, before: string[] | undefined) => [...(before ?? []), program('--action-script')(text)]);
