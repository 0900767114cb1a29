/** Images of a checkpoint, CRIU's or ours, decoded by the schema in proto/. */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createFileRegistry, fromBinary, toJson, type FileRegistry, type JsonValue } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import type { z } from 'zod';
import { PhaulError } from './errors.ts';

const COMMON_MAGIC = 0x54564319;
const INVENTORY_MAGIC = 0x58313116; // alone
const SCHEMA = join(import.meta.dirname, '../build/images.pb');

let registry: FileRegistry | undefined;

function schemaOf(message: string) {
  registry ??= createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(SCHEMA)));
  const schema = registry.getMessage(message);
  if (schema === undefined) {
    throw new Error(`there is no message ${message} in ${SCHEMA}`);
  }
  return schema;
}

const wrong = (path: string, sentence: string, cause?: unknown): PhaulError =>
  new PhaulError('ERR_USAGE', `${path} can't be read: ${sentence}. Is it of a checkpoint, and whole?`, { cause });

/** Undefined if there is none. What isn't a file, such as a named pipe, could keep us waiting. */
function bytesOf(path: string): Buffer | undefined {
  let fd: number | undefined;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW);
    if (!fstatSync(fd).isFile()) {
      throw new Error('it is no file');
    }
    return readFileSync(fd);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') {
      return undefined;
    }
    throw wrong(path, (thrown as Error).message, thrown);
  } finally {
    if (fd !== undefined) {
      closeSync(fd);
    }
  }
}

/** Where the first entry begins. */
function afterMagic(bytes: Buffer): number {
  const first = bytes.readUInt32LE(0);
  if (first === COMMON_MAGIC) {
    return 8;
  }
  if (first === INVENTORY_MAGIC) {
    return 4;
  }
  throw new RangeError('it does not begin as an image does');
}

/** All entries of NAME.img as JSON, none if there is no such image. Field names are those of the schema; 64-bit numbers are strings. */
export function readImage(directory: string, name: string, message: string, head?: string): JsonValue[] {
  const path = join(directory, `${name}.img`);
  const bytes = bytesOf(path);
  const entries: JsonValue[] = [];
  if (bytes === undefined) {
    return entries;
  }
  try {
    let at = afterMagic(bytes);
    while (at < bytes.length) {
      const size = bytes.readUInt32LE(at);
      if (size > bytes.length - at - 4) {
        throw new RangeError('an entry is longer than the file');
      }
      const schema = schemaOf(head !== undefined && entries.length === 0 ? head : message);
      entries.push(toJson(schema, fromBinary(schema, bytes.subarray(at + 4, at + 4 + size)), { useProtoFieldName: true, registry }));
      at += 4 + size;
    }
  } catch (cause) {
    throw wrong(path, `${(cause as Error).message} (entry ${entries.length + 1})`, cause);
  }
  return entries;
}

/** The same, each as `schema` wants it: the error names the field that isn't. */
export const readEntries = <T extends z.ZodType>(directory: string, name: string, message: string, schema: T, head?: string): z.infer<T>[] =>
  readImage(directory, name, message, head)
    .slice(head === undefined ? 0 : 1)
    .map((entry, i) => {
      const parsed = schema.safeParse(entry);
      if (!parsed.success) {
        const [issue] = parsed.error.issues;
        throw wrong(join(directory, `${name}.img`), `${issue?.path.join('.') ?? '?'}: ${issue?.message ?? '?'} (entry ${i + (head === undefined ? 1 : 2)})`, parsed.error);
      }
      return parsed.data;
    });
