/** The side that gives a process away: runs the tracing thread, and finds out what became of it if that is in doubt. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Control } from '../control.ts';
import { Tracer } from '../engine/tracer.ts';
import { asPhaulError } from '../errors.ts';
import type { Emit, Round } from '../events.ts';
import type { OutcomeState } from '../messages.ts';
import { ABANDON, KILL, THAW, type SourceNews, type SourceOrder, type SourceResult } from './order.ts';

/** How long a cut link may take to come back while the process stands still on both sides. */
const DOUBT_LIMIT_MS = 60_000;
const DOUBT_RETRY_MS = 1_000;

export interface Departure {
  result: SourceResult;
  rounds: Round[];
}

/** A new control connection to the target, over a new ssh session if need be. */
export type Reconnect = () => Promise<Control>;

export class SourceAgent {
  readonly #tracer: Tracer<SourceNews, SourceResult>;
  readonly #rounds: Round[] = [];
  readonly #order: SourceOrder;
  readonly #emit: Emit;
  readonly #reconnect: Reconnect;

  constructor(order: SourceOrder, emit: Emit, reconnect: Reconnect) {
    this.#order = order;
    this.#emit = emit;
    this.#reconnect = reconnect;
    this.#tracer = new Tracer(new URL('./worker.ts', import.meta.url), order, (news) => this.#hear(news));
  }

  /** False once the point of no return is passed. */
  cancel(): boolean {
    return this.#tracer.cancel();
  }

  async run(): Promise<Departure> {
    return { result: await this.#tracer.result, rounds: this.#rounds };
  }

  #hear(news: SourceNews): void {
    switch (news.type) {
      case 'arm':
        this.#emit({ event: 'arm', stopMs: news.stopMs });
        break;
      case 'round':
        this.#rounds.push(news.round);
        this.#emit({ event: 'round', ...news.round });
        this.#emit({ event: 'log', level: 'debug', text: news.text });
        break;
      case 'freeze':
        this.#emit({ event: 'freeze', reason: news.reason });
        break;
      case 'commit':
        this.#emit({ event: 'commit' });
        break;
      case 'doubt':
        void this.#settle(news.why);
    }
  }

  /** Committed, and no answer: ask again, another way, until it is known or the limit is reached. */
  async #settle(why: string): Promise<void> {
    const { host, id } = this.#order;
    this.#emit({ event: 'notice', text: `The link to ${host} broke after the commit (${why}); asking again what became of the process.` });
    const deadline = Date.now() + DOUBT_LIMIT_MS;
    do {
      try {
        const control = await this.#reconnect();
        try {
          const { state } = await control.ask('commit', { id });
          const order = orderFor(state);
          if (order !== undefined) {
            this.#tracer.latch.order(order);
            return;
          }
        } finally {
          control.close();
        }
      } catch (thrown) {
        this.#emit({ event: 'log', level: 'warn', text: asPhaulError(thrown).message });
      }
      await sleep(DOUBT_RETRY_MS);
    } while (Date.now() < deadline);
    this.#tracer.latch.order(ABANDON);
  }
}

/** Discarded: the target's journal or the agent itself says that the process never ran there, and never will. */
function orderFor(state: OutcomeState): number | undefined {
  return state === 'running' ? KILL : state === 'discarded' ? THAW : undefined;
}
