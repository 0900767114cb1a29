/**
 * What the hosts ask each other over the control channel: a request has one answer. Everything is checked
 * by these schemas on arrival; unknown fields are let through, so that a newer phaul may say more.
 */
import { z } from 'zod';
import { EVENT_KINDS } from './events.ts';
import { FILES_MAX, planSchema } from './source/plan.ts';

/** Raised when an older peer could misunderstand anything, also of what the engines tell each other: layouts, frames, images. */
export const PROTOCOL_VERSION = 8;

/** A plan lists every mapped and open file: some MiB for the largest of processes. */
export const MESSAGE_BYTES_MAX = 32 << 20;

const id = z.string().regex(/^[0-9a-f]{16,64}$/);
const text = z.string().max(4096);
const nanoseconds = z.string().regex(/^\d{1,19}$/);

/** As systemd has it, without ".service". */
export const SERVICE_NAME = /^[A-Za-z0-9:_.@\\-]{1,200}$/;

/** A sentence may name two paths of the longest kind. */
const sentence = z.string().max(16_384);
const obstacle = z.object({ code: text, subject: text, sentence, host: text });

/** Of one process: a list of this length helps nobody further. */
export const OBSTACLES_MAX = 10_000;
const obstacles = z.array(obstacle).max(OBSTACLES_MAX);

/** Where on the target a process is to live. */
export const placeSchema = z.object({
  /** In a pid namespace of its own. */
  newPidNamespace: z.boolean(),
  /** As a systemd unit of this name, without ".service". */
  service: z.string().regex(SERVICE_NAME).optional(),
  /** Its stdout and stderr are appended to this file. */
  output: z.string().startsWith('/').max(4096).optional(),
});

export const filesComing = z.object({
  /** Whether files may be missing on the target, or differ (any), because they come along. */
  allowed: z.enum(['same', 'missing', 'any']),
  /** Those that are there are written to, and not replaced. */
  inPlace: z.boolean(),
});
export type FilesComing = z.infer<typeof filesComing>;

export const outcomeState = z.enum(['unknown', 'preparing', 'held', 'running', 'discarded']);
export type OutcomeState = z.infer<typeof outcomeState>;

export const requests = {
  hello: {
    params: z.object({ protocol: z.int(), version: text, hostname: text }),
    /** `vdso` as in a plan. */
    result: z.object({ protocol: z.int(), version: text, hostname: text, kernel: text, vdso: text }),
  },
  preflight: {
    params: z.object({ plan: planSchema, place: placeSchema, files: filesComing }),
    /** `copy`: files that are to come along. `arriving`: migrations that have the same pid on that host, held or on its way. */
    result: z.object({ obstacles, arriving: z.array(id).max(100), copy: z.array(z.string().max(4096)).max(FILES_MAX) }),
  },
  /** What time it is there, by a clock that says nothing but how much later it is. */
  clock: { params: z.object({}), result: z.object({ at: nanoseconds }) },
  prepare: {
    params: z.object({
      id,
      pid: z.int().min(1),
      comm: text,
      from: text,
      key: z.base64().length(44),
      streams: z.int().min(1).max(16),
      verify: z.boolean(),
      /** The address that the source reached this host by: page streams are expected there. */
      address: text,
      /** That come with the process: see addresses.ts. */
      addresses: z.string().max(65_536),
      /** In the words of the engine: see cgroups.ts. */
      cgroups: z.string().max(65_536),
      /** What the process's clocks showed at a time of `clock`: "MONOTONIC BOOTTIME", in ns, and "own" if they aren't its kernel's. */
      clocks: z.string().regex(/^\d{1,19} \d{1,19}( own)?$/),
      clocksAt: nanoseconds,
      /** They showed as much at least, and so many ns more at most. */
      clocksUnsureNs: z.int().min(0),
    }),
    result: z.object({ port: z.int().min(1).max(65_535) }),
  },
  /** What the source reports, for whoever watches the target. */
  event: {
    params: z.object({ id, event: z.looseObject({ event: z.enum(EVENT_KINDS), at: z.number() }) }),
    result: z.object({}),
  },
  /** Changes nothing: what has become of the copy; and of the original, on a host that gave one away. */
  original: {
    params: z.object({ id }),
    result: z.object({
      journal: z.enum(['absent', 'preparing', 'committing', 'committed', 'gone', 'thawed', 'unknown']),
      phaul: z.boolean(),
      restarted: z.boolean(),
      original: z.enum(['running', 'stopped', 'held', 'gone']),
    }),
  },
  outcome: { params: z.object({ id }), result: z.object({ state: outcomeState }) },
  /** For a process that is held: let it go, or end it. Answers with what it is then. */
  commit: { params: z.object({ id }), result: z.object({ state: outcomeState }) },
  abort: { params: z.object({ id }), result: z.object({ state: outcomeState }) },
} as const;

export type Method = keyof typeof requests;
export type Params<M extends Method> = z.infer<(typeof requests)[M]['params']>;
export type Result<M extends Method> = z.infer<(typeof requests)[M]['result']>;

export const envelope = z.union([
  z.object({ id: z.int(), method: text, params: z.unknown() }),
  z.object({ id: z.int(), result: z.unknown() }),
  z.object({ id: z.int(), error: z.object({ code: text, message: sentence, obstacles: obstacles.optional() }) }),
]);
export type Envelope = z.infer<typeof envelope>;
