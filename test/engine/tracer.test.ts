import test from 'ava';
import { Tracer } from '../../src/engine/tracer.ts';

type Told = Tracer<'succeed' | 'fail', number, number>;

const newTracer = (hear: (thread: number) => void = () => {}): Told => new Tracer(import.meta.url, hear);

async function run(tracer: Told, how: 'succeed' | 'fail' = 'succeed'): Promise<number> {
  tracer.begin(how);
  return tracer.result;
}

test.serial('a thread that has done its work takes the next, and tells only that of it', async (t) => {
  const heard: number[] = [];
  const first = newTracer((thread) => heard.push(thread));
  const thread = await run(first);
  first.end(); // it isn't its any more
  t.is(await run(newTracer()), thread);
  t.deepEqual(heard, [thread]);
});

test.serial('a thread that was not needed is for the next', async (t) => {
  const thread = await run(newTracer());
  newTracer().end();
  t.is(await run(newTracer()), thread);
});

test.serial('two at a time are two threads', async (t) => {
  const tracers = [newTracer(), newTracer()];
  const [one, other] = await Promise.all(tracers.map(async (tracer) => run(tracer)));
  t.not(one, other);
});

test.serial('a thread that failed is not asked again', async (t) => {
  let failed: number | undefined;
  await t.throwsAsync(run(newTracer((thread) => (failed = thread)), 'fail'), { message: /as it was told/ });
  t.not(await run(newTracer()), failed);
});

test.serial('a cancellation goes with the one that it was of, not with its thread', (t) => {
  const tracer = newTracer();
  t.true(tracer.cancel());
  tracer.end();
  const next = newTracer();
  t.false(next.latch.cancelled);
  next.end();
});

test.serial('a thread that ended before it was needed is not kept for the next, which would wait for ever', async (t) => {
  const broken = new URL('broken/tracer.test.ts', import.meta.url).href;
  for (let i = 0; i < 2; i++) {
    const tracer = new Tracer<'succeed', number, number>(broken, () => {});
    await t.throwsAsync(tracer.result, { message: /can not be loaded/ });
    tracer.end();
  }
});
