/** criu's cpuinfo, of this CPU and of one that can do more. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createFileRegistry, fromBinary, fromJson, toBinary, type JsonObject } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { $ as shell } from 'zx';
import { readImage } from '../../src/images.ts';

const directory = mkdtempSync(join(tmpdir(), 'phaul-cpuinfo-'));
test.after.always(() => rmSync(directory, { recursive: true }));

const criu = (...words: string[]) => shell({ nothrow: true, quiet: true })`bin/phaul-criu cpuinfo ${words} -D ${directory}`;
const image = join(directory, 'cpuinfo.img');

function change(edit: (entry: { capability: number[] } & JsonObject) => void): void {
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync('build/images.pb')));
  const schema = registry.getMessage('cpuinfo_entry');
  const [info] = readImage(directory, 'cpuinfo', 'cpuinfo_entry') as { x86_entry: [{ capability: number[] } & JsonObject] }[];
  if (schema === undefined || info === undefined) {
    throw new Error('there is no cpuinfo');
  }
  edit(info.x86_entry[0]);
  const bytes = toBinary(schema, fromJson(schema, info));
  const size = Buffer.alloc(4);
  size.writeUInt32LE(bytes.length);
  writeFileSync(image, Buffer.concat([readFileSync(image).subarray(0, 8), size, bytes]));
}

test.serial('this CPU can do what it has written down itself', async (t) => {
  t.is((await criu('dump')).exitCode, 0);
  t.is((await criu('check')).exitCode, 0);
  t.is((await criu('check', '--cpu-cap')).exitCode, 0);
  const wrong = await criu('check', '--cpu-cap=legs');
  t.is(wrong.exitCode, 1);
  t.regex(wrong.stderr, /--cpu-cap takes fpu, ins, cpu, all, none/);
});

test.serial('what a CPU lacks is named', async (t) => {
  change((entry) => {
    entry.capability[18] = 0xffff_ffff; // instructions of a processor that was given up
  });
  const { exitCode, stderr } = await criu('check');
  t.is(exitCode, 1);
  t.regex(stderr, /this CPU lacks avx512_4vnniw, avx512_4fmaps, which programs may use/);
  t.is((await criu('check', '--cpu-cap=none')).exitCode, 0);
  t.is((await criu('check', '--cpu-cap=none,fpu')).exitCode, 0);
  change((entry) => {
    entry['xsave_size_max'] = 64;
  });
  t.regex((await criu('check', '--cpu-cap=fpu')).stderr, /registers take \d+ bytes here .* and \d+ \(64\) on the other CPU/);
  rmSync(image);
  t.regex((await criu('check')).stderr, /cpuinfo\.img is missing/);
});
