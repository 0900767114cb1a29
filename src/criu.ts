/** The command `phaul-criu`: criu's command line and exit codes over phaul's engine, for tools that call criu. */
import { appendFileSync, closeSync, existsSync, openSync, writeSync } from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, CommanderError, Option } from 'commander';
import { dump, restore } from './checkpoint.ts';
import { parsePid } from './cli/arguments.ts';
import { addCgroupOptions, cgroupOptions, type CgroupFlags } from './cli/cgroupOptions.ts';
import type { CgroupOptions } from './cgroups.ts';
import { requireFeature } from './criuFeatures.ts';
import type { DumpOptions } from './options.ts';
import { asPhaulError, PhaulError } from './errors.ts';
import { oneLine } from './events.ts';
import { version } from './version.ts';

/** criu's: 0 done, 1 failed or wrong use. */
type CriuExitCode = 0 | 1;

interface CommonFlags extends CgroupFlags {
  cgroupYard?: string;
  imagesDir: string;
  workDir?: string;
  logFile?: string;
  pidfile?: string;
}

interface DumpFlags extends CommonFlags {
  tree: number;
  leaveRunning?: true;
  linkRemap?: true;
  fileLocks?: true;
  tcpClose?: true;
  tcpEstablished?: true;
  skipInFlight?: true;
}

interface RestoreFlags extends CommonFlags {
  tcpClose?: true;
  restoreDetached?: true;
}

const GONE_POLL_MS = 100;

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
  ['--track-mem', 'memory is tracked without being told'],
  ['--pre-dump-mode <mode>', 'memory is read from outside'],
];

/** In a log as criu's, errors are what begins so. */
const errorLine = (text: string): string => `(00.000000) Error (phaul): ${oneLine(text)}\n`;

function addCommon(command: Command): Command {
  command
    .addOption(new Option('-D, --images-dir <dir>', 'where the images are').default('.'))
    .addOption(new Option('-W, --work-dir <dir>', 'where the log and the pid file are, if not with the images'))
    .addOption(new Option('-o, --log-file <file>', 'where errors go, beside standard error'))
    .addOption(new Option('--pidfile <file>', 'where the pid is written to'));
  command
    .addOption(new Option('-l, --file-locks', 'locks on files are dumped too'))
    .addOption(new Option('--link-remap', 'make links for files whose name is gone but that have another'))
    .addOption(new Option('--cgroup-yard <dir>', 'where the hierarchies of control groups are mounted, each under its name'));
  addCgroupOptions(command);
  for (const [flags, description] of MEANT_ALREADY) {
    command.addOption(new Option(flags, description));
  }
  return command;
}

const placed = ({ workDir, imagesDir }: CommonFlags, file: string): string => resolve(workDir ?? imagesDir, file);

/** Without the option, criu leaves control groups alone. */
const cgroups = (flags: CommonFlags): CgroupOptions => ({ mode: 'ignore', ...cgroupOptions(flags), ...(flags.cgroupYard !== undefined && { yard: placed(flags, flags.cgroupYard) }) });

const tcpMode = (flags: { tcpClose?: true; tcpEstablished?: true }): DumpOptions['tcp'] =>
  flags.tcpClose === true ? 'close' : flags.tcpEstablished === true ? 'established' : 'refuse';

const dumpCommand = (): Command =>
  addCommon(new Command('dump').description('Writes a process tree to a directory.'))
    .addOption(new Option('-t, --tree <pid>', 'the root of the tree').argParser(parsePid).makeOptionMandatory())
    .addOption(new Option('-R, --leave-running', 'let it go on afterwards'))
    .addOption(new Option('--tcp-close', 'reset established TCP connections'))
    .addOption(new Option('--tcp-established', 'dump established TCP connections; their packets are dropped until they are restored'))
    .addOption(new Option('--skip-in-flight', 'leave out connections that wait to be accepted'))
    .action((flags: DumpFlags) => {
      dump({
        pid: flags.tree,
        directory: flags.imagesDir,
        tcp: tcpMode(flags),
        skipInFlight: flags.skipInFlight === true,
        leaveRunning: flags.leaveRunning === true,
        linkRemap: flags.linkRemap === true,
        fileLocks: flags.fileLocks === true,
        cgroups: cgroups(flags),
      });
    });

/** criu stays as long as the process does, unless it is told not to. */
async function waitFor(pid: number): Promise<void> {
  while (existsSync(`/proc/${pid}`)) {
    await sleep(GONE_POLL_MS);
  }
}

const restoreCommand = (): Command =>
  addCommon(new Command('restore').description('Lets a process tree go on from a directory.'))
    .addOption(new Option('-d, --restore-detached', 'end as soon as it runs'))
    .addOption(new Option('--tcp-close', 'established TCP connections are reset'))
    .addOption(new Option('--tcp-established', 'established TCP connections go on, if they were dumped'))
    .addOption(new Option('--skip-in-flight', 'means something to dump alone'))
    .action(async (flags: RestoreFlags) => {
      // Opened first: a process that runs while nobody is told its pid would be worse than none.
      const pidfile = flags.pidfile === undefined ? undefined : openSync(placed(flags, flags.pidfile), 'w');
      const { pid } = restore({ directory: flags.imagesDir, tcp: flags.tcpClose === true ? 'close' : 'established', cgroups: cgroups(flags) });
      if (pidfile !== undefined) {
        writeSync(pidfile, `${pid}\n`);
        closeSync(pidfile);
      }
      if (flags.restoreDetached !== true) {
        await waitFor(pid);
      }
    });

const checkCommand = (): Command =>
  new Command('check')
    .description('Says whether the kernel can do what phaul needs for a feature, by criu\'s names.')
    .addOption(new Option('--feature <name>', 'the feature').makeOptionMandatory())
    .addOption(new Option('-v, --verbosity [level]', 'the answer is the same at every level'))
    .addOption(new Option('--no-default-config', 'there is no configuration file'))
    .action(({ feature }: { feature: string }) => requireFeature(feature));

function createProgram(): Command {
  const program = new Command('phaul-criu')
    .description("criu's command line over phaul's engine. Options of criu that are missing here are not supported.")
    .version(`Version: ${version}`, '-V, --version', 'print the version');
  for (const command of [dumpCommand(), restoreCommand(), checkCommand()]) {
    program.addCommand(command);
  }
  for (const command of [program, ...program.commands]) {
    command.exitOverride().configureOutput({ outputError: () => {} }).allowExcessArguments(false);
  }
  return program;
}

/** Where the log is, although the command line may be wrong in another place. */
function logOf(program: Command): string | undefined {
  const flags = program.commands.map((command) => command.opts<CommonFlags>()).find(({ logFile }) => logFile !== undefined);
  return flags?.logFile === undefined ? undefined : placed(flags, flags.logFile);
}

async function main(words: string[]): Promise<CriuExitCode> {
  const program = createProgram();
  let text = '';
  let exitCode: CriuExitCode = 0;
  try {
    await program.parseAsync(words, { from: 'user' });
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) {
      return 0; // --help and --version
    }
    const error = thrown instanceof CommanderError ? new PhaulError('ERR_USAGE', thrown.message) : asPhaulError(thrown);
    text = [error.message, ...error.obstacles.map(({ sentence }) => sentence)].map(errorLine).join('');
    process.stderr.write(text);
    exitCode = 1;
  }
  const log = logOf(program);
  if (log !== undefined) {
    appendFileSync(log, text);
  }
  return exitCode;
}

process.exit(await main(process.argv.slice(2)));
