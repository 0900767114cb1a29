/** Options that criu's commands share. */
import { resolve } from 'node:path';
import { Option, type Command } from 'commander';
import type { CgroupOptions } from '../cgroups.ts';
import { addCgroupOptions, cgroupOptions, type CgroupFlags } from '../cli/cgroupOptions.ts';

export interface CommonFlags extends CgroupFlags {
  cgroupYard?: string;
  imagesDir: string;
  workDir?: string;
  logFile?: string;
  pidfile?: string;
  actionScript?: string[];
}

/** What phaul does anyway, or needs no permission for. */
const MEANT_ALREADY: [flags: string, description: string][] = [
  ['-v, --verbosity [level]', 'the log tells what an operator needs at every level'],
  ['--no-default-config', 'there is no configuration file'],
  ['--log-pid', 'there is one log'],
  ['-j, --shell-job', 'sessions are kept if they are in the tree'],
  ['-x, --ext-unix-sk [inode]', 'unix sockets are dumped if phaul can'],
  ['--ghost-limit <size>', 'deleted files may have any size'],
  ['--ghost-fiemap', 'holes are found by SEEK_HOLE'],
  ['--no-ghost-fiemap', 'holes are found by SEEK_HOLE'],
  ['--evasive-devices', 'devices are opened by their path'],
  ['--force-irmap', 'watched files are found by their handle'],
  ['--irmap-scan-path <path>', 'watched files are found by their handle'],
  ['--network-lock <method>', 'packets of connections are dropped by nftables'],
  ['--timeout <seconds>', 'for the freeze; phaul has its own'],
  ['--track-mem', 'what has changed is found by comparing'],
  ['--pre-dump-mode <mode>', 'memory is read from outside'],
];

export function addCommon(command: Command): Command {
  command
    .addOption(new Option('-D, --images-dir <dir>', 'where the images are').default('.'))
    .addOption(new Option('-W, --work-dir <dir>', 'where the log and the pid file are, if not with the images'))
    .addOption(new Option('-o, --log-file <file>', 'where errors go, beside standard error'))
    .addOption(new Option('--pidfile <file>', 'where the pid is written to'))
    .addOption(new Option('--cgroup-yard <dir>', 'where the hierarchies of control groups are mounted, each under its name'));
  addCgroupOptions(command);
  for (const [flags, description] of MEANT_ALREADY) {
    command.addOption(new Option(flags, description));
  }
  return command;
}

export const placed = ({ workDir, imagesDir }: CommonFlags, file: string): string => resolve(workDir ?? imagesDir, file);

/** Without the option, criu leaves control groups alone. */
export const cgroups = (flags: CommonFlags): CgroupOptions => ({ mode: 'ignore', ...cgroupOptions(flags), ...(flags.cgroupYard !== undefined && { yard: placed(flags, flags.cgroupYard) }) });
