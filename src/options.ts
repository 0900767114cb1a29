/** What an operator can ask for, as the command line has understood it. */

/** How to get to the other host. */
export interface ReachOptions {
  /** [USER@]HOST[:PORT] */
  destination: string;
  acceptNewHostKey: boolean;
  identityFile?: string;
  sshConfigFile?: string;
}

export interface MigrateOptions extends ReachOptions {
  pid: number;
  maxDowntimeMs: number;
  streams: number;
  /** Established TCP connections: an obstacle, or reset. */
  tcp: 'refuse' | 'close';
  /** When rounds stop shrinking: move with a longer downtime, or don't. */
  onDiverge: 'freeze' | 'abort';
  /** Compare the memory of both sides while the process is frozen. */
  verify: boolean;
  /** For everything before the commit; undefined: as long as it takes. */
  timeoutMs?: number;
}

export interface CheckOptions {
  pid: number;
  tcp: 'refuse' | 'close';
  /** undefined: only this side is looked at. */
  reach?: ReachOptions;
}
