import { createHash } from 'node:crypto';
import { mkdtempSync } from 'node:fs';
import { open, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execFileSync } from 'node:child_process';
import test from 'ava';
import { hashContent, readBuildId } from '../src/identity.ts';

const scratch = mkdtempSync(join(tmpdir(), 'phaul-identity-'));
test.after.always(() => rm(scratch, { recursive: true }));

async function make(name: string, content: Buffer | string): Promise<string> {
  const path = join(scratch, name);
  await writeFile(path, content);
  return path;
}

async function buildIdOf(path: string): Promise<string | undefined> {
  await using file = await open(path);
  return await readBuildId(file);
}

async function hashOf(path: string, size: number): Promise<string> {
  await using file = await open(path);
  return await hashContent(file, size);
}

test('the build id is the one that readelf shows', async (t) => {
  const notes = execFileSync('readelf', ['-n', process.execPath], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  const expected = /Build ID: ([0-9a-f]+)/.exec(notes)?.[1];
  t.is(await buildIdOf(process.execPath), expected);
  t.regex((await buildIdOf('/bin/sh')) ?? '', /^[0-9a-f]{40}$/);
});

test('scripts, short files and damaged headers have no build id', async (t) => {
  t.is(await buildIdOf(await make('empty', '')), undefined);
  t.is(await buildIdOf(await make('script', '#!/bin/sh\n'.repeat(20))), undefined);
  const header = Buffer.alloc(4096, 0xff);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1], 0);
  t.is(await buildIdOf(await make('damaged', header)), undefined);
  header.writeBigUInt64LE(64n, 32);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(60, 56);
  header.writeUInt32LE(4, 64); // a note that claims to have 2^64 - 1 bytes
  t.is(await buildIdOf(await make('endless', header)), undefined);
});

test('a small file is hashed whole', async (t) => {
  const content = Buffer.alloc(3 * 2 ** 20 + 17, 'phaul');
  t.is(await hashOf(await make('small', content), content.length), createHash('sha256').update(content).digest('hex'));
});

test('of a large file, the first and the last bytes count', async (t) => {
  const size = 100 * 2 ** 20 + 5;
  const path = await make('large', '');
  await truncate(path, size);
  const before = await hashOf(path, size);
  await using file = await open(path, 'r+');
  await file.write('x', size - 1);
  const after = await hashOf(path, size);
  t.not(after, before);
  await file.write('x', 0);
  t.not(await hashOf(path, size), after);
});
