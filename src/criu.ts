/** The command `phaul-criu`: criu's command line and exit codes over phaul's engine, for tools that call criu. */
import { appendFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { checkCommand } from './criu/check.ts';
import { cpuinfoCommand } from './criu/cpuinfo.ts';
import { dedupCommand, dumpCommand, preDumpCommand } from './criu/dump.ts';
import { placed, type CommonFlags } from './criu/options.ts';
import { restoreCommand } from './criu/restore.ts';
import { asPhaulError, PhaulError } from './errors.ts';
import { oneLine } from './events.ts';
import { version } from './version.ts';

/** criu's: 0 done, 1 failed or wrong use. */
type CriuExitCode = 0 | 1;

/** In a log as criu's, errors are what begins so. */
const logLine = (kind: 'Error' | 'Warn', text: string): string => `(00.000000) ${kind} (phaul): ${oneLine(text)}\n`;

function createProgram(warn: (sentence: string) => void): Command {
  const program = new Command('phaul-criu')
    .description("criu's command line over phaul's engine. Options of criu that are missing here are not supported.")
    .version(`Version: ${version}`, '-V, --version', 'print the version');
  for (const command of [dumpCommand(warn), preDumpCommand(), restoreCommand(warn), dedupCommand(), checkCommand(), cpuinfoCommand()]) {
    program.addCommand(command);
  }
  for (const command of [program, ...program.commands.flatMap((one) => [one, ...one.commands])]) {
    command.exitOverride().configureOutput({ outputError: () => {} }).allowExcessArguments(false);
  }
  return program;
}

/** Where the log is, although the command line may be wrong in another place. */
function logOf(program: Command): string | undefined {
  const flags = program.commands.flatMap((command) => [command, ...command.commands]).map((command) => command.opts<CommonFlags>()).find(({ logFile }) => logFile !== undefined);
  return flags?.logFile === undefined ? undefined : placed(flags, flags.logFile);
}

async function main(words: string[]): Promise<CriuExitCode> {
  let text = '';
  const say = (line: string): void => {
    text += line;
    process.stderr.write(line);
  };
  const program = createProgram((sentence) => say(logLine('Warn', sentence)));
  let exitCode: CriuExitCode = 0;
  try {
    await program.parseAsync(words, { from: 'user' });
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) {
      return 0; // --help and --version
    }
    const error = thrown instanceof CommanderError ? new PhaulError('ERR_USAGE', thrown.message) : asPhaulError(thrown);
    say([error.message, ...error.obstacles.map(({ sentence }) => sentence)].map((sentence) => logLine('Error', sentence)).join(''));
    exitCode = 1;
  }
  const log = logOf(program);
  if (log !== undefined) {
    appendFileSync(log, text);
  }
  return exitCode;
}

process.exit(await main(process.argv.slice(2)));
