/** phaul dump -t PID -D DIR, phaul restore -D DIR */
import { Command, Option } from 'commander';
import { PhaulError } from '../errors.ts';
import { formatBytes } from '../events.ts';
import type { DumpOptions, RestoreOptions } from '../options.ts';
import { requireProgram } from '../source/plan.ts';
import { parseTcp, parsePid, parseRestoreTcp } from './arguments.ts';
import { addCgroupOptions, cgroupOptions, type CgroupFlags } from './cgroupOptions.ts';
import type { Output } from './output.ts';

interface DumpFlags extends CgroupFlags {
  tree: number;
  imagesDir: string;
  leaveRunning?: true;
  linkRemap?: true;
  fileLocks?: true;
  skipInFlight?: true;
  tcp: DumpOptions['tcp'];
  json?: true;
}

interface RestoreFlags extends CgroupFlags {
  imagesDir: string;
  tcp: RestoreOptions['tcp'];
  json?: true;
}

const DUMP_EPILOGUE = `
The images are in CRIU's format, for the process with all its children. All end when everything is on
disk, or go on with --leave-running. Files that they have open are named in the images, not copied: they
must be unchanged when the processes are restored.

Exit codes: 0 written, 1 not written and the process still runs, 2 wrong use.`;

const RESTORE_EPILOGUE = `
The processes get the pids that they had, which must be free; the first is a child of init. The images
stay: what is restored twice runs twice, each time from the same moment.

Exit codes: 0 it runs, 1 it doesn't, 2 wrong use.`;

const imagesDir = (): Option => new Option('-D, --images-dir <dir>', 'where the images are').makeOptionMandatory();
const json = (): Option => new Option('--json', 'print the result as JSON');

function requireRoot(): void {
  if (process.geteuid?.() !== 0) {
    throw new PhaulError('ERR_NOT_ROOT', 'To stop, read and build processes takes root: run phaul with sudo.');
  }
}

export const dumpCommand = ({ stdout }: { stdout: Output }): Command =>
  addCgroupOptions(new Command('dump'))
    .description('Writes a process and its children to a directory, from which they can be restored.')
    .addOption(new Option('-t, --tree <pid>', 'the process').argParser(parsePid).makeOptionMandatory())
    .addOption(imagesDir())
    .addOption(new Option('-R, --leave-running', 'let the process go on instead of ending it'))
    .addOption(new Option('--link-remap', 'for open files whose name was deleted but that have another (a hard link): make a link beside the old name until restore'))
    .addOption(new Option('--file-locks', 'dump locks on files too; others may take them before restore, which then fails'))
    .addOption(
      new Option('--tcp <mode>', 'established TCP connections: refuse to dump, close (reset) them, or established: dump them, and drop their packets until they are restored')
        .argParser(parseTcp)
        .default('refuse'),
    )
    .addOption(new Option('--skip-in-flight', 'leave out connections that wait to be accepted'))
    .addOption(json())
    .addHelpText('after', DUMP_EPILOGUE)
    .action(async ({ tree: pid, imagesDir: directory, tcp, ...flags }: DumpFlags) => {
      const leaveRunning = flags.leaveRunning === true;
      requireRoot();
      const comm = await requireProgram(pid);
      const { dump } = await import('../checkpoint.ts');
      const dumped = dump({ pid, directory, tcp, leaveRunning, linkRemap: flags.linkRemap === true, fileLocks: flags.fileLocks === true, skipInFlight: flags.skipInFlight === true, cgroups: cgroupOptions(flags) });
      stdout.write(
        flags.json === true
          ? `${JSON.stringify(dumped)}\n`
          : `wrote ${comm} (pid ${pid}) to ${directory}: ${formatBytes(dumped.bytes)} of memory, frozen for ${dumped.frozenMs.toFixed(0)} ms${leaveRunning ? '; it goes on' : ''}\n`,
      );
    });

export const restoreCommand = ({ stdout, stderr }: { stdout: Output; stderr: Output }): Command =>
  addCgroupOptions(new Command('restore'))
    .description('Lets processes go on that phaul dump has written.')
    .addOption(imagesDir())
    .addOption(new Option('--tcp <mode>', 'TCP connections that were dumped: established goes on with them, close resets them').argParser(parseRestoreTcp).default('established'))
    .addOption(json())
    .addHelpText('after', RESTORE_EPILOGUE)
    .action(async ({ imagesDir: directory, tcp, json: asJson, ...flags }: RestoreFlags) => {
      requireRoot();
      const { restore } = await import('../checkpoint.ts');
      const { pid, notices } = restore({ directory, tcp, cgroups: cgroupOptions(flags) });
      notices.forEach((notice) => stderr.write(`notice: ${notice}\n`));
      stdout.write(asJson === true ? `${JSON.stringify({ pid, directory, notices })}\n` : `pid ${pid} goes on from ${directory}\n`);
    });
