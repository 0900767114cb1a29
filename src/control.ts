/** The control channel: requests and answers as JSON over a WebSocket, over whatever Duplex leads to the peer. */
import { createServer, type IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { WebSocket, WebSocketServer } from 'ws';
import { asPhaulError, isErrorCode, PhaulError } from './errors.ts';
import { parseJson } from './json.ts';
import { envelope, MESSAGE_BYTES_MAX, OBSTACLES_MAX, requests, type Method, type Params, type Result } from './messages.ts';

/**
 * A peer that says nothing to so many pings in a row is gone: ssh notices later, or never. They are counted,
 * for a phaul that was stopped itself knows the time before it has read what came meanwhile.
 */
const HEARTBEAT_MS = 2_500;
const SILENT_BEATS_MAX = 4;

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
  #silentBeats = 0;
  #why: PhaulError | undefined;
  /** Resolves when the channel is gone, with the reason. */
  readonly closed: Promise<PhaulError>;

  constructor(socket: WebSocket, peer: string, handlers: Handlers = {}) {
    this.#socket = socket;
    this.#peer = peer;
    this.#handlers = handlers;
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#drop();
        resolve(this.#lost());
      });
    });
    socket.on('error', (error) => {
      this.failed(error);
      socket.terminate();
    });
    socket.on('pong', () => (this.#silentBeats = 0));
    socket.on('message', (bytes, isBinary) => {
      this.#silentBeats = 0;
      void this.#take(isBinary ? '' : String(bytes));
    });
    this.#heartbeat = setInterval(() => this.#beat(), HEARTBEAT_MS);
    this.#heartbeat.unref();
  }

  async ask<M extends Method>(method: M, params: Params<M>, timeoutMs: number = ANSWER_TIMEOUT_MS): Promise<Result<M>> {
    const id = ++this.#last;
    const answer = new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id)?.reject(new PhaulError('ERR_TIMEOUT', `${this.#peer} did not answer "${method}" within ${timeoutMs / 1000} s.`)), timeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
    });
    if (this.isOpen) {
      this.#socket.send(JSON.stringify({ id, method, params }));
    } else {
      this.#settle(id)?.reject(this.#lost());
    }
    const parsed = requests[method].result.safeParse(await answer);
    if (!parsed.success) {
      throw new PhaulError('ERR_PROTOCOL', `${this.#peer} answered "${method}" with something else than was asked: ${shortened(parsed.error.message)}`);
    }
    return parsed.data as Result<M>;
  }

  get isOpen(): boolean {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  /** Whoever knows why the channel is about to close says so here; the first one counts. */
  failed(error: Error): void {
    this.#why ??= error instanceof PhaulError ? error : new PhaulError('ERR_LINK_LOST', `The control connection to ${this.#peer} broke: ${error.message}.`, { cause: error });
  }

  close(): void {
    this.failed(new PhaulError('ERR_LINK_LOST', `The control connection to ${this.#peer} was closed here.`));
    this.#socket.close();
    setTimeout(() => this.#socket.terminate(), 1000).unref();
  }

  #lost(): PhaulError {
    return this.#why ?? new PhaulError('ERR_LINK_LOST', `The control connection to ${this.#peer} was closed from there: has its phaul agent ended, or the ssh session?`);
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
    if (!this.isOpen) {
      return; // still connecting, or already closing
    }
    if (this.#silentBeats++ >= SILENT_BEATS_MAX) {
      this.failed(new PhaulError('ERR_LINK_LOST', `${this.#peer} was silent for ${(HEARTBEAT_MS * SILENT_BEATS_MAX) / 1000} s: is the link cut, or is its phaul agent stopped?`));
      this.#socket.terminate();
      return;
    }
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
      if (this.isOpen) {
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
        throw new PhaulError('ERR_PROTOCOL', parsed.success ? `"${method}" is not for this side.` : `"${method}" has wrong parameters: ${shortened(parsed.error.message)}`);
      }
      return { result: await handler(parsed.data) };
    } catch (thrown) {
      const { code, message, obstacles } = asPhaulError(thrown);
      return { error: { code, message: message.slice(0, 4000), obstacles: obstacles.slice(0, OBSTACLES_MAX) } };
    }
  }
}

/** A message of the largest size may have a fault in each of its bytes. */
const shortened = (text: string): string => (text.length > 1000 ? `${text.slice(0, 1000)} ...` : text);

/** The side that asks. */
export async function connectControl(duplex: Duplex, peer: string, handshakeTimeoutMs: number): Promise<Control> {
  const socket = new WebSocket('ws://phaul/control', {
    // http wants a net.Socket, and uses of it what every Duplex has.
    createConnection: () => duplex as Socket,
    perMessageDeflate: false,
    maxPayload: MESSAGE_BYTES_MAX,
    handshakeTimeout: handshakeTimeoutMs,
  });
  const control = new Control(socket, peer);
  // ws ends with the stream, and keeps to itself what the stream said last.
  duplex.on('error', (error) => control.failed(error));
  await new Promise<void>((resolve, reject) => {
    socket.once('open', resolve);
    socket.once('error', (cause) => reject(new PhaulError('ERR_REACH_AGENT_EXITED', `The phaul agent on ${peer} did not answer as one: ${cause.message}.`, { cause })));
    void control.closed.then(reject);
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
