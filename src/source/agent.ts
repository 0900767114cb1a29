/** The side that gives a process away: runs the tracing thread, and finds out what became of it if that is in doubt. */
import type { Control } from '../control.ts';
import { Tracer } from '../engine/tracer.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { formatMs, type Emit, type Round } from '../events.ts';
import { proofOf } from '../handover/evidence.ts';
import { ANSWERS, type Answer, type SourceNews, type SourceOrder, type SourceResult } from './order.ts';

/** For a target that may have to let a process go first, or to end one. */
const ANSWER_TIMEOUT_MS = 8_000;

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
  #freezeLimitMs = FREEZE_SPARE_MS;
  #freezeTimer: NodeJS.Timeout | undefined;
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
        this.#emit({ event: 'arm', stopMs: news.stopMs, tracker: news.tracker });
        break;
      case 'round':
        this.#rounds.push(news.round);
        this.#emit({ event: 'round', ...news.round });
        this.#emit({ event: 'log', level: 'debug', text: news.text });
        break;
      case 'freeze':
        this.#emit({ event: 'freeze', reason: news.reason });
        this.#freezeLimitMs = this.#order?.freezeTimeoutMs ?? 2 * news.predictedMs + FREEZE_SPARE_MS;
        break;
      case 'stands':
        clearTimeout(this.#freezeTimer);
        if (news.still) {
          this.#limitFreeze(this.#freezeLimitMs);
        }
        break;
      case 'notice':
        this.#emit({ event: 'notice', text: news.text });
        break;
      case 'commit':
        this.#emit({ event: 'commit' });
        break;
      case 'doubt':
        this.#emit({ event: 'notice', text: `No answer from ${this.#order?.host} after the commit (${news.why}); asking again what became of the process.` });
        break;
      case 'ask':
        void this.#ask(news.question).then((answer) => this.#tracer.latch.order(ANSWERS.indexOf(answer) + 1));
    }
  }

  #after(ms: number, act: () => void): NodeJS.Timeout {
    const timer = setTimeout(act, ms);
    this.#timers.push(timer);
    return timer;
  }

  #limitFreeze(ms: number): void {
    const { pid, host } = this.#order as SourceOrder;
    this.#freezeTimer = this.#after(ms, () =>
      this.cancel(new PhaulError('ERR_TIMEOUT', `Process ${pid} stood still for ${formatMs(ms)} while ${host} was to take it over, which is ${this.#order?.freezeTimeoutMs === undefined ? 'too long' : 'all that --freeze-timeout allows'}: it runs on here.`)),
    );
  }

  /** Committed, and no answer: by another way. */
  async #ask(question: 'commit' | 'abort'): Promise<Answer> {
    try {
      const control = await (this.#reconnect as Reconnect)();
      const { state } = await control.ask(question, { id: this.#order?.id ?? '' }, ANSWER_TIMEOUT_MS);
      this.#emit({ event: 'log', level: 'info', text: `asked to ${question}, ${this.#order?.host} answers that the process is ${state} there` });
      return proofOf(state);
    } catch (thrown) {
      this.#emit({ event: 'log', level: 'warn', text: asPhaulError(thrown).message });
      return 'unanswered';
    }
  }
}
