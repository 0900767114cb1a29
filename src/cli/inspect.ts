/** phaul inspect DIR */
import { Command, Option } from 'commander';
import { formatBytes, plural } from '../events.ts';
import type { Inspected, InspectedProcess } from '../inspect.ts';
import type { InspectedLink } from '../inspectChain.ts';
import type { Output } from './output.ts';

const EPILOGUE = `
Reads images of phaul and of CRIU, and needs neither root nor the kernel that they are of.

Exit codes: 0 shown, 2 the directory holds no checkpoint, or a damaged one.`;

function* linesOf(process: InspectedProcess, indent: string): Generator<string> {
  const { pid, comm, state, threads, mappings, mappedBytes, memory } = process;
  if (state === 'ended') {
    yield `${indent}pid ${pid} has ended, and its parent has not taken note yet`;
    return;
  }
  yield `${indent}${comm} (pid ${pid}), ${state}, ${plural(threads, 'thread')}, session ${process.sid}, group ${process.pgid}`;
  const inner = `${indent}  `;
  yield `${inner}program ${process.exe ?? '?'}, in ${process.cwd ?? '?'}${process.root === '/' || process.root === undefined ? '' : ` below ${process.root}`}`;
  const before = memory.parentBytes === 0 ? '' : `, ${formatBytes(memory.parentBytes)} of it in checkpoints before`;
  yield `${inner}memory  ${formatBytes(memory.bytes)} in the images${before}, ${formatBytes(mappedBytes)} in ${plural(mappings, 'mapping')}`;
  for (const { fd, kind, text } of process.descriptors) {
    yield `${inner}fd ${String(fd).padEnd(4)} ${kind}${text === '' ? '' : ` ${text}`}`;
  }
  for (const child of process.children) {
    yield* linesOf(child, inner);
  }
}

/** Blocks of a file that is full are a little more than its pages. */
const freed = ({ writtenBytes, diskBytes }: InspectedLink): string => (diskBytes < writtenBytes ? `, ${formatBytes(writtenBytes - diskBytes)} of them freed or holes` : '');

const linkLine = (link: InspectedLink): string => `${link.directory}: ${link.kind}, ${formatBytes(link.writtenBytes)} of pages${freed(link)}`;

function* allLines({ chain, root }: Inspected): Generator<string> {
  const [self, ...before] = chain;
  if (root !== undefined) {
    yield* linesOf(root, '');
  } else if (self !== undefined) {
    yield `${linkLine(self)} of pid ${self.pids.join(', ')}; it can't be restored by itself`;
  }
  for (const link of before) {
    yield `after ${linkLine(link)}`;
  }
}

export const inspectCommand = ({ stdout }: { stdout: Output }): Command =>
  new Command('inspect')
    .description('Shows what a checkpoint holds: processes, memory, files, sockets; and those before it.')
    .argument('<dir>', 'where the images are')
    .addOption(new Option('--json', 'print all of it as JSON'))
    .addHelpText('after', EPILOGUE)
    .action(async (directory: string, flags: { json?: true }) => {
      const { inspect } = await import('../inspect.ts');
      const inspected = inspect(directory);
      stdout.write(flags.json === true ? `${JSON.stringify({ ...inspected.root, chain: inspected.chain })}\n` : `${[...allLines(inspected)].join('\n')}\n`);
    });
