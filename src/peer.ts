/** The first words with the agent on the other host. */
import { hostname } from 'node:os';
import { connectControl, type Control } from './control.ts';
import { PROTOCOL_VERSION, type Result } from './messages.ts';
import type { Reached } from './reach.ts';
import { version } from './version.ts';

export async function greet(reached: Reached): Promise<{ control: Control; hello: Result<'hello'> }> {
  const control = await connectControl(await reached.open(), reached.host);
  const hello = await control.ask('hello', { protocol: PROTOCOL_VERSION, version, hostname: hostname() });
  return { control, hello };
}
