/** The engine by libphaul.so. */
import { LibraryChannel, PRIORITIES } from './channel.ts';
import { checkCpu, dedup, dumpCpu, openCheckpoint, openRestore, preDump, receivePages } from './checkpoint.ts';
import type { Engine, Findings, TrackerName } from './engine.ts';
import { openFiles, openReceivedFiles, settleFiles } from './files.ts';
import { flagBits } from './flags.ts';
import { ms, must, native, open, said, text, type Pointer } from './library.ts';
import { attach } from './remoteThread.ts';
import { LibrarySource } from './source.ts';
import { LibraryTarget } from './target.ts';
import { tcp } from './tcpConnections.ts';

const CHECK_TEXT_BYTES = 1 << 20;
const WATCHED_TEXT_BYTES = 8 << 20;
const CLOCKS_TEXT_BYTES = 64;
const TRACKER_BYTES = 16;

/** "CODE\tsubject\tsentence" for an obstacle, with ~ in front for a notice. */
function parseFindings(lines: string): Findings {
  const findings: Findings = { obstacles: [], notices: [] };
  for (const line of lines.split('\n').filter((some) => some !== '')) {
    const [code = '', subject = '', sentence = ''] = line.replace(/^~/, '').split('\t');
    (line.startsWith('~') ? findings.notices : findings.obstacles).push({ code, subject, sentence });
  }
  return findings;
}

const closeChannel = (pointer: Pointer): void => native().closeChannel(pointer);

export const engine: Engine = {
  tcp,
  attach,
  check: (pid, flags) =>
    parseFindings(text(CHECK_TEXT_BYTES, (buffer, error) => native().check(pid, flagBits(flags), buffer, buffer.length, error) as number)),
  watched: (pid) => text(WATCHED_TEXT_BYTES, (buffer, error) => native().watched(pid, buffer, buffer.length, error) as number).split('\n').filter((path) => path !== ''),
  listen: (address, key, streams) =>
    new LibraryChannel(open((ret, error) => native().listen(address, 0, key, streams, ret, error)), closeChannel),
  connect: (address, port, key, streams, timeoutMs) =>
    new LibraryChannel(open((ret, error) => native().connect(address, port, key, streams, timeoutMs, ret, error)), closeChannel),
  abort: (channelAddress) => native().abort(channelAddress),
  openSource: (pid, { tcpClose, tcpEstablished = false, otherKernel }, addresses, cgroups) =>
    new LibrarySource(open((ret, error) => native().openSource(pid, flagBits({ tcpClose, tcpEstablished, otherKernel }), addresses, cgroups, ret, error)), (pointer) => native().closeSource(pointer)),
  tracker: (wanted) => text(TRACKER_BYTES, (buffer, error) => native().tracker(wanted ?? null, buffer, error) as number) as TrackerName,
  xsaveBytes: () => native().xsaveSize() as number,
  clocks: (pid) => text(CLOCKS_TEXT_BYTES, (buffer, error) => native().clocks(pid, buffer, buffer.length, error) as number),
  openTarget: (pid, addresses, cgroups, clocks, clocksAtNs, clocksUnsureNs) =>
    new LibraryTarget(open((ret, error) => native().openTarget(pid, 0, addresses, cgroups, clocks, clocksAtNs, clocksUnsureNs, ret, error)), (pointer) => native().closeTarget(pointer)),
  endOriginal: (pid) => void must((error) => native().endOriginal(pid, error)),
  resumeOriginal: (pid, addresses, except, locks) => said((lost) => void must((error) => native().resumeOriginal(pid, addresses, except.join(' '), locks, lost, lost.length, error))),
  openCheckpoint,
  preDump,
  receivePages,
  dedup,
  dumpCpu,
  checkCpu,
  openRestore,
  openFiles,
  openReceivedFiles,
  settleFiles,
  runInPidNamespace: (words, environment, lastPid) => {
    const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    return must((error) => native().pidNamespace([...words, null], [...variables, null], lastPid, error));
  },
  peerUser: (fd) => {
    const uid = [0];
    must((error) => native().peerUser(fd, uid, error));
    return uid[0] ?? 0;
  },
  setPriority: (priority) => void native().priority(PRIORITIES[priority]),
  nowMs: () => ms(native().now()),
  tlsBaseline: (bytes) => {
    const gbps = [0];
    must((error) => native().baseline(bytes, gbps, error));
    return (gbps[0] ?? 0) * 1e9;
  },
};
