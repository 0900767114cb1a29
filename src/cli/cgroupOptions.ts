/** The options of every command that puts processes into control groups. */
import { Option, type Command } from 'commander';
import { CGROUP_MODES, type CgroupOptions } from '../cgroups.ts';
import { PhaulError } from '../errors.ts';

export interface CgroupFlags {
  manageCgroups?: CgroupOptions['mode'];
  cgroupRoot?: string[];
}

function parseMode(text: string): CgroupOptions['mode'] {
  const mode = CGROUP_MODES.find((known) => known === text);
  if (mode === undefined) {
    throw new PhaulError('ERR_USAGE', `--manage-cgroups takes ${CGROUP_MODES.join(', ')}, not "${text}".`);
  }
  return mode;
}

function addRoot(text: string, before: string[] | undefined): string[] {
  if (!/^(?:[^\s/]*:)?\/\S*$/.test(text)) {
    throw new PhaulError('ERR_USAGE', `"${text}" is no control group: write /PATH, or CONTROLLER:/PATH for one hierarchy, such as memory:/services or name=systemd:/system.slice.`);
  }
  return [...(before ?? []), text];
}

export const addCgroupOptions = (command: Command): Command =>
  command
    .addOption(
      new Option('--manage-cgroups [mode]', 'control groups, in criu\'s terms: ignore them; none, props: they must be there; soft, full: make what is missing; strict: they must not be there. Otherwise processes are put where they were if there is such a group')
        .argParser(parseMode)
        .preset('soft'),
    )
    .addOption(new Option('--cgroup-root <group>', '[CONTROLLER:]/PATH: this group in the place of the one that they were in; repeat for more').argParser(addRoot));

export const cgroupOptions = ({ manageCgroups, cgroupRoot }: CgroupFlags): CgroupOptions => ({
  ...(manageCgroups !== undefined && { mode: manageCgroups }),
  roots: cgroupRoot ?? [],
});
