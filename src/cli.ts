/** The command `phaul`: reads the command line, runs one command, exits with what DESIGN promises. */
import { CommanderError } from 'commander';
import { configure } from './cli/config.ts';
import { failedEvent } from './done.ts';
import { openOutput } from './cli/output.ts';
import { createProgram } from './cli/program.ts';
import { asPhaulError, PhaulError, type ExitCode } from './errors.ts';
import { oneLine } from './events.ts';
import { CONFIG_FILE } from './places.ts';

const stdout = openOutput(process.stdout);
const stderr = openOutput(process.stderr);

/** Commands set process.exitCode; what is thrown up to here is a wrong command line or a failure. */
async function main(words: string[]): Promise<ExitCode> {
  try {
    const program = createProgram({ stdout, stderr });
    configure(program.commands, CONFIG_FILE);
    await program.parseAsync(words, { from: 'user' });
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
    return new PhaulError('ERR_USAGE', words.includes('--json') ? 'A command is missing: migrate, check, dump, pre-dump, restore, dedup, inspect, page-server or agent.' : '');
  }
  const sentence = message.replace(/^error: /, '').replace(/^./, (first) => first.toUpperCase()).replace(/([^.?)])$/, '$1.');
  return new PhaulError('ERR_USAGE', sentence);
}

/** What the reader of a pipe has not had room for yet, or nothing if it is gone. */
const written = (stream: NodeJS.WriteStream): Promise<void> => new Promise((resolve) => stream.write('', () => resolve()));

const exitCode = await main(process.argv.slice(2));
await Promise.all([written(process.stdout), written(process.stderr)]);
// Sockets, threads of the library and an ssh child may still be open: they have nothing left to do.
process.exit(exitCode);
