/**
 * Two hosts and what is under way between them, for the explorer: the agents go by the rules of src/handover, and everything
 * else that can happen is here. A word that was said may arrive at any later time, any number of times, or never, in any
 * order. A side may die between any two effects, and its host with it, once each.
 */
import { orderOf, outcomeOf, proofOf, type SourceEvidence, type SourceState, type TargetState } from '../../src/handover/evidence.ts';
import { sourceRules, targetRules, type Rules } from '../../src/handover/rules.ts';
import { verdict, type Step } from '../../src/handover/verdict.ts';
import type { OutcomeState } from '../../src/messages.ts';

export type Word = 'state' | 'ready' | 'commit' | 'abort' | 'running' | 'ask commit' | 'ask abort' | 'answer running' | 'answer discarded' | 'answer unknown';

export interface World {
  source: {
    activity: string;
    alive: boolean;
    journal: readonly SourceState[];
    restarted: boolean;
    /** frozen: goes on if its phaul dies; bound: stands still even then. */
    original: 'runs' | 'frozen' | 'bound' | 'stopped' | 'gone';
    /** It has run after it was frozen. */
    ranOn: boolean;
  };
  target: {
    activity: string;
    alive: boolean;
    journal: readonly TargetState[];
    restarted: boolean;
    copy: 'husk' | 'whole' | 'runs' | 'ended' | 'dead';
    hasRun: boolean;
    /** What the agent's main thread has heard of its tracing thread. */
    known: OutcomeState;
    order: 'commit' | 'abort' | 'none';
  };
  said: readonly Word[];
  /** What "phaul resolve" is about to do on the source's host, by what it saw before. */
  resolving: Step;
  /** An operator has decided what the journals could not. */
  chosen: boolean;
}

export interface Model {
  sourceRules: Rules;
  targetRules: Rules;
  verdict: typeof verdict;
  outcomeOf: typeof outcomeOf;
  /** What becomes of the original when a phaul dies that has committed. */
  boundDies: World['source']['original'];
}

export const model: Model = { sourceRules, targetRules, verdict, outcomeOf, boundDies: 'stopped' };

export const start: World = {
  source: { activity: 'copying', alive: true, journal: ['preparing'], restarted: false, original: 'runs', ranOn: false },
  target: { activity: 'receiving', alive: true, journal: ['preparing'], restarted: false, copy: 'husk', hasRun: false, known: 'preparing', order: 'none' },
  said: [],
  resolving: 'none',
  chosen: false,
};

/** What tells one world from all others. */
export const keyOf = ({ source, target, said, resolving, chosen }: World): string =>
  `${Object.values(source).join()};${Object.values(target).join()};${said.join()};${resolving};${chosen}`;

/** fault: dies, fails or is lost, which nobody has to do. */
export interface Move {
  name: string;
  fault: boolean;
  to: World;
}

type Change = (world: World) => void;

/** All that can happen next. */
export function movesOf(world: World, rules: Model): Move[] {
  const moves: Move[] = [];
  const move = (name: string, change: Change, fault = false): void => {
    const to: World = { ...world, source: { ...world.source }, target: { ...world.target } };
    change(to);
    moves.push({ name, fault, to });
  };
  moveSource(world, rules, move);
  moveTarget(world, rules, move);
  answer(world, rules, move);
  resolve(world, rules, move);
  breakDown(world, rules, move);
  return moves;
}

type Emit = (name: string, change: Change, fault?: boolean) => void;

const has = (world: World, word: Word): boolean => world.said.includes(word);

function say(world: World, word: Word): void {
  if (!has(world, word)) {
    world.said = [...world.said, word].toSorted();
  }
}

function note<S extends string>(side: { journal: readonly S[] }, state: S): void {
  if (side.journal.at(-1) !== state) {
    side.journal = [...side.journal, state];
  }
}

/** The event of an activity, with its last effect. */
const after = (rules: Rules, side: 'source' | 'target', event: string, effect: Change = () => {}): Change => (world) => {
  effect(world);
  const next = rules[world[side].activity]?.[event];
  if (next === undefined) {
    throw new Error(`${side}: no rule for ${event} in ${world[side].activity}`);
  }
  world[side].activity = next;
};

function moveSource(world: World, { sourceRules: rules }: Model, move: Emit): void {
  const { activity, alive, original } = world.source;
  const isIn = (name: string): boolean => alive && activity === name;
  const ends = (event: string, effect?: Change): Change => after(rules, 'source', event, effect);
  const fails = (isTimeout = false): void => move(`source fails at ${activity}`, ends('failed'), !isTimeout);
  const giveBack: Change = ({ source }) => {
    source.original = 'runs';
    source.ranOn = true;
  };

  if (isIn('copying')) {
    if (original === 'runs') {
      move('source freezes and sends the state', (to) => {
        to.source.original = 'frozen';
        say(to, 'state');
      });
    } else if (has(world, 'ready')) {
      move('source hears ready', ends('ready'));
    }
    fails(original === 'frozen');
  } else if (isIn('noting')) {
    move('source writes committing', ends('done', (to) => note(to.source, 'committing')));
    move('source writes committing, and is told to give up', ends('failed', (to) => note(to.source, 'committing')), true);
    fails();
  } else if (isIn('stopping')) {
    move('source binds the original', ends('done', (to) => (to.source.original = 'bound')));
    fails();
  } else if (isIn('promising')) {
    move('source writes committed', ends('done', (to) => note(to.source, 'committed')));
    fails();
  } else if (isIn('waiting')) {
    move('source says commit', (to) => say(to, 'commit'));
    if (has(world, 'running')) {
      move('source hears running', ends('running'));
    }
    fails(true);
  } else if (isIn('asking') || isIn('recalling')) {
    const question = activity === 'asking' ? 'ask commit' : 'ask abort';
    move(`source says ${question}`, (to) => say(to, question));
    for (const state of ['running', 'discarded', 'unknown'] as const) {
      if (has(world, question) && has(world, `answer ${state}`)) {
        move(`source hears that it is ${state}`, ends(proofOf(state)));
      }
    }
    move('source hears no answer', ends(proofOf(undefined)));
    fails();
    if (activity === 'asking') {
      move('source has asked for long enough', ends('late'));
    }
  } else if (isIn('ending')) {
    if (original !== 'gone') {
      move('source ends the original', (to) => (to.source.original = 'gone'));
    } else {
      move('source writes gone', ends('done', (to) => note(to.source, 'gone')));
      move('source can\'t write gone', ends('done'), true);
    }
  } else if (isIn('thawing') || isIn('returning')) {
    if (original !== 'runs') {
      move('source gives the original back', giveBack);
    } else {
      const last: Change = (to) => {
        if (activity === 'thawing') {
          say(to, 'abort');
          say(to, 'ask abort');
        }
      };
      move('source writes thawed', ends('done', (to) => {
        note(to.source, 'thawed');
        last(to);
      }));
      move('source can\'t write thawed', ends('done', last), true);
    }
  } else if (isIn('leaving')) {
    move('source leaves the original stopped', ends('done', (to) => {
      to.source.original = 'stopped';
      note(to.source, 'unknown');
    }));
  }
}

function moveTarget(world: World, { targetRules: rules }: Model, move: Emit): void {
  const { activity, alive, copy, order } = world.target;
  const isIn = (name: string): boolean => alive && activity === name;
  const ends = (event: string, effect?: Change): Change => after(rules, 'target', event, effect);
  const fails = (): void => move(`target fails at ${activity}`, ends('failed'), true);

  if (isIn('receiving')) {
    if (has(world, 'state')) {
      move('target builds', ends('built', (to) => (to.target.copy = 'whole')));
    }
    if (has(world, 'abort') || !world.source.alive) {
      move('target hears that the source is gone', ends('failed'));
    }
    fails();
  } else if (isIn('noting')) {
    move('target writes held', ends('done', (to) => note(to.target, 'held')));
    fails();
  } else if (isIn('announcing')) {
    move('target says ready', ends('done', (to) => say(to, 'ready')));
    fails();
    move('target fails, and has said ready', ends('failed', (to) => say(to, 'ready')), true);
  } else if (isIn('held')) {
    if (world.target.known !== 'held') {
      move('the agent hears that it is held', (to) => (to.target.known = 'held'));
    }
    for (const word of ['commit', 'abort'] as const) {
      if (has(world, word) || order === word) {
        move(`target hears ${word}`, ends(word, (to) => (to.target.order = 'none')));
      }
    }
  } else if (isIn('promising')) {
    move('target writes releasing', ends('done', (to) => note(to.target, 'releasing')));
    fails();
  } else if (isIn('releasing')) {
    move('target lets the copy go', ends('done', ({ target }) => {
      target.copy = 'runs';
      target.hasRun = true;
    }));
    fails();
  } else if (isIn('running')) {
    move('target says running', (to) => {
      say(to, 'running');
      to.target.known = 'running';
    });
    move('target writes running', ends('done', (to) => note(to.target, 'running')));
    move('target can\'t write running', ends('done'), true);
  } else if (isIn('discarding')) {
    move('target writes discarded', (to) => note(to.target, 'discarded'));
    if (copy !== 'dead') {
      move('target ends the copy', (to) => (to.target.copy = 'dead'));
    } else {
      move('target is done with the copy', ends('done'));
    }
  }
  if (copy === 'runs') {
    move('the copy ends by itself', (to) => (to.target.copy = 'ended'), true);
  }
}

/** What an agent of the target answers now; undefined: it waits until its tracing thread is done. */
function stateThere({ target }: World, rules: Model): OutcomeState | undefined {
  const isOver = !target.alive || Object.keys(rules.targetRules[target.activity] ?? {}).length === 0;
  if (isOver) {
    return rules.outcomeOf({ journal: target.journal.at(-1) ?? 'absent', restarted: target.restarted, alive: target.copy === 'runs' });
  }
  return target.known;
}

function answer(world: World, rules: Model, move: Emit): void {
  const state = stateThere(world, rules);
  for (const question of ['commit', 'abort'] as const) {
    if (!has(world, `ask ${question}`) || state === undefined) {
      continue;
    }
    const order = orderOf(question, state);
    if ((state === 'held' || state === 'preparing') && order !== undefined && world.target.order !== order) {
      move(`the agent is asked to ${question}`, (to) => (to.target.order = order));
    }
    const proof = proofOf(state);
    if (proof !== 'unanswered' && !has(world, `answer ${proof}`)) {
      move(`the agent answers ${proof}`, (to) => say(to, `answer ${proof}`));
    }
  }
}

function evidenceHere({ source }: World, rules: Model): SourceEvidence {
  const isOver = Object.keys(rules.sourceRules[source.activity] ?? {}).length === 0;
  return {
    journal: source.journal.at(-1) ?? 'absent',
    phaul: source.alive && !isOver,
    restarted: source.restarted,
    original: source.original === 'runs' ? 'running' : source.original === 'frozen' || source.original === 'bound' ? 'held' : source.original,
  };
}

/** "phaul resolve" on the source's host, whenever that makes sense; it may be long between its look and its step. */
function resolve(world: World, rules: Model, move: Emit): void {
  const done: Change = (to) => (to.resolving = 'none');
  const steps: Record<Step, Change | undefined> = {
    commit: (to) => say(to, 'ask commit'),
    abort: (to) => say(to, 'ask abort'),
    end: ({ source }) => {
      if (source.original === 'stopped') {
        source.original = 'gone';
        note(source, 'gone');
      }
    },
    resume: ({ source }) => {
      if (source.original === 'stopped') {
        source.original = 'runs';
        source.ranOn = true;
        note(source, 'thawed');
      }
    },
    none: undefined,
    wait: undefined,
    choose: undefined,
    twice: undefined,
  };
  if (world.resolving !== 'none') {
    move(`resolve: ${world.resolving}`, (to) => {
      steps[world.resolving]?.(to);
      done(to);
    });
    return;
  }
  for (const there of [stateThere(world, rules), undefined]) {
    const { step } = rules.verdict(evidenceHere(world, rules), there);
    if (steps[step] !== undefined) {
      move(`resolve sees: ${step}`, (to) => (to.resolving = step));
    } else if (step === 'choose' && there !== undefined) {
      for (const choice of world.source.original === 'stopped' ? (['end', 'resume'] as const) : (['commit', 'abort'] as const)) {
        move(`the operator chooses: ${choice}`, (to) => {
          to.resolving = choice;
          to.chosen = true;
        });
      }
    }
  }
}

const OF_DEAD: Record<World['target']['copy'], World['target']['copy']> = { husk: 'dead', whole: 'dead', runs: 'runs', ended: 'ended', dead: 'dead' };

function breakDown(world: World, { boundDies }: Model, move: Emit): void {
  if (world.source.alive) {
    move('the source\'s phaul dies', ({ source }) => {
      source.alive = false;
      source.ranOn ||= source.original === 'frozen';
      source.original = source.original === 'frozen' ? 'runs' : source.original === 'bound' ? boundDies : source.original;
    }, true);
  }
  if (world.target.alive) {
    move('the target\'s agent dies', ({ target }) => {
      target.alive = false;
      target.order = 'none';
      target.copy = OF_DEAD[target.copy];
    }, true);
  }
  restartHost(world, move);
}

/** Whatever isn't synced may be lost. */
function restartHost(world: World, move: Emit): void {
  for (let kept = 1; !world.source.restarted && kept <= world.source.journal.length; kept++) {
    move(`the source's host is restarted, and has kept ${kept} lines`, ({ source }) => {
      Object.assign(source, { alive: false, restarted: true, original: 'gone', journal: source.journal.slice(0, kept) } satisfies Partial<World['source']>);
    }, true);
  }
  for (let kept = 1; !world.target.restarted && kept <= world.target.journal.length; kept++) {
    move(`the target's host is restarted, and has kept ${kept} lines`, ({ target }) => {
      const copy = target.copy === 'ended' ? 'ended' : 'dead';
      Object.assign(target, { alive: false, restarted: true, order: 'none', copy, journal: target.journal.slice(0, kept) } satisfies Partial<World['target']>);
    }, true);
  }
}
