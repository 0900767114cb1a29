/** phaul migrate PID [USER@]HOST[:PORT] */
import { Argument, Command, Option } from 'commander';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { inspect } from 'node:util';
import { Record } from '../records.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { emitTo, type DoneEvent, type PhaulEvent } from '../events.ts';
import type { MigrateOptions } from '../options.ts';
import { enterNamespaceOf } from '../pidNamespace.ts';
import { requireProgram } from '../source/program.ts';
import type { MoveIp } from '../addresses.ts';
import { cpuCheckOption, moveIpOption, parseBandwidth, parseDestination, parseOnDiverge, parsePid, parseTcp, parseTracker, program, wholeNumber } from './arguments.ts';
import { addCgroupOptions, cgroupOptions, type CgroupFlags } from './cgroupOptions.ts';
import { exitCodeOfDone, failedEvent } from '../done.ts';
import type { Output } from './output.ts';
import { addPlaceOptions, placeOptions, type PlaceFlags } from './placeOptions.ts';
import { addReachOptions, reachOptions, type ReachFlags } from './reachOptions.ts';
import { createView, type View } from './view.ts';

/** What QEMU allows a virtual machine by default; most processes stay far below. */
const MAX_DOWNTIME_MS = 300;

/** Two streams keep a CPU of each host busy with encryption, and leave the process its own. */
const STREAMS = 2;
const STREAMS_MAX = 16;

const ID_BYTES = 8;

interface MigrateFlags extends ReachFlags, CgroupFlags, PlaceFlags {
  maxDowntime: number;
  streams: number;
  tcp: MigrateOptions['tcp'];
  moveIp?: MoveIp[];
  hook?: string;
  tracker: NonNullable<MigrateOptions['tracker']> | 'auto';
  cpuCheck: MigrateOptions['cpuCheck'];
  onDiverge: MigrateOptions['onDiverge'];
  verify?: true;
  timeout?: number;
  freezeTimeout?: number;
  bandwidth?: number;
  report?: string;
  json?: true;
  verbose?: true;
}

const EPILOGUE = `
The process and all that descend from it keep their pids, memory, threads, open files and TCP
connections; files themselves and the addresses they use must be on the other host already, or
move too (--move-ip). "phaul check PID HOST" tells what is missing there.

The program of --hook finds the point in PHAUL_ACTION, and PHAUL_PID, PHAUL_NAME, PHAUL_TARGET beside
it; it has 10 s. If it fails at pre-dump or network-lock (the process stands still, and is complete
on the other host), nothing is moved, and network-unlock undoes network-lock.

Whatever fails before the commit leaves the process running here. Ctrl-C before the commit does too.

With --json, each line of stdout is an event: connect, preflight, arm, round, freeze, commit, notice,
log (with --verbose), and always a last one {"event":"done","outcome":"moved"|"failed"|"unknown",…}
with downtimeMs, totalMs, rounds, bytesSent, rssBytes, phases, and error if it wasn't moved.

Exit codes: 0 moved, 1 not moved and still running here, 2 wrong use, 3 unknown, look.`;

export function migrateCommand({ stdout, stderr }: { stdout: Output; stderr: Output }): Command {
  const command = new Command('migrate')
    .description('Moves process PID to HOST while it keeps working.')
    .addArgument(new Argument('<pid>', 'the process, with all its children and threads').argParser(parsePid))
    .addArgument(new Argument('<host>', '[USER@]HOST[:PORT], a Host of the ssh configuration, or [IPV6]').argParser(parseDestination))
    .addOption(new Option('--max-downtime <ms>', 'freeze as soon as the predicted downtime is this short').argParser(wholeNumber('--max-downtime', 1, 3_600_000)).default(MAX_DOWNTIME_MS))
    .addOption(new Option('--streams <n>', `parallel page streams, 1 to ${STREAMS_MAX}`).argParser(wholeNumber('--streams', 1, STREAMS_MAX)).default(STREAMS))
    .addOption(new Option('--tcp <mode>', 'TCP connections: move them (established), reset them (close), or refuse to move with any').argParser(parseTcp).default('established'))
    .addOption(moveIpOption())
    .addOption(new Option('--hook <file>', 'a program to be run at pre-dump, network-lock, network-unlock and post-resume').argParser(program('--hook')))
    .addOption(new Option('--tracker <how>', 'how pages that are written are found: uffd, soft-dirty, none, or the best that this kernel has (auto)').argParser(parseTracker).default('auto'))
    .addOption(cpuCheckOption())
    .addOption(new Option('--on-diverge <what>', 'when rounds stop shrinking: freeze anyway, or abort').argParser(parseOnDiverge).default('freeze'))
    .addOption(new Option('--verify', 'compare the memory of both sides while frozen; costs downtime'))
    .addOption(new Option('--bandwidth <rate>', 'send no more than this a second while the process runs: bytes, or with K, M, G').argParser(parseBandwidth))
    .addOption(new Option('--freeze-timeout <ms>', 'let the process go on here if it stands still for longer before the commit (default: by the prediction, 15 s at least)').argParser(wholeNumber('--freeze-timeout', 10, 3_600_000)))
    .addOption(new Option('--timeout <s>', 'give up, with the process running here, after this many seconds').argParser(wholeNumber('--timeout', 1, 86_400)));
  return addReachOptions(addCgroupOptions(addPlaceOptions(command)))
    .addOption(new Option('--report <file>', 'write an HTML page that shows the migration, for a browser: one file that needs no other'))
    .addOption(new Option('--json', 'print one event a line, as JSON'))
    .addOption(new Option('--verbose', 'print everything that is done, with times'))
    .addHelpText('after', EPILOGUE)
    .action(async (pid: number, host: string, flags: MigrateFlags) => {
      const view = createView({ json: flags.json === true, verbose: flags.verbose === true, stdout, stderr });
      process.exitCode = exitCodeOfDone(await run(migrateOptions(pid, host, flags), view, flags.report));
    });
}

const migrateOptions = (pid: number, host: string, flags: MigrateFlags): MigrateOptions => ({
  ...reachOptions(host, flags),
  id: randomBytes(ID_BYTES).toString('hex'),
  pid,
  maxDowntimeMs: flags.maxDowntime,
  streams: flags.streams,
  tcp: flags.tcp,
  moveIps: flags.moveIp ?? [],
  cgroups: cgroupOptions(flags),
  ...placeOptions(flags),
  ...(flags.hook !== undefined && { hook: flags.hook }),
  ...(flags.tracker !== 'auto' && { tracker: flags.tracker }),
  cpuCheck: flags.cpuCheck,
  onDiverge: flags.onDiverge,
  verify: flags.verify === true,
  ...(flags.timeout !== undefined && { timeoutMs: flags.timeout * 1000 }),
  ...(flags.freezeTimeout !== undefined && { freezeTimeoutMs: flags.freezeTimeout }),
  ...(flags.bandwidth !== undefined && { bandwidth: flags.bandwidth }),
});

async function run(wanted: MigrateOptions, view: View, report: string | undefined): Promise<DoneEvent> {
  const shown: PhaulEvent[] = [];
  const record = new Record(wanted.id, 'source');
  const emit = emitTo((event) => {
    shown.push(event);
    record.write(event);
    view.show(event);
  });
  let comm = '';
  let done: DoneEvent;
  try {
    requireWritable(report);
    const options = { ...wanted, pid: await enterNamespaceOf(wanted.pid) };
    comm = await requireProgram(options.pid);
    const { migrate } = await import('../migrate.ts');
    done = await migrate(options, emit, stopSignal());
  } catch (thrown) {
    emit({ event: 'log', level: 'debug', text: inspect(asPhaulError(thrown).cause ?? thrown) });
    done = failedEvent(wanted.pid, asPhaulError(thrown), comm, shown);
  }
  record.write(done);
  await writeReport(report, wanted.id, [...shown, done]).catch((thrown: unknown) => emit({ event: 'notice', text: `The report ${report} can't be written: ${asPhaulError(thrown).message}` }));
  view.show(done);
  return done;
}

/** Before anything is moved; a file that is there is left as it is until it is replaced. */
function requireWritable(report: string | undefined): void {
  if (report === undefined) {
    return;
  }
  try {
    closeSync(openSync(report, 'a'));
  } catch (cause) {
    throw new PhaulError('ERR_USAGE', `--report ${report} can't be written: ${(cause as Error).message}.`, { cause });
  }
}

async function writeReport(report: string | undefined, id: string, events: PhaulEvent[]): Promise<void> {
  if (report !== undefined) {
    const { page } = await import('../web/page.ts');
    writeFileSync(report, page([{ id, side: 'source', events: events.filter(({ event }) => event !== 'log') }]));
  }
}

/** Aborted by Ctrl-C, by a service manager's TERM or by a lost terminal. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => controller.abort(signal));
  }
  return controller.signal;
}
