/** A redis-server on alpha that holds nothing of the one who has started it. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ProcessPromise } from 'zx';

const CLOSE_ALL = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -le 2 ] || eval "exec $fd>&-"; done';

/** Returns its pid when it answers. */
export async function startRedis(on: (host: string, ...command: string[]) => ProcessPromise): Promise<string> {
  const options = '--save "" --appendonly no --bind 0.0.0.0 --protected-mode no --enable-debug-command yes --dir /tmp --logfile ""';
  const { stdout } = await on('alpha', 'bash', '-c', `${CLOSE_ALL}; exec setsid redis-server ${options} </dev/null >/dev/null 2>&1 & echo $!`);
  for (let i = 0; i < 100; i++) {
    if ((await on('alpha', 'redis-cli', 'ping').nothrow()).stdout.trim() === 'PONG') {
      return stdout.trim();
    }
    await sleep(50);
  }
  throw new Error('redis-server did not start on alpha');
}
