/** The control channel: requests and answers as JSON over a WebSocket, over whatever Duplex leads to the peer. */
import { createServer, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocket, WebSocketServer } from 'ws';
import { asPhaulError, isErrorCode, PhaulError } from './errors.ts';
import { envelope, MESSAGE_BYTES_MAX, requests, type Method, type Params, type Result } from './messages.ts';

/** A peer that misses a whole interval of pings is gone: ssh notices later, or never. */
const HEARTBEAT_MS = 5_000;

/** Preflight hashes every mapped file on a slow disk; nothing else takes longer. */
const ANSWER_TIMEOUT_MS = 120_000;

export type Handlers = { [M in Method]?: (params: Params<M>) => Promise<Result<M>> | Result<M> };

interface Waiting {
  resolve: (result: unknown) => void;
  reject: (error: PhaulError) => void;
  timer: NodeJS.Timeout;
}

export class Control {
  readonly #socket: WebSocket;
  readonly #peer: string;
  readonly #handlers: Handlers;
  readonly #waiting = new Map<number, Waiting>();
  readonly #heartbeat: NodeJS.Timeout;
  #last = 0;
  #alive = true;
  /** Resolves when the channel is gone, for whatever reason. */
  readonly closed: Promise<void>;

  constructor(socket: WebSocket, peer: string, handlers: Handlers = {}) {
    this.#socket = socket;
    this.#peer = peer;
    this.#handlers = handlers;
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#drop();
        resolve();
      });
    });
    socket.on('error', () => socket.terminate());
    socket.on('pong', () => (this.#alive = true));
    socket.on('message', (bytes, isBinary) => void this.#take(isBinary ? '' : String(bytes)));
    this.#heartbeat = setInterval(() => this.#beat(), HEARTBEAT_MS);
    this.#heartbeat.unref();
  }

  async ask<M extends Method>(method: M, params: Params<M>, timeoutMs: number = ANSWER_TIMEOUT_MS): Promise<Result<M>> {
    const id = ++this.#last;
    const answer = new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id)?.reject(new PhaulError('ERR_TIMEOUT', `${this.#peer} did not answer "${method}" within ${timeoutMs / 1000} s.`)), timeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
    });
    if (this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(JSON.stringify({ id, method, params }));
    } else {
      this.#settle(id)?.reject(this.#lost());
    }
    const parsed = requests[method].result.safeParse(await answer);
    if (!parsed.success) {
      throw new PhaulError('ERR_PROTOCOL', `${this.#peer} answered "${method}" with something else than was asked: ${parsed.error.message}`);
    }
    return parsed.data as Result<M>;
  }

  close(): void {
    this.#socket.close();
    setTimeout(() => this.#socket.terminate(), 1000).unref();
  }

  #lost(): PhaulError {
    return new PhaulError('ERR_LINK_LOST', `The control connection to ${this.#peer} broke.`);
  }

  #settle(id: number): Waiting | undefined {
    const waiting = this.#waiting.get(id);
    clearTimeout(waiting?.timer);
    this.#waiting.delete(id);
    return waiting;
  }

  #drop(): void {
    clearInterval(this.#heartbeat);
    for (const id of [...this.#waiting.keys()]) {
      this.#settle(id)?.reject(this.#lost());
    }
  }

  #beat(): void {
    if (this.#socket.readyState !== WebSocket.OPEN) {
      return; // still connecting, or already closing
    }
    if (!this.#alive) {
      this.#socket.terminate();
      return;
    }
    this.#alive = false;
    this.#socket.ping();
  }

  async #take(text: string): Promise<void> {
    const parsed = envelope.safeParse(parseJson(text));
    if (!parsed.success) {
      this.#socket.close(1007, 'not a phaul message');
      return;
    }
    const message = parsed.data;
    if ('method' in message) {
      const answer = await this.#answer(message.method, message.params);
      if (this.#socket.readyState === WebSocket.OPEN) {
        this.#socket.send(JSON.stringify({ id: message.id, ...answer }));
      }
    } else if ('error' in message) {
      const { code, message: sentence, obstacles } = message.error;
      this.#settle(message.id)?.reject(new PhaulError(isErrorCode(code) ? code : 'ERR_PEER', sentence, { obstacles: obstacles ?? [] }));
    } else {
      this.#settle(message.id)?.resolve(message.result);
    }
  }

  async #answer(method: string, params: unknown): Promise<object> {
    try {
      if (!Object.hasOwn(requests, method)) {
        throw new PhaulError('ERR_PROTOCOL', `This phaul knows no request "${method}".`);
      }
      const name = method as Method;
      const parsed = requests[name].params.safeParse(params);
      const handler = this.#handlers[name] as ((params: unknown) => unknown) | undefined;
      if (!parsed.success || handler === undefined) {
        throw new PhaulError('ERR_PROTOCOL', parsed.success ? `"${method}" is not for this side.` : `"${method}" has wrong parameters: ${parsed.error.message}`);
      }
      return { result: await handler(parsed.data) };
    } catch (thrown) {
      const { code, message, obstacles } = asPhaulError(thrown);
      return { error: { code, message: message.slice(0, 4000), obstacles } };
    }
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The side that asks. */
export async function connectControl(duplex: Duplex, peer: string): Promise<Control> {
  const socket = new WebSocket('ws://phaul/control', {
    // http wants a net.Socket, and uses of it what every Duplex has.
    createConnection: () => duplex as Socket,
    perMessageDeflate: false,
    maxPayload: MESSAGE_BYTES_MAX,
    handshakeTimeout: 15_000,
  });
  const control = new Control(socket, peer);
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve);
    socket.once('error', (cause) => reject(new PhaulError('ERR_REACH_AGENT_EXITED', `The phaul agent on ${peer} did not answer as one: ${cause.message}.`, { cause })));
    socket.once('close', () => reject(new PhaulError('ERR_REACH_AGENT_EXITED', `The phaul agent on ${peer} ended before it said hello.`)));
  });
  return control;
}

/** The side that answers: hand it connections with serve(). */
export function controlServer(onControl: (socket: WebSocket) => void): { serve: (duplex: Duplex) => void } {
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MESSAGE_BYTES_MAX });
  const server = createServer((_request, response) => response.writeHead(426).end('phaul speaks WebSocket here\n'));
  server.on('upgrade', (request: IncomingMessage, duplex: Duplex, head: Buffer) => {
    sockets.handleUpgrade(request, duplex as Socket, head, onControl);
  });
  return { serve: (duplex) => void server.emit('connection', duplex) };
}
