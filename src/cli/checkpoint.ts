/** phaul dump -t PID -D DIR, phaul pre-dump, phaul restore -D DIR, phaul dedup DIR */
import { Command, Option } from 'commander';
import { PhaulError } from '../errors.ts';
import { formatBytes } from '../events.ts';
import type { DumpOptions, PageServerOptions, PreDumpOptions, RestoreOptions } from '../options.ts';
import { enterNamespaceOf } from '../pidNamespace.ts';
import { requireProgram } from '../source/program.ts';
import { actionScriptOption, parsePid, parsePlace, parseRestoreTcp, parseTcp } from './arguments.ts';
import { addCgroupOptions, cgroupOptions, type CgroupFlags } from './cgroupOptions.ts';
import type { Output } from './output.ts';
import { addReachOptions, reachOptions, type ReachFlags } from './reachOptions.ts';

interface PreDumpFlags extends ReachFlags {
  tree: number;
  imagesDir: string;
  prevImagesDir?: string;
  autoDedup?: true;
  pageServer?: { destination: string; directory: string };
  json?: true;
}

interface DumpFlags extends PreDumpFlags, CgroupFlags {
  leaveRunning?: true;
  leaveStopped?: true;
  linkRemap?: true;
  fileLocks?: true;
  skipInFlight?: true;
  tcp: DumpOptions['tcp'];
  actionScript?: string[];
}

interface RestoreFlags extends CgroupFlags {
  imagesDir: string;
  tcp: RestoreOptions['tcp'];
  leaveStopped?: true;
  actionScript?: string[];
  json?: true;
}

interface Outputs {
  stdout: Output;
  stderr: Output;
}

const DUMP_EPILOGUE = `
The images are in CRIU's format, for the process with all its children. All end when everything is on
disk, or go on with --leave-running. Files that they have open are named in the images, not copied: they
must be unchanged when the processes are restored.

With --prev-images-dir, pages that a checkpoint or pre-dump before has the same are not written again;
that directory must stay, at the same place seen from this one.

An action script finds its point in CRTOOLS_SCRIPT_ACTION: pre-dump, network-lock, post-dump,
network-unlock; beside it CRTOOLS_IMAGE_DIR and CRTOOLS_INIT_PID. If it fails the processes go on, and
there are no images.

Exit codes: 0 written, 1 not written and the process still runs, 2 wrong use.`;

const PRE_DUMP_EPILOGUE = `
The processes run on meanwhile. "phaul dump --prev-images-dir" compares with what was written here, so that
it writes, while they stand still, only what has changed. That can be done again and again, each time with
the one before as --prev-images-dir. A pre-dump alone can't be restored.

Exit codes: 0 written, 1 not written, 2 wrong use.`;

const RESTORE_EPILOGUE = `
The processes get the pids that they had, which must be free; the first is a child of init. The images
stay: what is restored twice runs twice, each time from the same moment.

An action script finds its point in CRTOOLS_SCRIPT_ACTION: pre-restore, setup-namespaces,
post-setup-namespaces, post-restore, network-unlock, pre-resume, post-resume; beside it CRTOOLS_IMAGE_DIR and
CRTOOLS_INIT_PID. If it fails before network-unlock nothing runs.

Exit codes: 0 it runs, 1 it doesn't, 2 wrong use.`;

const DEDUP_EPILOGUE = `
Follows the links "parent". What a checkpoint before has of pages that a later one has newer ones of takes no
place on the disk any more; that checkpoint can be restored only by the one that was named here.

Exit codes: 0 done, 1 failed, 2 wrong use.`;

const imagesDir = (): Option => new Option('-D, --images-dir <dir>', 'where the images are').makeOptionMandatory();
const json = (): Option => new Option('--json', 'print the result as JSON');
const leaveStopped = (what: string): Option => new Option('-s, --leave-stopped', what).conflicts('leaveRunning');

function requireRoot(): void {
  if (process.geteuid?.() !== 0) {
    throw new PhaulError('ERR_NOT_ROOT', 'To stop, read and build processes takes root: run phaul with sudo.');
  }
}

const warnTo = (stderr: Output) => (sentence: string): void => stderr.write(`phaul: warning: ${sentence}\n`);

const addPreDumpOptions = (command: Command): Command =>
  addReachOptions(command)
    .addOption(new Option('-t, --tree <pid>', 'the process').argParser(parsePid).makeOptionMandatory())
    .addOption(imagesDir())
    .addOption(new Option('--prev-images-dir <dir>', 'the checkpoint or pre-dump before, seen from the image directory'))
    .addOption(new Option('--page-server <place>', '[USER@]HOST:/DIR: pages go there, through ssh and an encrypted connection, and all else as well, so that it can be restored there').argParser(parsePlace))
    .addOption(new Option('--auto-dedup', 'free the disk from what checkpoints before have of pages that were written now: they can\'t be restored by themselves then'));

const preDumpOptions = ({ tree: pid, imagesDir: directory, prevImagesDir: previous, autoDedup }: PreDumpFlags): PreDumpOptions => ({
  pid,
  directory,
  autoDedup: autoDedup === true,
  ...(previous !== undefined && { previous }),
});

const pageServerOptions = ({ pageServer, ...flags }: PreDumpFlags): PageServerOptions | undefined =>
  pageServer === undefined ? undefined : { ...reachOptions(pageServer.destination, flags), directory: pageServer.directory };

const placeOf = ({ directory }: PreDumpOptions, server: PageServerOptions | undefined): string => (server === undefined ? directory : `${server.destination}:${server.directory}`);

const dumpOptions = (flags: DumpFlags): DumpOptions => ({
  ...preDumpOptions(flags),
  tcp: flags.tcp,
  afterwards: flags.leaveRunning === true ? 'run' : flags.leaveStopped === true ? 'stop' : 'kill',
  linkRemap: flags.linkRemap === true,
  fileLocks: flags.fileLocks === true,
  skipInFlight: flags.skipInFlight === true,
  cgroups: cgroupOptions(flags),
  actionScripts: flags.actionScript ?? [],
});

/** "12 MiB of memory", "12 MiB of memory, 3 MiB of it anew". */
const memoryText = (bytes: number, writtenBytes: number, previous: string | undefined): string =>
  `${formatBytes(bytes)} of memory${previous === undefined ? '' : `, ${formatBytes(writtenBytes)} of it anew`}`;

const AFTERWARDS: Record<DumpOptions['afterwards'], string> = { kill: '', run: '; it goes on', stop: '; it is stopped' };

export const dumpCommand = ({ stdout, stderr }: Outputs): Command =>
  addPreDumpOptions(addCgroupOptions(new Command('dump')).description('Writes a process and its children to a directory, from which they can be restored.'))
    .addOption(new Option('-R, --leave-running', 'let the process go on instead of ending it'))
    .addOption(leaveStopped('leave the process stopped (SIGSTOP) instead of ending it; TCP connections that were dumped go on only by a restore then'))
    .addOption(new Option('--link-remap', 'for open files whose name was deleted but that have another (a hard link): make a link beside the old name until restore'))
    .addOption(new Option('--file-locks', 'dump locks on files too; others may take them before restore, which then fails'))
    .addOption(
      new Option('--tcp <mode>', 'established TCP connections: refuse to dump, close (reset) them, or established: dump them, and drop their packets until they are restored')
        .argParser(parseTcp)
        .default('refuse'),
    )
    .addOption(new Option('--skip-in-flight', 'leave out connections that wait to be accepted'))
    .addOption(actionScriptOption())
    .addOption(json())
    .addHelpText('after', DUMP_EPILOGUE)
    .action(async (flags: DumpFlags) => {
      requireRoot();
      const given = dumpOptions(flags);
      const options = { ...given, pid: await enterNamespaceOf(given.pid) };
      const comm = await requireProgram(options.pid);
      const server = pageServerOptions(flags);
      const dumped = server === undefined
        ? (await import('../checkpoint/dump.ts')).dump(options, warnTo(stderr))
        : await (await import('../checkpoint/elsewhere.ts')).dumpElsewhere(server, options, warnTo(stderr));
      const { pid, bytes, writtenBytes, frozenMs } = dumped;
      stdout.write(
        flags.json === true
          ? `${JSON.stringify(dumped)}\n`
          : `wrote ${comm} (pid ${pid}) to ${placeOf(options, server)}: ${memoryText(bytes, writtenBytes, options.previous)}, frozen for ${frozenMs.toFixed(0)} ms${AFTERWARDS[options.afterwards]}\n`,
      );
    });

export const preDumpCommand = ({ stdout, stderr }: Outputs): Command =>
  addPreDumpOptions(new Command('pre-dump').description('Writes the memory of a running process and its children to a directory, for a dump that follows.'))
    .addOption(json())
    .addHelpText('after', PRE_DUMP_EPILOGUE)
    .action(async (flags: PreDumpFlags) => {
      requireRoot();
      const given = preDumpOptions(flags);
      const options = { ...given, pid: await enterNamespaceOf(given.pid) };
      const comm = await requireProgram(options.pid);
      const server = pageServerOptions(flags);
      const dumped = server === undefined
        ? (await import('../checkpoint/dump.ts')).preDump(options)
        : await (await import('../checkpoint/elsewhere.ts')).preDumpElsewhere(server, options, warnTo(stderr));
      stdout.write(
        flags.json === true
          ? `${JSON.stringify(dumped)}\n`
          : `wrote memory of ${comm} (pid ${options.pid}) to ${placeOf(options, server)}: ${memoryText(dumped.bytes, dumped.writtenBytes, options.previous)}\n`,
      );
    });

export const restoreCommand = ({ stdout, stderr }: Outputs): Command =>
  addCgroupOptions(new Command('restore'))
    .description('Lets processes go on that phaul dump has written.')
    .addOption(imagesDir())
    .addOption(new Option('--tcp <mode>', 'TCP connections that were dumped: established goes on with them, close resets them').argParser(parseRestoreTcp).default('established'))
    .addOption(leaveStopped('leave them stopped (SIGSTOP), before their first instruction'))
    .addOption(actionScriptOption())
    .addOption(json())
    .addHelpText('after', RESTORE_EPILOGUE)
    .action(async ({ imagesDir: directory, tcp, ...flags }: RestoreFlags) => {
      requireRoot();
      const { restore } = await import('../checkpoint/restore.ts');
      const stopped = flags.leaveStopped === true;
      const { pid, notices } = restore({ directory, tcp, leaveStopped: stopped, cgroups: cgroupOptions(flags), actionScripts: flags.actionScript ?? [] }, warnTo(stderr));
      notices.forEach((notice) => stderr.write(`notice: ${notice}\n`));
      stdout.write(flags.json === true ? `${JSON.stringify({ pid, directory, notices })}\n` : `pid ${pid} ${stopped ? 'is restored, and stopped' : 'goes on'} from ${directory}\n`);
    });

export const dedupCommand = ({ stdout }: Outputs): Command =>
  new Command('dedup')
    .description('Frees the disk from pages of older checkpoints that a newer one has replaced.')
    .argument('<dir>', 'the newest checkpoint')
    .addOption(json())
    .addHelpText('after', DEDUP_EPILOGUE)
    .action(async (directory: string, flags: { json?: true }) => {
      const { dedup } = await import('../checkpoint/dedup.ts');
      const freedBytes = dedup(directory);
      stdout.write(flags.json === true ? `${JSON.stringify({ directory, freedBytes })}\n` : `freed ${formatBytes(freedBytes)} of the checkpoints before ${directory}\n`);
    });
