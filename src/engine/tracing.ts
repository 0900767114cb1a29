/** The Worker's own end: runs one function with the migration's data and tells the main thread how it went. */
import { parentPort, workerData } from 'node:worker_threads';
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

/** Runs once, when it is told to. */
export function trace<D, M>(run: (data: D, tracing: Tracing<M>) => unknown): void {
  const latch = new Latch(workerData as SharedArrayBuffer);
  const post = (message: TracerMessage<M>): void => parentPort?.postMessage(message);
  const tracing: Tracing<M> = {
    latch,
    tell: (news) => post({ type: 'news', news }),
    opened: ({ address, port }) => {
      latch.channelOpened();
      post({ type: 'channel', address, port });
    },
    closing: () => latch.channelClosing(),
  };
  parentPort?.once('message', (data: D) => {
    try {
      post({ type: 'result', result: run(data, tracing) });
    } catch (thrown) {
      post({ type: 'failure', failure: failureOf(thrown) });
    }
  });
}
