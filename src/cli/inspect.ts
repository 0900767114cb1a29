/** phaul inspect DIR */
import { Command, Option } from 'commander';
import { formatBytes, plural } from '../events.ts';
import type { InspectedProcess } from '../inspect.ts';
import type { Output } from './output.ts';

const EPILOGUE = `
Reads images of phaul and of CRIU, and needs neither root nor the kernel that they are of.

Exit codes: 0 shown, 2 the directory holds no checkpoint, or a damaged one.`;

function* linesOf(process: InspectedProcess, indent: string): Generator<string> {
  const { pid, comm, state, threads, mappings, mappedBytes, dumpedBytes } = process;
  if (state === 'ended') {
    yield `${indent}pid ${pid} has ended, and its parent has not taken note yet`;
    return;
  }
  yield `${indent}${comm} (pid ${pid}), ${state}, ${plural(threads, 'thread')}, session ${process.sid}, group ${process.pgid}`;
  const inner = `${indent}  `;
  yield `${inner}program ${process.exe ?? '?'}, in ${process.cwd ?? '?'}${process.root === '/' || process.root === undefined ? '' : ` below ${process.root}`}`;
  yield `${inner}memory  ${formatBytes(dumpedBytes)} in the images, ${formatBytes(mappedBytes)} in ${plural(mappings, 'mapping')}`;
  for (const { fd, kind, text } of process.descriptors) {
    yield `${inner}fd ${String(fd).padEnd(4)} ${kind}${text === '' ? '' : ` ${text}`}`;
  }
  for (const child of process.children) {
    yield* linesOf(child, inner);
  }
}

export const inspectCommand = ({ stdout }: { stdout: Output }): Command =>
  new Command('inspect')
    .description('Shows what a checkpoint holds: processes, memory, files, sockets.')
    .argument('<dir>', 'where the images are')
    .addOption(new Option('--json', 'print all of it as JSON'))
    .addHelpText('after', EPILOGUE)
    .action(async (directory: string, flags: { json?: true }) => {
      const { inspect } = await import('../inspect.ts');
      const root = inspect(directory);
      stdout.write(flags.json === true ? `${JSON.stringify(root)}\n` : `${[...linesOf(root, '')].join('\n')}\n`);
    });
