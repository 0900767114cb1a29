/** Flags of native/phaul.h. */
import type { CheckFlags, RestoreFlags } from './engine.ts';

const TCP_CLOSE = 1;
const TO_DIRECTORY = 2;
export const LEAVE_STOPPED = 4;
const LINK_REMAP = 8;
const FILE_LOCKS = 16;
const TCP_ESTABLISHED = 32;
const SKIP_IN_FLIGHT = 64;
const TCP_AT_END = 128;
const OTHER_KERNEL = 256;
const STDIO_ELSEWHERE = 512;

const FLAGS = {
  tcpClose: TCP_CLOSE,
  toDirectory: TO_DIRECTORY,
  linkRemap: LINK_REMAP,
  fileLocks: FILE_LOCKS,
  tcpEstablished: TCP_ESTABLISHED,
  skipInFlight: SKIP_IN_FLIGHT,
  tcpAtEnd: TCP_AT_END,
  otherKernel: OTHER_KERNEL,
  stdioElsewhere: STDIO_ELSEWHERE,
};

export const flagBits = (flags: Partial<CheckFlags & RestoreFlags & { otherKernel: boolean }>): number =>
  (Object.keys(FLAGS) as (keyof typeof FLAGS)[]).reduce((bits, name) => bits | (flags[name] === true ? FLAGS[name] : 0), 0);
