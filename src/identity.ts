/** Whether two files of one path on two hosts are the same: by build id, else by a hash of the content. */
import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';

/** Files up to this size are hashed whole; of larger ones, this much in evenly spread pieces. */
const HASH_BYTES = 64 * 2 ** 20;
const PIECE_BYTES = 2 ** 20;

/** Notes of real programs are a few hundred bytes; a damaged header may claim gigabytes. */
const NOTES_BYTES_MAX = 2 ** 20;

const PT_NOTE = 4;
const NT_GNU_BUILD_ID = 3;

export async function hashContent(file: FileHandle, size: number): Promise<string> {
  const hash = createHash('sha256');
  const pieces = Math.ceil(Math.min(size, HASH_BYTES) / PIECE_BYTES);
  const stride = size <= HASH_BYTES ? PIECE_BYTES : (size - PIECE_BYTES) / (pieces - 1);
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  for (let piece = 0; piece < pieces; piece++) {
    const { bytesRead } = await file.read(buffer, 0, PIECE_BYTES, Math.floor(piece * stride));
    hash.update(buffer.subarray(0, bytesRead));
  }
  return hash.digest('hex');
}

/** The build id of an ELF file in hex, or undefined if the file has none or isn't ELF. */
export async function readBuildId(file: FileHandle): Promise<string | undefined> {
  const header = await readAt(file, 0, 64);
  // 64 bit, little endian: the only kind of program that phaul moves.
  if (header.length < 64 || header.readUInt32BE(0) !== 0x7f454c46 || header[4] !== 2 || header[5] !== 1) {
    return undefined;
  }
  const table = Number(header.readBigUInt64LE(32));
  const entryBytes = header.readUInt16LE(54);
  const entries = header.readUInt16LE(56);
  if (entryBytes < 56) {
    return undefined;
  }
  const programs = await readAt(file, table, entryBytes * entries);
  for (let at = 0; at + 56 <= programs.length; at += entryBytes) {
    if (programs.readUInt32LE(at) !== PT_NOTE) {
      continue;
    }
    const offset = Number(programs.readBigUInt64LE(at + 8));
    const size = Number(programs.readBigUInt64LE(at + 32));
    const align = Number(programs.readBigUInt64LE(at + 48));
    const found = findBuildId(await readAt(file, offset, Math.min(size, NOTES_BYTES_MAX)), align === 8 ? 8 : 4);
    if (found !== undefined) {
      return found;
    }
  }
  return undefined;
}

/** A note is: name size, description size, type, name, description, the latter two padded. */
function findBuildId(notes: Buffer, align: number): string | undefined {
  const padded = (size: number): number => Math.ceil(size / align) * align;
  let at = 0;
  while (at + 12 <= notes.length) {
    const nameSize = notes.readUInt32LE(at);
    const size = notes.readUInt32LE(at + 4);
    const type = notes.readUInt32LE(at + 8);
    const description = at + padded(12 + nameSize);
    const name = notes.toString('latin1', at + 12, at + 12 + nameSize);
    if (type === NT_GNU_BUILD_ID && name === 'GNU\0' && size > 0 && size <= 64) {
      return notes.toString('hex', description, description + size);
    }
    at = description + padded(size);
  }
  return undefined;
}

async function readAt(file: FileHandle, offset: number, size: number): Promise<Buffer> {
  if (!Number.isSafeInteger(offset) || size <= 0) {
    return Buffer.alloc(0);
  }
  const buffer = Buffer.alloc(size);
  const { bytesRead } = await file.read(buffer, 0, size, offset);
  return buffer.subarray(0, bytesRead);
}
