/** What a process's clocks show, told to a host whose own are others. */
import { engine } from '../engine/libphaul.ts';
import type { Params, Result } from '../messages.ts';

/** The quickest answer says most exactly when it was given. */
const ASKED = 5;

export type ClocksTold = Pick<Params<'prepare'>, 'clocks' | 'clocksAt' | 'clocksUnsureNs'>;

/** `ask` is the other host's answer to what time it is. */
export async function tellClocks(pid: number, ask: () => Promise<Result<'clock'>>): Promise<ClocksTold> {
  let told: ClocksTold | undefined;
  for (let i = 0; i < ASKED; i++) {
    const before = process.hrtime.bigint();
    const clocks = engine.clocks(pid);
    const { at } = await ask();
    const clocksUnsureNs = Number(process.hrtime.bigint() - before);
    if (told === undefined || clocksUnsureNs < told.clocksUnsureNs) {
      told = { clocks, clocksAt: at, clocksUnsureNs };
    }
  }
  return told!;
}
