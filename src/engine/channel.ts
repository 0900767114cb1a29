/** Page streams and notes, by the library. */
import type { Channel, Note, Priority } from './engine.ts';
import { ETIMEDOUT, failure, Handle, must, native, type Pointer, type RawError } from './library.ts';

const ENOBUFS = -105;
const NOTE_BYTES = 1 << 16;

export const PRIORITIES: Record<Priority, number> = { low: -1, normal: 0, freeze: 2 };

export class LibraryChannel extends Handle implements Channel {
  #buffer: Buffer = Buffer.alloc(NOTE_BYTES);

  get address(): bigint {
    return BigInt(this.pointer ?? 0n);
  }

  get port(): number {
    return native().port(this.pointer) as number;
  }

  accept(timeoutMs: number): void {
    must((error) => native().accept(this.pointer, timeoutMs, error));
  }

  limit(bytesPerSecond: number): void {
    must((error) => native().limit(this.pointer, bytesPerSecond, error));
  }

  unsent(): number {
    return Number(native().unsent(this.pointer));
  }

  setPriority(priority: Priority): void {
    native().channelPriority(this.pointer, PRIORITIES[priority]);
  }

  send(kind: number, payload: Uint8Array): void {
    must((error) => native().send(this.pointer, kind, payload, payload.length, error));
  }

  receive(timeoutMs: number): Note | undefined {
    const kind = [0];
    const size = [0];
    const error = {} as RawError;
    let ret = native().receive(this.pointer, kind, this.#buffer, this.#buffer.length, size, timeoutMs, error) as number;
    if (ret === ENOBUFS) {
      this.#buffer = Buffer.alloc(Number(size[0]));
      ret = native().receive(this.pointer, kind, this.#buffer, this.#buffer.length, size, timeoutMs, error) as number;
    }
    if (ret === ETIMEDOUT) {
      return undefined;
    }
    if (ret < 0) {
      throw failure(ret, error);
    }
    return { kind: kind[0] ?? 0, payload: this.#buffer.subarray(0, Number(size[0])) };
  }
}

export const pointerOf = (channel: Channel | undefined): Pointer => (channel as LibraryChannel | undefined)?.pointer ?? null;
