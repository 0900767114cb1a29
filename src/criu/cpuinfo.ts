/** criu's cpuinfo: can programs go on here that began on another CPU? */
import { closeSync, openSync } from 'node:fs';
import { Command, Option } from 'commander';
import type { CpuAspects } from '../engine/engine.ts';
import { engine } from '../engine/libphaul.ts';
import { PhaulError } from '../errors.ts';
import { addCommon, type CommonFlags } from './options.ts';

const ALL: CpuAspects = { registers: true, instructions: true, same: true };
const WORDS: Record<string, Partial<CpuAspects>> = {
  fpu: { registers: true },
  ins: { instructions: true },
  cpu: { same: true },
  all: ALL,
  none: {},
};

/** "fpu,ins", "^cpu": criu's. */
function parseAspects(text: string): CpuAspects {
  const aspects: CpuAspects = { registers: true, instructions: true, same: false };
  for (const word of text.split(',')) {
    const named = WORDS[word.replace(/^\^/, '')];
    if (named === undefined) {
      throw new PhaulError('ERR_USAGE', `--cpu-cap takes ${Object.keys(WORDS).join(', ')}, each with ^ before it to leave it out, not "${word}".`);
    }
    if (word.endsWith('none')) {
      Object.assign(aspects, word.startsWith('^') ? ALL : { registers: false, instructions: false, same: false });
    }
    for (const aspect of Object.keys(named) as (keyof CpuAspects)[]) {
      aspects[aspect] = !word.startsWith('^');
    }
  }
  return aspects;
}

function inDirectory(directory: string, act: (fd: number) => void): void {
  const fd = openSync(directory, 'r');
  try {
    act(fd);
  } finally {
    closeSync(fd);
  }
}

export function cpuinfoCommand(): Command {
  const command = new Command('cpuinfo').description('Writes down what this CPU can do, or says whether this one can do what was written down.');
  command.addCommand(
    addCommon(new Command('dump').description('Writes cpuinfo.img.')).action(({ imagesDir }: CommonFlags) => inDirectory(imagesDir, (fd) => engine.dumpCpu(fd))),
  );
  command.addCommand(
    addCommon(new Command('check').description('Reads it.'))
      .addOption(new Option('--cpu-cap [what]', 'fpu, ins, cpu, all or none').argParser(parseAspects).preset('all').default({ registers: true, instructions: true, same: false }, 'fpu,ins'))
      .action(({ imagesDir, cpuCap }: CommonFlags & { cpuCap: CpuAspects }) => inDirectory(imagesDir, (fd) => engine.checkCpu(fd, cpuCap))),
  );
  return command;
}
