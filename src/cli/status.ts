/** phaul status, phaul resolve ID [[USER@]HOST] */
import { Argument, Command, Option } from 'commander';
import { hostname } from 'node:os';
import { PhaulError } from '../errors.ts';
import { oneLine } from '../events.ts';
import type { Status } from '../status.ts';
import { parseDestination } from './arguments.ts';
import type { Output } from './output.ts';
import { addReachOptions, reachOptions, type ReachFlags } from './reachOptions.ts';

/** Of those that are over. */
const SHOWN = 20;

const STATUS_EPILOGUE = `
Each migration in which this host gave or received a process has a journal in /var/lib/phaul/journal,
which is kept for a month after it is over. The last ${SHOWN} that are over are shown, and all others.

With --json, each is a line {"event":"migration","id":…,"side":"source"|"target","pid":…,"comm":…,
"host":…,"journal":…,"began":…,"at":…,"state":"moving"|"waits"|"over","text":…,"command":…}.

Exit codes: 0 nothing waits, 3 something waits for the command that is shown.`;

const RESOLVE_EPILOGUE = `
On the host that gave the process away, it asks the other one for its journal and does what both prove:
ends the original if the process runs there, lets it go on if it never ran there, lets the copy go if it
is held there and the move was committed. Where the journals don't tell, it says what is missing and
changes nothing; --keep decides, and is only for whoever has looked. On the host that received it, give
the way to the one that it came from.

Exit codes: 0 settled, 1 not now, 2 wrong use, 3 still unknown: the message says what to do.`;

const clock = (at: number): string => new Date(at).toISOString().slice(0, 19).replace('T', ' ');

const line = ({ id, side, pid, comm, host, began, text, command }: Status): string =>
  oneLine(`${clock(began)}  ${id}  ${comm} (pid ${pid}) ${side === 'source' ? 'to' : 'from'} ${host}: ${text}${command === undefined ? '' : `; run: ${command}`}`);

function requireRoot(): void {
  if (process.geteuid?.() !== 0) {
    throw new PhaulError('ERR_NOT_ROOT', `The journals on ${hostname()} are root's: run phaul with sudo.`);
  }
}

export const statusCommand = ({ stdout }: { stdout: Output }): Command =>
  new Command('status')
    .description('Tells what moves or has moved on this host, and where each process is.')
    .addOption(new Option('-a, --all', 'all that the journals know'))
    .addOption(new Option('--json', 'print one line of JSON for each'))
    .addHelpText('after', STATUS_EPILOGUE)
    .action(async ({ all, json }: { all?: true; json?: true }) => {
      requireRoot();
      const { status } = await import('../status.ts');
      const known = await status();
      const old = all === true ? [] : known.filter(({ state }) => state === 'over').slice(0, -SHOWN);
      for (const one of known.filter((some) => !old.includes(some))) {
        stdout.write(json === true ? `${JSON.stringify({ event: 'migration', ...one })}\n` : `${line(one)}\n`);
      }
      if (known.length === 0 && json !== true) {
        stdout.write('No process has been moved from or to this host.\n');
      }
      process.exitCode = known.some(({ state }) => state === 'waits') ? 3 : 0;
    });

function parseId(text: string): string {
  if (!/^[0-9a-f]{1,64}$/.test(text)) {
    throw new PhaulError('ERR_USAGE', `"${text}" is no migration: "phaul status" lists them.`);
  }
  return text;
}

function parseKeep(text: string): 'here' | 'there' {
  if (text !== 'here' && text !== 'there') {
    throw new PhaulError('ERR_USAGE', `--keep takes here or there, not "${text}".`);
  }
  return text;
}

interface ResolveFlags extends ReachFlags {
  keep?: 'here' | 'there';
  json?: true;
}

export function resolveCommand({ stdout, stderr }: { stdout: Output; stderr: Output }): Command {
  const command = new Command('resolve')
    .description('Settles a migration that was not seen through, so that its process runs on one host.')
    .addArgument(new Argument('<id>', 'of the migration, as "phaul status" shows it; its beginning is enough').argParser(parseId))
    .addArgument(new Argument('[host]', 'the other host, if it is not reached as it was then').argParser(parseDestination))
    .addOption(new Option('--keep <where>', 'if the journals leave it open: the copy that is here, or there, goes on').argParser(parseKeep));
  return addReachOptions(command)
    .addOption(new Option('--json', 'print the answer as JSON'))
    .addHelpText('after', RESOLVE_EPILOGUE)
    .action(async (id: string, host: string | undefined, flags: ResolveFlags) => {
      requireRoot();
      const { resolve } = await import('../resolve.ts');
      const answer = await resolve({ id, ...(flags.keep !== undefined && { keep: flags.keep }), ...(host !== undefined && { reach: reachOptions(host, flags) }) });
      if (flags.json === true) {
        stdout.write(`${JSON.stringify({ event: 'resolved', ...answer })}\n`);
      }
      if (flags.json !== true || !answer.settled) {
        (answer.settled ? stdout : stderr).write(`${answer.settled ? '' : 'phaul: '}${oneLine(answer.text)}\n`);
      }
      process.exitCode = answer.settled ? 0 : 3;
    });
}
