/** All commands with their options. */
import { Command } from 'commander';
import { version } from '../version.ts';
import { agentCommand } from './agent.ts';
import { checkCommand } from './check.ts';
import { dedupCommand, dumpCommand, preDumpCommand, restoreCommand } from './checkpoint.ts';
import { inspectCommand } from './inspect.ts';
import { migrateCommand } from './migrate.ts';
import type { Output } from './output.ts';
import { pageServerCommand } from './pageServer.ts';
import { resolveCommand, statusCommand } from './status.ts';

const EPILOGUE = `
Examples:
  phaul check 4242                  what would stop process 4242 from moving
  phaul check 4242 root@beta        the same, and what beta lacks for it
  phaul migrate 4242 root@beta      move it while it keeps working
  phaul migrate $(pgrep redis) beta --tcp close --max-downtime 50
  phaul status                      what moves or has moved here, and where it is
  phaul resolve 3f9a                settle a migration that was not seen through
  phaul dump -t 4242 -D /var/tmp/4242   write it to a directory, and end it
  phaul restore -D /var/tmp/4242        let it go on from there
  phaul pre-dump -t 4242 -D /var/tmp/1  write its memory while it runs, for a dump that follows
  phaul inspect /var/tmp/4242           what is in there

Exit codes:
  0  moved (check: it can move)
  1  not moved, the process still runs here (check: it can't move)
  2  wrong use, nothing was touched
  3  it isn't known where the process is now; the message says what to run

Both hosts need root and phaul of the same version; the way to the other host is ssh.
"phaul COMMAND --help" explains each command, README.md and ARCHITECTURE.md the rest.`;

export function createProgram({ stdout, stderr }: { stdout: Output; stderr: Output }): Command {
  const program = new Command('phaul')
    .description('Moves a running process to another Linux host while it keeps working.')
    .version(version, '--version', 'print the version')
    .helpOption('-h, --help', 'print this')
    .helpCommand(false)
    .addHelpText('after', EPILOGUE);
  program.addCommand(migrateCommand({ stdout, stderr }));
  program.addCommand(checkCommand({ stdout }));
  program.addCommand(statusCommand({ stdout }));
  program.addCommand(resolveCommand({ stdout, stderr }));
  for (const command of [dumpCommand, preDumpCommand, restoreCommand, dedupCommand]) {
    program.addCommand(command({ stdout, stderr }));
  }
  program.addCommand(inspectCommand({ stdout }));
  program.addCommand(agentCommand());
  program.addCommand(pageServerCommand());
  for (const command of [program, ...program.commands]) {
    command
      .exitOverride()
      .configureOutput({ writeOut: stdout.write, writeErr: stderr.write, outputError: () => {} })
      .allowExcessArguments(false);
  }
  return program;
}
