/** The thread that dumps to a page server: the main thread keeps the ssh session alive meanwhile. */
import { trace } from '../engine/tracing.ts';
import type { DumpOptions, PreDumpOptions } from '../options.ts';
import type { PageWay } from '../pageServer/client.ts';
import { preDump, writeDump } from './dump.ts';

export type DumpOrder = { way: PageWay } & ({ dump: DumpOptions } | { preDump: PreDumpOptions });

trace<DumpOrder, string>((order, { tell }) => ('dump' in order ? writeDump(order.dump, tell, order.way) : preDump(order.preDump, order.way)));
