/** The connection to the agent on the other host, and the first words with it. */
import { connectControl, type Control } from './control.ts';
import { PhaulError } from './errors.ts';
import { hello, requireSameProtocol } from './hello.ts';
import type { Result } from './messages.ts';
import type { ReachOptions } from './options.ts';
import { reach, type Reached } from './reach.ts';

/** An agent that ssh starts loads its modules first. Who gives ssh more time (ConnectTimeout) has a slow host. */
const FIRST_WORD_TIMEOUT_MS = 15_000;

export class Peer {
  readonly #options: ReachOptions;
  #reached: Reached | undefined;
  #control: Control | undefined;

  constructor(options: ReachOptions) {
    this.#options = options;
  }

  /** A new ssh session and whichever agent it leads to. */
  async open(): Promise<Result<'hello'>> {
    this.close();
    const reached = await reach(this.#options);
    this.#reached = reached;
    const timeoutMs = Math.max(FIRST_WORD_TIMEOUT_MS, reached.connectTimeoutMs);
    this.#control = await connectControl(await reached.open(), reached.host, timeoutMs);
    const theirs = await this.#control.ask('hello', hello(), timeoutMs);
    requireSameProtocol(theirs);
    return theirs;
  }

  /** The same as before if that still works. */
  async reopened(): Promise<Control> {
    if (!this.isOpen) {
      await this.open();
    }
    return this.control;
  }

  get isOpen(): boolean {
    return this.#control?.isOpen === true;
  }

  get control(): Control {
    return this.#control ?? this.#unopened();
  }

  /** As the operator called it. */
  get host(): string {
    return (this.#reached ?? this.#unopened()).host;
  }

  /** Where page streams connect to. */
  get address(): string {
    return (this.#reached ?? this.#unopened()).address;
  }

  close(): void {
    this.#control?.close();
    this.#reached?.close();
    this.#control = this.#reached = undefined;
  }

  #unopened(): never {
    throw new PhaulError('ERR_BUG', 'The other host was spoken to before it was reached.');
  }
}
