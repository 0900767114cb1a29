/** The page server on another host that a dump writes to: started through ssh, which carries the key of the page channel. */
import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { asPhaulError, isErrorCode, PhaulError } from '../errors.ts';
import type { PageServerOptions, PreDumpOptions } from '../options.ts';
import { reach, type Reached } from '../reach.ts';
import { version } from '../version.ts';
import { parseJson } from '../json.ts';
import { answer, DISCARD, KEY_BYTES, type Answer } from './words.ts';

const COMMAND = 'phaul page-server --stdio';

/** It loads its modules, and looks at the checkpoint before. */
const ANSWER_TIMEOUT_MS = 120_000;

/** After a failure here: what failed there is the better reason, if there is one. */
const LAST_WORDS_MS = 3_000;

/** Of what isn't an answer. */
const SHOWN_MAX = 200;

/** For the thread that dumps. */
export interface PageWay {
  host: string;
  address: string;
  port: number;
  key: Uint8Array;
}

export class PageServer {
  readonly #reached: Reached;
  readonly #duplex: Duplex;
  readonly #lines: AsyncIterator<string>;
  readonly #failed: Promise<never>;
  #way: PageWay | undefined;

  private constructor(reached: Reached, duplex: Duplex) {
    this.#reached = reached;
    this.#duplex = duplex;
    this.#lines = createInterface({ input: duplex })[Symbol.asyncIterator]();
    this.#failed = once(duplex, 'error').then(([error]) => {
      throw error;
    });
    this.#failed.catch(() => {});
  }

  static async start(options: PageServerOptions, { previous, autoDedup }: Pick<PreDumpOptions, 'previous' | 'autoDedup'>): Promise<PageServer> {
    const reached = await reach(options);
    try {
      const duplex = await reached.start(COMMAND);
      const server = new PageServer(reached, duplex);
      const key = randomBytes(KEY_BYTES);
      const said = server.#hear();
      duplex.write(`${JSON.stringify({ version, directory: options.directory, previous, autoDedup, address: reached.address, key: key.toString('base64') })}\n`);
      const answered = await said;
      if (!('port' in answered)) {
        throw server.#unexpected(answered);
      }
      server.#way = { host: reached.host, address: reached.address, port: answered.port, key };
      return server;
    } catch (thrown) {
      reached.close();
      throw thrown;
    }
  }

  get way(): PageWay {
    return this.#way ?? this.#unstarted();
  }

  /** All is there, and the other side has nothing to add. */
  async finish(): Promise<void> {
    const answered = await this.#hear();
    if (!('done' in answered)) {
      throw this.#unexpected(answered);
    }
  }

  /** Why a dump failed: if it is the link, the other side may know better. What arrived is discarded there. */
  async reasonOf(thrown: unknown): Promise<PhaulError> {
    const here = asPhaulError(thrown);
    this.#duplex.write(`${DISCARD}\n`);
    const patience = sleep(LAST_WORDS_MS, undefined, { ref: false });
    for (;;) {
      const said = await Promise.race([this.#hear().catch(() => undefined), patience]);
      if (said === undefined || 'discarded' in said) {
        return here;
      }
      if ('error' in said) {
        return here.code === 'ERR_LINK_LOST' ? this.#unexpected(said) : here;
      }
    }
  }

  close(): void {
    this.#reached.close();
  }

  async #hear(): Promise<Answer> {
    const { host } = this.#reached;
    const said = await Promise.race([this.#lines.next(), this.#failed, sleep(ANSWER_TIMEOUT_MS, undefined, { ref: false })]);
    if (said === undefined) {
      throw new PhaulError('ERR_TIMEOUT', `The page server on ${host} said nothing for ${ANSWER_TIMEOUT_MS / 1000} s.`);
    }
    if (said.done === true) {
      throw new PhaulError('ERR_LINK_LOST', `The page server on ${host} ended, or the ssh session to it.`);
    }
    const parsed = answer.safeParse(parseJson(said.value));
    if (!parsed.success) {
      throw new PhaulError('ERR_PROTOCOL', `The page server on ${host} said "${said.value.slice(0, SHOWN_MAX)}", which means nothing here.`);
    }
    return parsed.data;
  }

  #unexpected(said: Answer): PhaulError {
    if (!('error' in said)) {
      return new PhaulError('ERR_PROTOCOL', `The page server on ${this.#reached.host} said ${JSON.stringify(said)}, which was not asked.`);
    }
    const { code, message } = said.error;
    return new PhaulError(isErrorCode(code) ? code : 'ERR_PEER', `On ${this.#reached.host}: ${message}`);
  }

  #unstarted(): never {
    throw new PhaulError('ERR_BUG', 'The page server was used before it was started.');
  }
}
