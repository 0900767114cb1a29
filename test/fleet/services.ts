/** What runs on the host that is emptied. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Bed } from '../moves/bed.ts';

export interface Service {
  name: string;
  pid: number;
  /** What it answers a client on this host. */
  answer: (host: string) => Promise<string>;
  expected: string;
}

/** It traces its own child, which can't be moved. */
export const STUBBORN = `
import ctypes, os, signal, time
child = os.fork()
if child == 0:
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    while True: time.sleep(1)
while True: time.sleep(1)
`;

export const PYTHON = `
import http.server, sys
class Counter(http.server.BaseHTTPRequestHandler):
    count = 0
    def do_GET(self):
        Counter.count += 1
        self.send_response(200); self.end_headers(); self.wfile.write(b'python %d' % Counter.count)
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(('0.0.0.0', int(sys.argv[2])), Counter).serve_forever()
`;

const NODE = `let count = 0; require('http').createServer((_, response) => response.end('node ' + ++count)).listen(Number(process.argv[3]));`;

export class FleetBed extends Bed {
  /** Where services are started. */
  readonly home: string;

  constructor(name: string, home: string) {
    super(name);
    this.home = home;
  }

  script(name: string, text: string): string {
    writeFileSync(this.report(name), text);
    return this.report(name);
  }

  async curl(host: string, port: number): Promise<string> {
    return (await this.on(host, 'curl', '-s', '--max-time', '20', `http://127.0.0.1:${port}/file`)).stdout;
  }

  async answers(host: string, port: number): Promise<void> {
    for (let i = 0; i < 300; i++) {
      if ((await this.on(host, 'bash', '-c', `</dev/tcp/127.0.0.1/${port}`)).exitCode === 0) {
        return;
      }
      await sleep(100);
    }
    throw new Error(`nothing listens on port ${port} of ${host}`);
  }

  async #serve(port: number, ...command: string[]): Promise<number> {
    const pid = await this.start(this.home, ...command);
    await this.answers(this.home, port);
    return pid;
  }

  async redis(number: number): Promise<Service> {
    const port = 6400 + number;
    const pid = await this.#serve(port, 'redis-server', '--port', String(port), '--save', '', '--protected-mode', 'no', '--bind', '0.0.0.0');
    const ask = async (host: string, ...words: string[]): Promise<string> => (await this.on(host, 'redis-cli', '-p', String(port), ...words)).stdout.trim();
    await ask(this.home, 'set', 'data', `redis ${number}`);
    return { name: `redis ${number}`, pid, answer: (host) => ask(host, 'get', 'data'), expected: `redis ${number}` };
  }

  async nginx(number: number): Promise<Service> {
    const port = 8400 + number;
    const folder = this.report(`nginx.${number}`);
    mkdirSync(folder);
    writeFileSync(join(folder, 'file'), `nginx ${number}`);
    writeFileSync(
      join(folder, 'conf'),
      `daemon off; worker_processes 2; pid ${folder}/pid; error_log ${folder}/error.log;
events { worker_connections 64; }
http { access_log off; client_body_temp_path ${folder}/1; proxy_temp_path ${folder}/2; fastcgi_temp_path ${folder}/3; uwsgi_temp_path ${folder}/4; scgi_temp_path ${folder}/5;
  server { listen ${port}; root ${folder}; } }
`,
    );
    const pid = await this.#serve(port, 'nginx', '-c', join(folder, 'conf'));
    return { name: `nginx ${number}`, pid, answer: (host) => this.curl(host, port), expected: `nginx ${number}` };
  }

  /** Each answer counts up: the one before the move is 1. */
  async #counter(name: string, port: number, ...command: string[]): Promise<Service> {
    const pid = await this.#serve(port, ...command);
    await this.curl(this.home, port);
    return { name, pid, answer: (host) => this.curl(host, port), expected: `${name} 2` };
  }

  async node(number: number): Promise<Service> {
    const port = 8500 + number;
    return this.#counter('node', port, (await this.nodeWithoutIoUring()) ?? 'node', this.script('service.js', NODE), 'service-node', String(port));
  }

  async python(number: number): Promise<Service> {
    const port = 8600 + number;
    return this.#counter('python', port, '/usr/bin/python3', this.script('service.py', PYTHON), 'service-python', String(port));
  }
}
