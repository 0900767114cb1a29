/** The options that tell where on the other host a process is to live, and with which files. */
import { Option, type Command } from 'commander';
import type { FilesMode, PlaceOptions } from '../options.ts';
import { parseFiles, parsePidNamespace, parseService, parseStdio } from './arguments.ts';

export interface PlaceFlags {
  files: FilesMode;
  overwrite?: true;
  pidNamespace: 'same' | 'new';
  asService?: string;
  stdio?: string;
}

export const addPlaceOptions = (command: Command): Command =>
  command
    .addOption(new Option('--files <how>', 'files that it has mapped or open: must be the same there (check), or go along if they are missing, by way of phaul (copy) or rsync').argParser(parseFiles).default('check'))
    .addOption(new Option('--overwrite', 'files that are different there are replaced by those that go along'))
    .addOption(new Option('--pid-namespace <which>', 'there, the process has its pids among all others (same), or in a pid namespace of its own (new), whatever is taken').argParser(parsePidNamespace).default('same'))
    .addOption(new Option('--stdio <where>', 'there, stdin, stdout and stderr are what they are here (keep), /dev/null (null), or stdout and stderr are appended to a FILE').argParser(parseStdio))
    .addOption(new Option('--as-service <name>', 'there, it is a transient unit of systemd\'s of this name').argParser(parseService));

export const placeOptions = ({ files, overwrite, pidNamespace, asService, stdio }: PlaceFlags): PlaceOptions => ({
  files,
  overwrite: overwrite === true,
  place: { newPidNamespace: pidNamespace === 'new', service: asService, output: stdio },
});
