/** Files that go along: passes over them while the process runs, and a last one while it stands still. */
import { spawnSync } from 'node:child_process';
import { hostname } from 'node:os';
import { engine } from '../engine/libphaul.ts';
import type { Channel, Files } from '../engine/engine.ts';
import { PhaulError } from '../errors.ts';
import type { SourceOrder } from './order.ts';

/** Of what rsync says, for the error. */
const SAID_CHARACTERS = 500;

export interface Alongside {
  /** Sends what has changed since the pass before; returns how many bytes. */
  pass(limit: number): number;
  close(): void;
}

class Copy implements Alongside {
  readonly #files: Files;
  readonly #channel: Channel;
  readonly #pid: number;

  constructor({ files, pid }: SourceOrder, channel: Channel) {
    this.#files = engine.openFiles(files.list);
    this.#channel = channel;
    this.#pid = pid;
  }

  pass(limit: number): number {
    return this.#files.send(this.#channel, this.#pid, limit);
  }

  close(): void {
    this.#files.close();
  }
}

/** In place, since what was received before is mapped there already; by content, since times don't tell of writes by way of a mapping. */
const RSYNC = ['--archive', '--hard-links', '--acls', '--xattrs', '--numeric-ids', '--relative', '--inplace', '--no-whole-file', '--checksum', '--from0', '--files-from=-', '--out-format=%l', '--protect-args'];

class Rsync implements Alongside {
  readonly #order: SourceOrder;
  #sent = false;

  constructor(order: SourceOrder) {
    this.#order = order;
  }

  pass(limit: number): number {
    const { host, files, original: { reach } } = this.#order;
    const paths = files.list.filter(({ how }) => how === 'changing' || (how === 'steady' && !this.#sent)).map(({ path }) => path);
    this.#sent = true;
    if (paths.length === 0) {
      return 0;
    }
    const { user, name, port } = partsOf(reach.destination);
    const ssh = ['ssh', '-o', 'BatchMode=yes', ...(port === undefined ? [] : ['-p', port]), ...(reach.identityFile === undefined ? [] : ['-i', reach.identityFile]), ...(reach.sshConfigFile === undefined ? [] : ['-F', reach.sshConfigFile])];
    const bandwidth = limit === 0 ? [] : [`--bwlimit=${Math.ceil(limit / 1024)}`];
    const { status, stdout, stderr, error } = spawnSync('rsync', [...RSYNC, ...bandwidth, '--rsh', ssh.map((word) => `'${word}'`).join(' '), '/', `${user}${name}:/`], { input: paths.join('\0'), encoding: 'utf8', maxBuffer: 1 << 26 });
    if (status !== 0) {
      throw new PhaulError('ERR_FILES', `rsync on ${hostname()} can't send the files of ${this.#order.comm} to ${host}: ${error?.message ?? stderr.trim().slice(-SAID_CHARACTERS)}.`);
    }
    return stdout.split('\n').reduce((sum, line) => sum + (Number(line) || 0), 0);
  }

  close(): void {}
}

/** [USER@]HOST[:PORT], which the command line has understood. */
function partsOf(destination: string): { user: string; name: string; port: string | undefined } {
  const [, user = '', name = '', port] = /^([^@]*@)?(\[[^\]]*\]|[^:]*)(?::(\d+))?$/.exec(destination) ?? [];
  return { user, name, port };
}

const NOTHING: Alongside = { pass: () => 0, close: () => {} };

export const alongside = (order: SourceOrder, channel: Channel): Alongside => ({ check: () => NOTHING, copy: () => new Copy(order, channel), rsync: () => new Rsync(order) })[order.files.mode]();
