/** The page that shows migrations: one file with all that it needs. */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PhaulEvent, Side } from '../events.ts';
import { version } from '../version.ts';

export interface Migration {
  id: string;
  side: Side;
  events: PhaulEvent[];
}

const WEB = join(import.meta.dirname, '../../web');

/** `migrations`: undefined for a page that asks an agent for them, as they go on. */
export function page(migrations?: Migration[]): string {
  const uplot = dirname(fileURLToPath(import.meta.resolve('uplot/dist/uPlot.iife.min.js')));
  const data = { live: migrations === undefined, host: hostname(), version, migrations: migrations ?? [] };
  const parts: Record<string, string> = {
    uplotStyle: readFileSync(join(uplot, 'uPlot.min.css'), 'utf8'),
    uplot: readFileSync(join(uplot, 'uPlot.iife.min.js'), 'utf8'),
    style: readFileSync(join(WEB, 'style.css'), 'utf8'),
    view: readFileSync(join(WEB, 'view.js'), 'utf8'),
    // Nothing in it ends the script that it is in.
    data: JSON.stringify(data).replaceAll('<', '\\u003c'),
  };
  return readFileSync(join(WEB, 'page.html'), 'utf8').replace(/\{\{(\w+)\}\}/g, (_, name: string) => parts[name] ?? '');
}
