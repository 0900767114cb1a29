/** Goes through every world that can be reached, and looks whether the promises hold in each. */
import { keyOf, movesOf, start, type Model, type World } from './world.ts';

export interface Exploration {
  worlds: number;
  /** What went wrong first, with all that led to it; undefined: nothing. */
  broken?: { promise: string; path: string[] };
  /** Ends that were seen: of activities, and of resolving. */
  seen: Set<string>;
}

interface Node {
  world: World;
  from: number;
  by: string;
  /** Worlds that follow from this one without a fault. */
  next: number[];
}

/** A copy that is, or can be brought back by one command. */
const copies = ({ source, target }: World): number => Number(source.original !== 'gone') + Number(target.copy === 'whole' || target.copy === 'runs' || target.copy === 'ended');

const hostDied = ({ source, target }: World): boolean => source.restarted || target.restarted;

function brokenPromise(world: World): string | undefined {
  const { source, target, chosen } = world;
  if (source.original === 'runs' && target.copy === 'runs') {
    return 'at most one runs';
  }
  if (copies(world) === 0 && !hostDied(world) && !chosen) {
    return 'never none, as long as both hosts live';
  }
  if (source.ranOn && target.hasRun && !chosen) {
    return 'what one of them did is not undone by the other';
  }
  return undefined;
}

/** Nothing waits for anybody any more. */
const isSettled = ({ source, target, resolving }: World): boolean => resolving === 'none' && (source.original === 'runs' || source.original === 'gone') && target.copy !== 'whole' && target.copy !== 'husk';

function pathTo(nodes: Node[], index: number): string[] {
  const path: string[] = [];
  for (let at = index; at > 0; at = nodes[at]?.from ?? 0) {
    path.push(nodes[at]?.by ?? '');
  }
  return path.toReversed();
}

export function explore(model: Model): Exploration {
  const nodes: Node[] = [{ world: start, from: 0, by: '', next: [] }];
  const indexes = new Map<string, number>([[keyOf(start), 0]]);
  const seen = new Set<string>();
  for (let at = 0; at < nodes.length; at++) {
    const node = nodes[at] as Node;
    const promise = brokenPromise(node.world);
    if (promise !== undefined) {
      return { worlds: nodes.length, broken: { promise, path: pathTo(nodes, at) }, seen };
    }
    seen.add(`source ${node.world.source.activity}`).add(`target ${node.world.target.activity}`).add(`resolve ${node.world.resolving}`);
    for (const { name, fault, to } of movesOf(node.world, model)) {
      const key = keyOf(to);
      let index = indexes.get(key);
      if (index === undefined) {
        index = nodes.push({ world: to, from: at, by: name, next: [] }) - 1;
        indexes.set(key, index);
      }
      if (!fault) {
        node.next.push(index);
      }
    }
  }
  const stuck = findStuck(nodes);
  return { worlds: nodes.length, seen, ...(stuck !== undefined && { broken: { promise: 'what waits can be settled', path: pathTo(nodes, stuck) } }) };
}

/** The first from which no settled world can be reached unless something else goes wrong. */
function findStuck(nodes: Node[]): number | undefined {
  const before: number[][] = nodes.map(() => []);
  nodes.forEach(({ next }, index) => next.forEach((to) => before[to]?.push(index)));
  const settles = nodes.map(({ world }) => isSettled(world));
  const queue = [...settles.keys()].filter((index) => settles[index]);
  for (let at = 0; at < queue.length; at++) {
    for (const index of before[queue[at] ?? 0] ?? []) {
      if (!settles[index]) {
        settles[index] = true;
        queue.push(index);
      }
    }
  }
  const stuck = settles.indexOf(false);
  return stuck < 0 ? undefined : stuck;
}
