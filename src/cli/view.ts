/** What the operator sees of a migration: a live view on a terminal, short lines in a pipe, or JSON. */
import { styleText } from 'node:util';
import {
  eventText,
  formatBytes,
  formatCount,
  formatMs,
  formatRate,
  logLine,
  oneLine,
  plural,
  type DoneEvent,
  type PhaulEvent,
  type PreflightEvent,
  type RoundEvent,
} from '../events.ts';
import type { Output } from './output.ts';

export interface View {
  show(event: PhaulEvent): void;
}

export interface ViewOptions {
  json: boolean;
  verbose: boolean;
  stdout: Output;
  stderr: Output;
}

export function createView({ json, verbose, stdout, stderr }: ViewOptions): View {
  if (json) {
    return createJsonView(verbose, stdout, stderr);
  }
  if (verbose) {
    return createLog(stdout, stderr);
  }
  return stdout.isTTY ? createLiveView(stdout, stderr) : createPlainView(stdout, stderr);
}

/** A move is said on stdout, a failure on stderr, whatever the view. */
function showDone(event: DoneEvent, stdout: Output, stderr: Output): void {
  if (event.outcome === 'moved') {
    stdout.write(`${style(stdout, 'bold', eventText(event))}\n`);
  } else {
    showFailure(event, stderr);
  }
}

/** The sentence, then all obstacles, each on a line of its own. */
function showFailure(event: DoneEvent, stderr: Output): void {
  const obstacles = event.error?.obstacles ?? [];
  const lines = [`phaul: ${eventText(event)}`, ...obstacles.map(({ sentence }) => `  - ${oneLine(sentence)}`)];
  stderr.write(`${lines.join('\n')}\n`);
}

function createJsonView(verbose: boolean, stdout: Output, stderr: Output): View {
  return {
    show: (event) => {
      if (event.event !== 'log' || verbose) {
        stdout.write(`${JSON.stringify(event)}\n`);
      }
      if (event.event === 'done' && event.outcome !== 'moved') {
        showFailure(event, stderr);
      }
    },
  };
}

function createLog(stdout: Output, stderr: Output): View {
  return {
    show: (event) => {
      if (event.event === 'done') {
        showDone(event, stdout, stderr);
      } else {
        stdout.write(`${logLine(event)}\n`);
      }
    },
  };
}

function createPlainView(stdout: Output, stderr: Output): View {
  return {
    show: (event) => {
      if (event.event === 'done') {
        showDone(event, stdout, stderr);
      } else if (event.event === 'round' || event.event === 'freeze' || event.event === 'notice') {
        stdout.write(`${eventText(event)}\n`);
      }
    },
  };
}

const TICK_MS = 100;

/** The table of rounds grows; the line below it tells what goes on and is written over. */
function createLiveView(stdout: Output, stderr: Output): View {
  let doing = '';
  let since = 0;
  let timer: NodeJS.Timeout | undefined;

  const erase = (): void => stdout.write('\r\x1b[K');
  const line = (text: string): void => {
    erase();
    stdout.write(`${text}\n`);
  };
  const draw = (): void => {
    const text = `  ${doing} … ${formatMs(Date.now() - since)}`.slice(0, stdout.columns - 1);
    stdout.write(`\r\x1b[K${style(stdout, 'dim', text)}`);
  };
  const begin = (what: string): void => {
    doing = what;
    since = Date.now();
    // The timer alone keeps no program running that has ended otherwise.
    timer ??= setInterval(draw, TICK_MS).unref();
    draw();
  };
  const end = (): void => {
    clearInterval(timer);
    timer = undefined;
    erase();
  };

  begin('connecting');

  const shows: { [K in PhaulEvent['event']]: (event: Extract<PhaulEvent, { event: K }>) => void } = {
    preflight: (e) => {
      line(subjectText(e));
      begin(`preparing ${e.host}`);
    },
    connect: (e) => begin(`preparing ${e.host}`),
    arm: () => {
      line(style(stdout, 'dim', ROUND_HEADER));
      begin('round 1');
    },
    round: (e) => {
      line(roundRow(e));
      begin(`round ${e.round + 1}`);
    },
    freeze: (e) => {
      // Nothing is drawn while the process stands still.
      end();
      line(eventText(e));
    },
    commit: () => {},
    notice: (e) => {
      line(style(stdout, 'yellow', eventText(e)));
    },
    log: () => {},
    done: (e) => {
      end();
      showDone(e, stdout, stderr);
    },
  };
  return { show: (event) => (shows[event.event] as (e: PhaulEvent) => void)(event) };
}

/** redis-server (pid 1042)  5 threads  1.1 GiB resident */
export const subjectText = (e: PreflightEvent): string =>
  oneLine(`${e.comm} (pid ${e.pid})  ${e.processes > 1 ? `${plural(e.processes, 'process', 'processes')}  ` : ''}${plural(e.threads, 'thread')}  ${formatBytes(e.rssBytes)} resident`);

const row = (cells: string[]): string => cells.map((cell, at) => cell.padStart(at === 0 ? 5 : 13)).join('');

const ROUND_HEADER = row(['round', 'dirty pages', 'sent', 'time', 'rate', 'dirty rate', 'downtime ≈']);

const roundRow = (e: RoundEvent): string =>
  row([
    String(e.round),
    formatCount(e.pagesDirty),
    formatBytes(e.bytesSent),
    formatMs(e.ms),
    formatRate(e.bandwidth),
    e.dirtyRate === 0 ? '-' : formatRate(e.dirtyRate),
    formatMs(e.predictedDowntimeMs),
  ]);

/** Colour only where it is seen, and not if NO_COLOR asks for none. */
function style(output: Output, format: 'bold' | 'dim' | 'yellow', text: string): string {
  const styled = output.isTTY && (process.env['NO_COLOR'] ?? '') === '';
  return styled ? styleText(format, text, { validateStream: false }) : text;
}
