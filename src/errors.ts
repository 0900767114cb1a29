/** Failures: one literal code each, the exit code it leads to, and a sentence an operator can act on. */

export type ExitCode = 0 | 1 | 2 | 3;

/**
 * 1: not moved, the process still runs at the source. 2: the command itself is wrong, no host was
 * asked. 3: nobody here knows where the process is now.
 */
const exitCodes = {
  ERR_USAGE: 2, // an argument or option is malformed, missing or unknown
  ERR_CONFIG: 2, // the configuration file can't be read, or says what no option understands
  ERR_NOT_ROOT: 2, // phaul runs without the rights that the kernel asks for
  ERR_NO_PROCESS: 2, // no process has this pid here
  ERR_KERNEL_THREAD: 2, // the pid is a thread of the kernel
  ERR_OWN_PROCESS: 2, // the pid is phaul itself or a process that phaul depends on
  ERR_INIT: 2, // the pid is 1, the init of its host or container
  ERR_NOT_AVAILABLE: 2, // a mode that exists by name but not in this version

  ERR_OBSTACLES: 1, // check or preflight found what can't move; see `obstacles`
  ERR_PROCESS_EXITED: 1, // the process ended by itself before it was moved
  ERR_DIVERGES: 1, // the rounds stopped shrinking and --on-diverge said abort
  ERR_FILE_CHANGED: 1, // a file of the process isn't on the target any more what preflight compared
  ERR_FILES: 1, // files that are to go along can't be sent
  ERR_VERIFY: 1, // memory differs between both sides at the freeze
  ERR_TIMEOUT: 1, // a phase took longer than it may
  ERR_INTERRUPTED: 1, // the operator stopped the migration before the commit
  ERR_HOOK: 1, // the operator's program (--hook) failed before the commit
  ERR_BUSY: 1, // another migration has this process or this agent
  ERR_ENGINE: 1, // a call of libphaul failed; the message says which and on what
  ERR_LIBRARY: 1, // libphaul.so is missing or of another ABI
  ERR_JOURNAL: 1, // this host's journal of the migration can't be written
  ERR_AGENT_SOCKET: 1, // the agent's own socket can't be opened, or it isn't root's
  ERR_NAMESPACE: 1, // the pid namespace that the process is in can't be entered
  ERR_UNIT: 1, // systemd can't make the unit that the process is to be in
  ERR_BUG: 1, // an exception that nobody foresaw, before the commit

  ERR_REACH_RESOLVE: 1, // the host's name has no address
  ERR_REACH_UNREACHABLE: 1, // nothing answers at the host's ssh port
  ERR_REACH_TIMEOUT: 1, // the host took too long to answer
  ERR_REACH_AUTH: 1, // the host accepted none of the keys
  ERR_REACH_HOST_KEY_CHANGED: 1, // known_hosts has another key for this host
  ERR_REACH_HOST_KEY_UNKNOWN: 1, // known_hosts has no key for this host
  ERR_REACH_CONFIG: 1, // an ssh configuration, identity or known_hosts file can't be used
  ERR_REACH_SUDO: 1, // the user isn't root there and sudo -n refuses
  ERR_REACH_NO_PHAUL: 1, // the host has no phaul command
  ERR_REACH_AGENT_EXITED: 1, // the agent on the host ended before it said hello

  ERR_PROTOCOL: 1, // the peer sent something that isn't in the protocol
  ERR_PEER_VERSION: 1, // the peer is a phaul of another version
  ERR_PEER: 1, // the peer failed and said why
  ERR_LINK_LOST: 1, // the control channel broke before the commit

  ERR_UNKNOWN_OUTCOME: 3, // the link broke after the commit: the target may run the process
} as const satisfies Record<string, ExitCode>;

export type ErrorCode = keyof typeof exitCodes;

export const isErrorCode = (text: string): text is ErrorCode => Object.hasOwn(exitCodes, text);

export const exitCodeOf = (code: ErrorCode): ExitCode => exitCodes[code];

/** One reason why a process can't move, or one thing that will be different afterwards. */
export interface Obstacle {
  /** An upper case word such as FD_KIND or FILE_MISSING. */
  code: string;
  /** What it is about: "fd 14", "memory 7f00…", "file /usr/bin/redis-server", "pid 7". */
  subject: string;
  /** What was found, on which host, and the mend. */
  sentence: string;
  /** Where it was found. */
  host: string;
}

export interface PhaulErrorOptions {
  cause?: unknown;
  obstacles?: Obstacle[];
}

export class PhaulError extends Error {
  override readonly name = 'PhaulError';
  readonly code: ErrorCode;
  readonly obstacles: Obstacle[];

  constructor(code: ErrorCode, message: string, options: PhaulErrorOptions = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.obstacles = options.obstacles ?? [];
  }

  get exitCode(): ExitCode {
    return exitCodes[this.code];
  }
}

/** Anything that was thrown, as a PhaulError: what nobody foresaw is a bug and keeps its cause. */
export function asPhaulError(thrown: unknown): PhaulError {
  if (thrown instanceof PhaulError) {
    return thrown;
  }
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return new PhaulError('ERR_BUG', `Unexpected failure: ${message}. Please report it.`, { cause: thrown });
}
