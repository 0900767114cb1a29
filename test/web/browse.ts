/**
 * A page in a headless Chromium, asked by its protocol for developers:
 *
 *   node browse.ts URL EXPRESSION [SCREENSHOT]
 *
 * waits until the expression is neither false nor nothing, and prints it as JSON. It says "open" on stderr when the page is there.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { WebSocket } from 'ws';

const [url = '', expression = '', screenshot] = process.argv.slice(2);
const LIMIT_MS = 120_000;
const profile = mkdtempSync(join(tmpdir(), 'phaul-chromium-'));
const chromium = spawn('chromium', ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', '--window-size=1120,1500', '--remote-debugging-port=0', `--user-data-dir=${profile}`, 'about:blank'], { stdio: ['ignore', 'ignore', 'pipe'] });

async function endpoint(): Promise<string> {
  for await (const line of createInterface(chromium.stderr)) {
    const found = /^DevTools listening on (ws:.*)$/.exec(line)?.[1];
    if (found !== undefined) {
      chromium.stderr.resume(); // it waits for nobody to read what else it says
      return found;
    }
  }
  throw new Error('Chromium does not say where it can be asked.');
}

const answers = new Map<number, (result: any) => void>();
const browser = new WebSocket(await endpoint());
await once(browser, 'open');
browser.on('message', (text) => {
  const { id, result, error } = JSON.parse(String(text));
  answers.get(id)?.(result ?? { error });
});

let last = 0;
const ask = (method: string, params: object = {}, sessionId?: string): Promise<any> =>
  new Promise((resolve) => {
    answers.set(++last, resolve);
    browser.send(JSON.stringify({ id: last, method, params, sessionId }));
  });

try {
  const { targetId } = await ask('Target.createTarget', { url: 'about:blank' });
  const { sessionId } = await ask('Target.attachToTarget', { targetId, flatten: true });
  await ask('Page.enable', {}, sessionId);
  await ask('Page.navigate', { url }, sessionId);
  let value: unknown;
  for (const deadline = Date.now() + LIMIT_MS; Date.now() < deadline && (value === undefined || value === null || value === false); await sleep(100)) {
    const { result } = await ask('Runtime.evaluate', { expression: `document.readyState === 'complete' && (() => { return ${expression}; })()`, returnByValue: true }, sessionId);
    if (value === undefined && result?.value !== undefined) {
      process.stderr.write('open\n');
    }
    value = result?.value;
  }
  if (screenshot !== undefined) {
    const { data } = await ask('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true }, sessionId);
    writeFileSync(screenshot, Buffer.from(data, 'base64'));
  }
  process.stdout.write(`${JSON.stringify(value ?? null)}\n`);
} finally {
  chromium.kill();
  await once(chromium, 'exit');
  rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
}
