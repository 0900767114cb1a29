/** The Worker's own end: runs one function with the migration's data and tells the main thread how it went. */
import { parentPort } from 'node:worker_threads';
import type { Channel } from './engine.ts';
import { Latch } from './latch.ts';
import { failureOf, type TracerMessage } from './tracer.ts';

export interface Tracing<M> {
  latch: Latch;
  tell: (news: M) => void;
  /** The main thread may abort it from now on, until it is to be closed. */
  opened: (channel: Channel) => void;
  closing: () => void;
}

/** What the main thread sends, each time that there is something to do. */
export interface TracerOrder<D> {
  latch: SharedArrayBuffer;
  data: D;
}

/** Runs when it is told to, as often as it succeeds. */
export function trace<D, M>(run: (data: D, tracing: Tracing<M>) => unknown): void {
  const post = (message: TracerMessage<M>): void => parentPort?.postMessage(message);
  parentPort?.on('message', (order: TracerOrder<D>) => {
    const latch = new Latch(order.latch);
    const tracing: Tracing<M> = {
      latch,
      tell: (news) => post({ type: 'news', news }),
      opened: ({ address, port }) => {
        latch.channelOpened();
        post({ type: 'channel', address, port });
      },
      closing: () => latch.channelClosing(),
    };
    try {
      post({ type: 'result', result: run(order.data, tracing) });
    } catch (thrown) {
      post({ type: 'failure', failure: failureOf(thrown) });
      parentPort?.close();
    }
  });
}
