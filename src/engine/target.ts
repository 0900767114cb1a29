/** A tree that comes here, by the library. */
import type { LibraryChannel } from './channel.ts';
import type { Applied, Built, Target } from './engine.ts';
import { CHECKSUM_TEXT_BYTES, Handle, ms, must, native, said, text, type Numbers } from './library.ts';

export class LibraryTarget extends Handle implements Target {
  receive(channel: LibraryChannel): void {
    must((error) => native().targetReceive(this.pointer, channel.pointer, error));
  }

  round(channel: LibraryChannel, layout: Buffer, timeoutMs: number): Applied {
    const raw = {} as Numbers<'round' | 'vmas' | 'bytes' | 'pages_dropped' | 'layout_ns' | 'wait_ns'>;
    must((error) => native().targetRound(this.pointer, channel.pointer, layout, layout.length, timeoutMs, raw, error));
    return {
      round: raw.round,
      vmas: raw.vmas,
      bytes: Number(raw.bytes),
      pagesDropped: Number(raw.pages_dropped),
      layoutMs: ms(raw.layout_ns),
      waitMs: ms(raw.wait_ns),
    };
  }

  checksum(): string {
    return text(CHECKSUM_TEXT_BYTES, (buffer, error) => native().targetChecksum(this.pointer, buffer, buffer.length, error) as number);
  }

  threads(threads: Buffer): void {
    must((error) => native().threads(this.pointer, threads, threads.length, error));
  }

  build(state: Buffer): Built {
    const raw = {} as Numbers<'build_ns' | 'threads_ns' | 'files_ns' | 'threads' | 'descriptors'>;
    must((error) => native().build(this.pointer, state, state.length, raw, error));
    return {
      buildMs: ms(raw.build_ns),
      threadsMs: ms(raw.threads_ns),
      filesMs: ms(raw.files_ns),
      threads: raw.threads,
      descriptors: raw.descriptors,
    };
  }

  release(): void {
    must((error) => native().release(this.pointer, error));
  }

  said(): string[] {
    return said((buffer) => native().targetSaid(this.pointer, buffer, buffer.length));
  }

  packets(packets: Buffer): void {
    must((error) => native().targetPackets(this.pointer, packets, packets.length, error));
  }
}
