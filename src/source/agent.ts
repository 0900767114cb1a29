/** The side that gives a process away: runs the tracing thread, and finds out what became of it if that is in doubt. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Control } from '../control.ts';
import { Tracer } from '../engine/tracer.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import type { Emit, Round } from '../events.ts';
import type { OutcomeState } from '../messages.ts';
import { ABANDON, KILL, THAW, type SourceNews, type SourceOrder, type SourceResult } from './order.ts';

/** How long a cut link may take to come back while the process stands still on both sides. */
const DOUBT_LIMIT_MS = 60_000;
const DOUBT_RETRY_MS = 500;
const DOUBT_ANSWER_MS = 8_000;

/** Beyond what was predicted, twice over: a process that stands still for longer is let go. */
const FREEZE_SPARE_MS = 15_000;

/** A tracing thread that was cancelled notices at its next step; nothing that it waits for takes longer. */
const CANCEL_LIMIT_MS = 3_000;

export interface Departure {
  result: SourceResult;
  rounds: Round[];
}

/** A control connection to the target that works, a new one if need be. */
export type Reconnect = () => Promise<Control>;

export class SourceAgent {
  readonly #tracer: Tracer<SourceOrder, SourceNews, SourceResult>;
  readonly #rounds: Round[] = [];
  readonly #emit: Emit;
  readonly #timers: NodeJS.Timeout[] = [];
  #order: SourceOrder | undefined;
  #reconnect: Reconnect | undefined;
  #why: PhaulError | undefined;

  constructor(emit: Emit) {
    this.#emit = emit;
    this.#tracer = new Tracer(import.meta.url, (news) => this.#hear(news));
  }

  /** Does nothing once the point of no return is passed; else run() rejects with `why`, or what came first. */
  cancel(why: PhaulError): void {
    if (this.#why === undefined && this.#tracer.cancel()) {
      this.#why = why;
      this.#after(CANCEL_LIMIT_MS, () => this.#tracer.end());
    }
  }

  async run(order: SourceOrder, reconnect: Reconnect): Promise<Departure> {
    this.#order = order;
    this.#reconnect = reconnect;
    this.#tracer.begin(order);
    try {
      return { result: await this.#tracer.result, rounds: this.#rounds };
    } catch (thrown) {
      throw this.#why ?? thrown;
    } finally {
      this.#timers.forEach(clearTimeout);
    }
  }

  /** For one that may not have run. */
  end(): void {
    this.#tracer.end();
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
        this.#limitFreeze(2 * news.predictedMs + FREEZE_SPARE_MS);
        break;
      case 'notice':
        this.#emit({ event: 'notice', text: news.text });
        break;
      case 'commit':
        this.#emit({ event: 'commit' });
        break;
      case 'doubt':
        void this.#settle(news.why);
    }
  }

  #after(ms: number, act: () => void): void {
    this.#timers.push(setTimeout(act, ms));
  }

  #limitFreeze(ms: number): void {
    const { pid, host } = this.#order as SourceOrder;
    this.#after(ms, () =>
      this.cancel(new PhaulError('ERR_TIMEOUT', `Process ${pid} stood still for ${(ms / 1000).toFixed(0)} s while ${host} was to take it over, which is too long: it runs on here.`)),
    );
  }

  /** Committed, and no answer: ask another way, until it is known or the limit is reached. */
  async #settle(why: string): Promise<void> {
    const host = this.#order?.host;
    this.#emit({ event: 'notice', text: `No answer from ${host} after the commit (${why}); asking again what became of the process.` });
    const deadline = Date.now() + DOUBT_LIMIT_MS;
    let order: number | undefined;
    while (order === undefined && Date.now() < deadline) {
      order = await this.#ask('commit');
      if (order === undefined) {
        await sleep(DOUBT_RETRY_MS);
      }
    }
    // A target that answers and still can't let the process go gives it back.
    this.#tracer.latch.order(order ?? (await this.#ask('abort')) ?? ABANDON);
  }

  async #ask(what: 'commit' | 'abort'): Promise<number | undefined> {
    try {
      const control = await (this.#reconnect as Reconnect)();
      const { state } = await control.ask(what, { id: this.#order?.id ?? '' }, DOUBT_ANSWER_MS);
      this.#emit({ event: 'log', level: 'info', text: `asked to ${what}, ${this.#order?.host} answers that the process is ${state} there` });
      return orderFor(state);
    } catch (thrown) {
      this.#emit({ event: 'log', level: 'warn', text: asPhaulError(thrown).message });
      return undefined;
    }
  }
}

/** Discarded: the target's journal or the agent itself says that the process never ran there, and never will. */
function orderFor(state: OutcomeState): number | undefined {
  return state === 'running' ? KILL : state === 'discarded' ? THAW : undefined;
}
