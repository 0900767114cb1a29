/** A tree that moves away, by the library. */
import type { LibraryChannel } from './channel.ts';
import type { Freeze, Source, SourceRound, TrackerName } from './engine.ts';
import { CHECKSUM_TEXT_BYTES, Handle, ms, must, native, text, type Numbers } from './library.ts';

type RawRound = Numbers<'round' | 'vmas' | 'pages_dirty' | 'pages_sent' | 'pages_zero' | 'pages_inherited' | 'held_back' | 'bytes_sent' | 'scan_ns' | 'send_ns' | 'stopped_ns'>;
type RawFreeze = Numbers<'frozen_at_ns' | 'stop_ns' | 'scan_ns' | 'send_ns' | 'dump_ns' | 'state_bytes' | 'threads' | 'processes' | 'fresh_pages' | 'fresh_own_pages'> & { last: RawRound };

const asRound = (raw: RawRound): SourceRound => ({
  round: raw.round,
  vmas: raw.vmas,
  pagesDirty: Number(raw.pages_dirty),
  pagesSent: Number(raw.pages_sent),
  pagesZero: Number(raw.pages_zero),
  pagesInherited: Number(raw.pages_inherited),
  heldBack: Number(raw.held_back),
  bytesSent: Number(raw.bytes_sent),
  scanMs: ms(raw.scan_ns),
  sendMs: ms(raw.send_ns),
  stoppedMs: ms(raw.stopped_ns),
});

export class LibrarySource extends Handle implements Source {
  #freeze = {} as RawFreeze;
  #report = {} as Freeze;

  trackBy(tracker: TrackerName): void {
    must((error) => native().trackBy(this.pointer, tracker, error));
  }

  sendOutputTo(path: string): void {
    must((error) => native().stdio(this.pointer, path, error));
  }

  arm(): number {
    const stop = [0];
    must((error) => native().arm(this.pointer, stop, error));
    return ms(stop[0] ?? 0);
  }

  round(channel: LibraryChannel): SourceRound {
    const raw = {} as RawRound;
    must((error) => native().sourceRound(this.pointer, channel.pointer, raw, error));
    return asRound(raw);
  }

  dirty(): number {
    return Number(must((error) => Number(native().dirty(this.pointer, error))));
  }

  quiesce(timeoutMs: number): number {
    return Number(must((error) => Number(native().quiesce(this.pointer, timeoutMs, error))));
  }

  freeze(timeoutMs: number): Freeze {
    must((error) => native().freeze(this.pointer, timeoutMs, this.#freeze, error));
    this.#fill();
    return this.#report;
  }

  final(channel: LibraryChannel): void {
    must((error) => native().final(this.pointer, channel.pointer, this.#freeze, error));
    this.#fill();
  }

  checksum(): string {
    return text(CHECKSUM_TEXT_BYTES, (buffer, error) => native().sourceChecksum(this.pointer, buffer, buffer.length, error) as number);
  }

  locks(): string {
    const size = must((error) => native().sourceLocks(this.pointer, null, 0, error) as number);
    return size === 0 ? '' : text(size + 1, (buffer, error) => native().sourceLocks(this.pointer, buffer, buffer.length, error) as number);
  }

  commit(): void {
    must((error) => native().commit(this.pointer, error));
  }

  pass(): void {
    native().pass(this.pointer);
  }

  packets(channel: LibraryChannel): void {
    must((error) => native().sourcePackets(this.pointer, channel.pointer, error));
  }

  kill(): void {
    must((error) => native().kill(this.pointer, error));
  }

  abandon(stopped: boolean): void {
    must((error) => native().abandon(this.pointer, stopped ? 1 : 0, error));
  }

  yield(): void {
    must((error) => native().yield(this.pointer, error));
  }

  thaw(): void {
    must((error) => native().thaw(this.pointer, error));
  }

  #fill(): void {
    const raw = this.#freeze;
    Object.assign(this.#report, {
      frozenAtMs: ms(raw.frozen_at_ns),
      stopMs: ms(raw.stop_ns),
      scanMs: ms(raw.scan_ns),
      sendMs: ms(raw.send_ns),
      dumpMs: ms(raw.dump_ns),
      stateBytes: Number(raw.state_bytes),
      threads: raw.threads,
      processes: raw.processes,
      freshPages: Number(raw.fresh_pages),
      freshOwnPages: Number(raw.fresh_own_pages),
      last: asRound(raw.last),
    } satisfies Freeze);
  }
}
