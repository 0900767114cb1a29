/** phaul page-server: one checkpoint of another host comes to a directory of this one. */
import { closeSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { dedup } from '../checkpoint/dedup.ts';
import { openEmpty, removeImages } from '../checkpoint/directory.ts';
import { engine } from '../engine/libphaul.ts';
import { asPhaulError, PhaulError } from '../errors.ts';
import { DISCARD, KEY_BYTES, parseOrder, STREAMS, type Answer, type Order } from './words.ts';

const ACCEPT_TIMEOUT_MS = 30_000;

/** At once: this thread is about to wait in the engine. */
const say = (words: Answer): void => void writeSync(1, `${JSON.stringify(words)}\n`);

const readOrder = async (lines: AsyncIterator<string, undefined>): Promise<Order> => parseOrder((await lines.next()).value);

function receive({ directory, previous, address, key }: Order): number {
  const fd = openEmpty(directory, previous);
  const secret = Buffer.from(key, 'base64');
  try {
    if (secret.length !== KEY_BYTES) {
      throw new PhaulError('ERR_PROTOCOL', `The key has ${secret.length} bytes, not ${KEY_BYTES}.`);
    }
    const channel = engine.listen(address, secret, STREAMS);
    try {
      say({ port: channel.port });
      channel.accept(ACCEPT_TIMEOUT_MS);
      return engine.receivePages(channel, fd);
    } finally {
      channel.close();
    }
  } catch (thrown) {
    removeImages(directory);
    throw thrown;
  } finally {
    closeSync(fd);
  }
}

/** What fails is told to the other side. */
export async function servePages(): Promise<void> {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  try {
    const told = await readOrder(lines);
    say({ done: { bytes: receive(told) } });
    if ((await lines.next()).value === DISCARD) {
      removeImages(told.directory);
      say({ discarded: true });
    } else if (told.autoDedup && told.previous !== undefined) {
      dedup(told.directory);
    }
  } catch (thrown) {
    const { code, message } = asPhaulError(thrown);
    say({ error: { code, message } });
  }
}
