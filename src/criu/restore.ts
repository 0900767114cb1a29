/** criu's restore. */
import { closeSync, existsSync, openSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, Option } from 'commander';
import { restore } from '../checkpoint/restore.ts';
import { actionScriptOption } from '../cli/arguments.ts';
import { addCommon, cgroups, placed, type CommonFlags } from './options.ts';

interface RestoreFlags extends CommonFlags {
  tcpClose?: true;
  restoreDetached?: true;
  leaveStopped?: true;
}

const GONE_POLL_MS = 100;

/** criu stays as long as the process does, unless it is told not to. */
async function waitFor(pid: number): Promise<void> {
  while (existsSync(`/proc/${pid}`)) {
    await sleep(GONE_POLL_MS);
  }
}

export const restoreCommand = (warn: (sentence: string) => void): Command =>
  addCommon(new Command('restore').description('Lets a process tree go on from a directory.'))
    .addOption(new Option('-d, --restore-detached', 'end as soon as it runs'))
    .addOption(new Option('-s, --leave-stopped', 'leave it stopped'))
    .addOption(new Option('--tcp-close', 'established TCP connections are at their end'))
    .addOption(new Option('--tcp-established', 'established TCP connections go on, if they were dumped'))
    .addOption(new Option('-l, --file-locks', 'locks on files are taken again, if they were dumped'))
    .addOption(new Option('--link-remap', 'links that a dump has made are removed'))
    .addOption(new Option('--skip-in-flight', 'means something to dump alone'))
    .addOption(new Option('--auto-dedup', 'images stay as they are'))
    .addOption(actionScriptOption())
    .action(async (flags: RestoreFlags) => {
      // Opened first: a process that runs while nobody is told its pid would be worse than none.
      const pidfile = flags.pidfile === undefined ? undefined : openSync(placed(flags, flags.pidfile), 'w');
      const { pid } = restore(
        {
          directory: flags.imagesDir,
          tcp: flags.tcpClose === true ? 'end' : 'established',
          leaveStopped: flags.leaveStopped === true,
          cgroups: cgroups(flags),
          actionScripts: flags.actionScript ?? [],
        },
        warn,
      );
      if (pidfile !== undefined) {
        writeSync(pidfile, `${pid}\n`);
        closeSync(pidfile);
      }
      if (flags.restoreDetached !== true) {
        await waitFor(pid);
      }
    });
