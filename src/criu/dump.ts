/** criu's dump, pre-dump and dedup. */
import { Command, Option } from 'commander';
import { dedup } from '../checkpoint/dedup.ts';
import { dump, preDump } from '../checkpoint/dump.ts';
import { actionScriptOption, parsePid } from '../cli/arguments.ts';
import type { DumpOptions, PreDumpOptions } from '../options.ts';
import { addCommon, cgroups, type CommonFlags } from './options.ts';

interface PreDumpFlags extends CommonFlags {
  tree: number;
  prevImagesDir?: string;
  autoDedup?: true;
}

interface DumpFlags extends PreDumpFlags {
  leaveRunning?: true;
  leaveStopped?: true;
  linkRemap?: true;
  fileLocks?: true;
  tcpClose?: true;
  tcpEstablished?: true;
  skipInFlight?: true;
}

const addDumping = (command: Command): Command =>
  addCommon(command)
    .addOption(new Option('-t, --tree <pid>', 'the root of the tree').argParser(parsePid).makeOptionMandatory())
    .addOption(new Option('--prev-images-dir <dir>', 'the checkpoint before, seen from the images'))
    .addOption(new Option('--auto-dedup', 'free the disk from what checkpoints before have of pages that were written now'))
    .addOption(new Option('-R, --leave-running', 'let it go on afterwards'))
    .addOption(new Option('-l, --file-locks', 'locks on files are dumped too'))
    .addOption(new Option('--link-remap', 'make links for files whose name is gone but that have another'))
    .addOption(new Option('--tcp-close', 'reset established TCP connections'))
    .addOption(new Option('--tcp-established', 'dump established TCP connections; their packets are dropped until they are restored'))
    .addOption(new Option('--skip-in-flight', 'leave out connections that wait to be accepted'))
    .addOption(new Option('-s, --leave-stopped', 'leave it stopped afterwards'))
    .addOption(actionScriptOption());

const preDumpOptions = ({ tree: pid, imagesDir: directory, prevImagesDir: previous, autoDedup }: PreDumpFlags): PreDumpOptions => ({
  pid,
  directory,
  autoDedup: autoDedup === true,
  ...(previous !== undefined && { previous }),
});

const tcpMode = ({ tcpClose, tcpEstablished }: DumpFlags): DumpOptions['tcp'] => (tcpClose === true ? 'close' : tcpEstablished === true ? 'established' : 'refuse');

export const dumpCommand = (warn: (sentence: string) => void): Command =>
  addDumping(new Command('dump').description('Writes a process tree to a directory.')).action((flags: DumpFlags) => {
    dump(
      {
        ...preDumpOptions(flags),
        tcp: tcpMode(flags),
        afterwards: flags.leaveStopped === true ? 'stop' : flags.leaveRunning === true ? 'run' : 'kill',
        skipInFlight: flags.skipInFlight === true,
        linkRemap: flags.linkRemap === true,
        fileLocks: flags.fileLocks === true,
        cgroups: cgroups(flags),
        actionScripts: flags.actionScript ?? [],
      },
      warn,
    );
  });

/** What is no memory means nothing to it, as with criu. */
export const preDumpCommand = (): Command =>
  addDumping(new Command('pre-dump').description('Writes the memory of a running process tree to a directory.')).action((flags: PreDumpFlags) => {
    preDump(preDumpOptions(flags));
  });

export const dedupCommand = (): Command =>
  addCommon(new Command('dedup').description('Frees the disk from pages that newer images have replaced.')).action(({ imagesDir }: CommonFlags) => {
    dedup(imagesDir);
  });
