/**
 * The conversation of the cut-over. It goes over the page channel's note stream, from one tracing thread to
 * the other: by way of the control channel and ssh each word would take about a millisecond more.
 *
 *   source                      target
 *   PING             ------>    PONG            before the freeze, to know the way
 *   LAYOUT, pages    ------>    APPLIED         each round (libphaul sends the layout)
 *   THREADS          ------>                    some at a time, built while the next are read
 *   STATE            ------>    READY           built and held
 *   COMMIT           ------>    RUNNING
 *   PACKETS          ------>                    that came to the source since: one for each of STRAGGLERS_MS
 *   ABORT            ------>                    instead of COMMIT
 *                    <------    FAILED          instead of any answer
 */
import { z } from 'zod';
import type { Channel } from './engine/engine.ts';
import { isErrorCode, PhaulError } from './errors.ts';
import { parseJson } from './json.ts';

/** From NOTE_USER on. */
export const PING = 16;
export const PONG = 17;
export const APPLIED = 18;
export const READY = 19;
export const COMMIT = 20;
export const RUNNING = 21;
export const ABORT = 22;
export const FAILED = 23;

const amount = z.number().min(0);
/** Sentences for the operator about what is different there. */
const said = z.array(z.string().max(4096)).max(1000);

/** What each answer carries, as JSON. */
const answers = {
  [PONG]: z.object({}),
  [APPLIED]: z.object({
    round: amount, vmas: amount, bytes: amount, pagesDropped: amount, layoutMs: amount, waitMs: amount, said, sums: z.string().optional(),
  }),
  [READY]: z.object({ buildMs: amount, threadsMs: amount, filesMs: amount, threads: amount, descriptors: amount }),
  [RUNNING]: z.object({ releaseMs: amount, said }),
};
export type Answers = { [K in keyof typeof answers]: z.infer<(typeof answers)[K]> };

/**
 * How long after RUNNING the source looks for packets that still came to it, each after the one before: an announcement
 * goes over a switch, and a packet that is on its way comes here, in less than all of it.
 */
export const STRAGGLERS_MS = [0, 1, 2, 5, 20];

/** What was sent before the channel closed is here already, or never comes. */
const LAST_WORDS_MS = 500;

export const say = (channel: Channel, kind: number, content: object = {}): void => channel.send(kind, Buffer.from(JSON.stringify(content)));

/** To whoever still listens. */
export function fail(channel: Channel, { code, message }: PhaulError): void {
  try {
    say(channel, FAILED, { code, message });
  } catch {
    // It is gone, or gave up itself.
  }
}

function parse(payload: Buffer): Record<string, unknown> {
  const content = parseJson(payload.toString());
  if (typeof content === 'object' && content !== null && !Array.isArray(content)) {
    return content as Record<string, unknown>;
  }
  throw new PhaulError('ERR_PROTOCOL', 'The other host sent a note that is no JSON object.');
}

/** The other host's own account of why it closed the channel, if it left one. */
export function lastWords(channel: Channel, host: string): PhaulError | undefined {
  try {
    for (let note = channel.receive(LAST_WORDS_MS); note !== undefined; note = channel.receive(LAST_WORDS_MS)) {
      if (note.kind === FAILED) {
        return failed(parse(note.payload), host);
      }
    }
  } catch {
    // It left none.
  }
  return undefined;
}

const failure = z.object({ code: z.string().catch(''), message: z.string().min(1).transform((text) => text.slice(0, 4096)).catch('It failed, and did not say why.') });

function failed(content: Record<string, unknown>, host: string): PhaulError {
  const { code, message } = failure.parse(content);
  return new PhaulError(isErrorCode(code) ? code : 'ERR_PEER', `On ${host}: ${message}`);
}

/** On a slow link what was sent before is still under way: for as long as that gets less, nobody has stopped. */
function receive(channel: Channel, timeoutMs: number): ReturnType<Channel['receive']> {
  for (let unsent = channel.unsent(); ; ) {
    const note = channel.receive(timeoutMs);
    const left = channel.unsent();
    if (note !== undefined || left === 0 || left >= unsent) {
      return note;
    }
    unsent = left;
  }
}

/** Waits for one kind of answer; the other host's failure is thrown as it described it. */
export function hear<K extends keyof Answers>(channel: Channel, kind: K, timeoutMs: number, host: string): Answers[K] {
  const note = receive(channel, timeoutMs);
  if (note === undefined) {
    throw new PhaulError('ERR_TIMEOUT', `${host} did not answer within ${timeoutMs / 1000} s; is the link cut, or the agent there stopped?`);
  }
  const content = parse(note.payload);
  if (note.kind === FAILED) {
    throw failed(content, host);
  }
  if (note.kind !== kind) {
    throw new PhaulError('ERR_PROTOCOL', `${host} sent note ${note.kind} where ${kind} was due.`);
  }
  const parsed = answers[kind].safeParse(content);
  if (!parsed.success) {
    throw new PhaulError('ERR_PROTOCOL', `${host} sent a note ${kind} with something else than belongs in it: ${parsed.error.issues[0]?.path.join('.')}: ${parsed.error.issues[0]?.message}.`);
  }
  return parsed.data as Answers[K];
}
