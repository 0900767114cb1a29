/** Images of a checkpoint, CRIU's or ours, decoded by the schema in proto/. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createFileRegistry, fromBinary, toJson, type FileRegistry, type JsonValue } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { PhaulError } from './errors.ts';

const COMMON_MAGIC = 0x54564319;
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

/** All entries of NAME.img as JSON, none if there is no such image. Field names are those of the schema; 64-bit numbers are strings. */
export function readImage(directory: string, name: string, message: string, head?: string): JsonValue[] {
  const path = join(directory, `${name}.img`);
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') {
      return [];
    }
    throw thrown;
  }
  const entries: JsonValue[] = [];
  try {
    let at = bytes.readUInt32LE(0) === COMMON_MAGIC ? 8 : 4;
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
    throw new PhaulError('ERR_USAGE', `${path} can't be read: ${(cause as Error).message}. Is it of a checkpoint, and whole?`, { cause });
  }
  return entries;
}
