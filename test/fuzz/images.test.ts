/** phaul inspect of images in which anything is: it shows what it can read, or names the image that it can't. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create, createFileRegistry, fromBinary, fromJson, toBinary, type JsonValue } from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import test from 'ava';
import { inspect } from '../../src/inspect.ts';
import { attempt, changedBytes, changedValue, pick, random } from './mutate.ts';

const folder = mkdtempSync(join(tmpdir(), 'phaul-fuzz-'));
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(join(import.meta.dirname, '../../build/images.pb'))));

function encode(message: string, value: JsonValue): Buffer {
  const schema = registry.getMessage(message);
  if (schema === undefined) {
    throw new Error(`no ${message}`);
  }
  const bytes = toBinary(schema, fromJson(schema, value, { registry }) ?? create(schema));
  const size = Buffer.alloc(4);
  size.writeUInt32LE(bytes.length);
  return Buffer.concat([size, bytes]);
}

const word = (value: number): Buffer => Buffer.from(new Uint32Array([value]).buffer);
const HEAD = Buffer.concat([word(0x54564319), word(0)]);

type Entry = [message: string, value: JsonValue];

/** Two processes, parent and child, that have files and memory. */
const images: Record<string, Entry[]> = {
  'pstree': [
    ['pstree_entry', { pid: 12, ppid: 0, pgid: 12, sid: 12, threads: [12, 13] }],
    ['pstree_entry', { pid: 14, ppid: 12, pgid: 12, sid: 12, threads: [14] }],
  ],
  'files': [
    ['file_entry', { type: 'REG', id: 1, reg: { id: 1, flags: 0, pos: '0', fown: { uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 }, name: '/bin/sleep' } }],
    ['file_entry', { type: 'PIPE', id: 2, pipe: { id: 2, pipe_id: 3, flags: 0, fown: { uid: 0, euid: 0, signum: 0, pid_type: 0, pid: 0 } } }],
  ],
  'fdinfo-12': [['fdinfo_entry', { id: 1, flags: 0, type: 'REG', fd: 3 }], ['fdinfo_entry', { id: 2, flags: 0, type: 'PIPE', fd: 4 }]],
  'fs-12': [['fs_entry', { cwd_id: 1, root_id: 1 }]],
  'ids-12': [['task_kobj_ids_entry', { vm_id: 1, files_id: 12, fs_id: 1, sighand_id: 1 }]],
  'pagemap-12': [['pagemap_head', { pages_id: 1 }], ['pagemap_entry', { vaddr: '4194304', compat_nr_pages: 2, nr_pages: '2', flags: 4 }]],
};

/** Of all of them, but what is said differently; raw bytes come first. */
function write(values: Record<string, Entry[]>, raw: Record<string, Buffer> = {}): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  writeFileSync(join(folder, 'inventory.img'), word(0x58313116));
  for (const [name, entries] of Object.entries({ ...images, ...values })) {
    writeFileSync(join(folder, `${name}.img`), raw[name] ?? Buffer.concat([HEAD, ...entries.map(([message, value]) => encode(message, value))]));
  }
}

test('images of any bytes are shown, or refused by name', (t) => {
  const next = random(21);
  write({});
  const { root } = inspect(folder);
  t.like(root, { pid: 12, threads: 2, memory: { bytes: 8192 }, children: [{ pid: 14 }] });
  t.is(root?.descriptors[0]?.text, '/bin/sleep');
  const whole = Object.fromEntries(Object.entries(images).map(([name, entries]) => [name, Buffer.concat([HEAD, ...entries.map(([message, value]) => encode(message, value))])]));
  let shown = 0;
  for (let i = 0; i < 500; i++) {
    const name = pick(next, Object.keys(whole));
    write({}, { [name]: changedBytes(next, whole[name] as Buffer) });
    shown += attempt(() => inspect(folder), name) === undefined ? 0 : 1;
  }
  t.true(shown > 20 && shown < 500, `${shown}`);
});

test('images of any values are shown, or refused by name', (t) => {
  const next = random(22);
  let written = 0;
  for (let i = 0; i < 1_500; i++) {
    const name = pick(next, Object.keys(images));
    const entries = (images[name] as Entry[]).map(([message, value]): Entry => [message, next() < 0.7 ? (changedValue(next, value) as JsonValue) : value]);
    try {
      write({ [name]: entries });
    } catch {
      continue; // the schema has no room for it
    }
    written++;
    attempt(() => inspect(folder), { name, entries });
  }
  t.true(written > 100, `${written}`);
});

test('processes that are not before their children are refused', (t) => {
  for (const ppid of [14, 77]) {
    write({ pstree: [['pstree_entry', { pid: 12, ppid: 0, pgid: 12, sid: 12, threads: [12] }], ['pstree_entry', { pid: 14, ppid, pgid: 12, sid: 12, threads: [14] }]] });
    t.throws(() => inspect(folder), { message: new RegExp(`process 14 is a child of ${ppid}, which is not before it`) });
  }
});

test('an image that is a pipe or a link keeps nobody waiting', (t) => {
  write({});
  rmSync(join(folder, 'files.img'));
  execFileSync('mkfifo', [join(folder, 'files.img')]);
  t.throws(() => inspect(folder), { message: /files\.img can't be read: it is no file/ });
  rmSync(join(folder, 'files.img'));
  symlinkSync('/dev/zero', join(folder, 'files.img'));
  t.throws(() => inspect(folder), { message: /files\.img can't be read/ });
});
