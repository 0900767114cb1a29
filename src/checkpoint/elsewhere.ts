/** Dumps to a directory of another host. */
import { Tracer } from '../engine/tracer.ts';
import type { DumpOptions, PageServerOptions, PreDumpOptions } from '../options.ts';
import { PageServer, type PageWay } from '../pageServer/client.ts';
import { requireDumpable, type Dumped, type PreDumped } from './dump.ts';
import type { DumpOrder } from './worker.ts';

async function through<R>(server: PageServerOptions, options: PreDumpOptions, orderOf: (way: PageWay) => DumpOrder, warn: (sentence: string) => void): Promise<R> {
  const there = await PageServer.start(server, options);
  const tracer = new Tracer<DumpOrder, string, R>(import.meta.url, warn);
  try {
    tracer.begin(orderOf(there.way));
    const written = await tracer.result;
    await there.finish();
    return written;
  } catch (thrown) {
    throw await there.reasonOf(thrown);
  } finally {
    there.close();
    tracer.end();
  }
}

/** The directory of the options gets all but pages, that of the server all. */
export async function dumpElsewhere(server: PageServerOptions, options: DumpOptions, warn: (sentence: string) => void): Promise<Dumped> {
  requireDumpable(options);
  return through(server, options, (way) => ({ way, dump: options }), warn);
}

export const preDumpElsewhere = async (server: PageServerOptions, options: PreDumpOptions, warn: (sentence: string) => void): Promise<PreDumped> =>
  through(server, options, (way) => ({ way, preDump: options }), warn);
