/** The Worker's own end: runs one function with the migration's data and tells the main thread how it went. */
import { parentPort, workerData } from 'node:worker_threads';
import type { Channel } from './engine.ts';
import { failureOf, Latch, type TracerData, type TracerMessage } from './tracer.ts';

export interface Tracing<M> {
  latch: Latch;
  tell: (news: M) => void;
  /** The main thread may abort it from now on, until it is closed. */
  opened: (channel: Channel) => void;
  closed: () => void;
}

export function trace<D, M>(run: (data: D, tracing: Tracing<M>) => unknown): void {
  const { latch, data } = workerData as TracerData<D>;
  const post = (message: TracerMessage<M>): void => parentPort?.postMessage(message);
  const tracing: Tracing<M> = {
    latch: new Latch(latch),
    tell: (news) => post({ type: 'news', news }),
    opened: ({ address, port }) => post({ type: 'channel', address, port }),
    closed: () => post({ type: 'channel', address: 0n, port: 0 }),
  };
  try {
    post({ type: 'result', result: run(data, tracing) });
  } catch (thrown) {
    post({ type: 'failure', failure: failureOf(thrown) });
  }
}
