/** The command `phaul`: reads the command line, runs one command, exits with what DESIGN promises. */
import { Command, CommanderError } from 'commander';
import { agentCommand } from './cli/agent.ts';
import { checkCommand } from './cli/check.ts';
import { dedupCommand, dumpCommand, preDumpCommand, restoreCommand } from './cli/checkpoint.ts';
import { failedEvent } from './cli/done.ts';
import { inspectCommand } from './cli/inspect.ts';
import { migrateCommand } from './cli/migrate.ts';
import { openOutput } from './cli/output.ts';
import { asPhaulError, PhaulError, type ExitCode } from './errors.ts';
import { oneLine } from './events.ts';
import { version } from './version.ts';

const stdout = openOutput(process.stdout);
const stderr = openOutput(process.stderr);

const EPILOGUE = `
Examples:
  phaul check 4242                  what would stop process 4242 from moving
  phaul check 4242 root@beta        the same, and what beta lacks for it
  phaul migrate 4242 root@beta      move it while it keeps working
  phaul migrate $(pgrep redis) beta --tcp close --max-downtime 50
  phaul dump -t 4242 -D /var/tmp/4242   write it to a directory, and end it
  phaul restore -D /var/tmp/4242        let it go on from there
  phaul inspect /var/tmp/4242           what is in there

Exit codes:
  0  moved (check: it can move)
  1  not moved, the process still runs here (check: it can't move)
  2  wrong use, nothing was touched
  3  nobody knows where the process is now; the message says where to look

Both hosts need root and phaul of the same version; the way to the other host is ssh.
"phaul COMMAND --help" explains each command, README.md and ARCHITECTURE.md the rest.`;

function createProgram(): Command {
  const program = new Command('phaul')
    .description('Moves a running process to another Linux host while it keeps working.')
    .version(version, '--version', 'print the version')
    .helpOption('-h, --help', 'print this')
    .helpCommand(false)
    .addHelpText('after', EPILOGUE);
  program.addCommand(migrateCommand({ stdout, stderr }));
  program.addCommand(checkCommand({ stdout }));
  for (const command of [dumpCommand, preDumpCommand, restoreCommand, dedupCommand]) {
    program.addCommand(command({ stdout, stderr }));
  }
  program.addCommand(inspectCommand({ stdout }));
  program.addCommand(agentCommand());
  for (const command of [program, ...program.commands]) {
    command
      .exitOverride()
      .configureOutput({ writeOut: stdout.write, writeErr: stderr.write, outputError: () => {} })
      .allowExcessArguments(false);
  }
  return program;
}

/** Commands set process.exitCode; what is thrown up to here is a wrong command line or a failure. */
async function main(words: string[]): Promise<ExitCode> {
  try {
    await createProgram().parseAsync(words, { from: 'user' });
    return (process.exitCode as ExitCode | undefined) ?? 0;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) {
      return 0; // --help and --version
    }
    const error = thrown instanceof CommanderError ? usageError(thrown, words) : asPhaulError(thrown);
    if (words.includes('--json')) {
      stdout.write(`${JSON.stringify(failedEvent(0, error))}\n`);
    }
    if (error.message !== '') {
      stderr.write(`phaul: ${oneLine(error.message)}\n${error.obstacles.map(({ sentence }) => `  - ${oneLine(sentence)}\n`).join('')}`);
    }
    return error.exitCode;
  }
}

/** Without any command, commander has already printed the help and says nothing more. */
function usageError({ code, message }: CommanderError, words: string[]): PhaulError {
  if (code === 'commander.help') {
    return new PhaulError('ERR_USAGE', words.includes('--json') ? 'A command is missing: migrate, check, dump, pre-dump, restore, dedup, inspect or agent.' : '');
  }
  const sentence = message.replace(/^error: /, '').replace(/^./, (first) => first.toUpperCase()).replace(/([^.?)])$/, '$1.');
  return new PhaulError('ERR_USAGE', sentence);
}

// Sockets, threads of the library and an ssh child may still be open: they have nothing left to do.
process.exit(await main(process.argv.slice(2)));
