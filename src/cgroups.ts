/** What is done with control groups, in criu's terms: `none` and `props` want the groups to be there, `strict` wants them not to be. */
export const CGROUP_MODES = ['ignore', 'none', 'props', 'soft', 'full', 'strict'] as const;

export interface CgroupOptions {
  /** undefined: processes are put where they were if there is such a group, and stay in phaul's if not. */
  mode?: (typeof CGROUP_MODES)[number];
  /** [CONTROLLER:]/PATH, that take the place of where the processes were. */
  roots: string[];
  /** A directory in which each hierarchy is mounted under its name. */
  yard?: string;
}

/** In the words of the engine. */
export const cgroupText = ({ mode, roots, yard }: CgroupOptions): string =>
  [...(mode === undefined ? [] : [mode]), ...roots.map((root) => `root=${root}`), ...(yard === undefined ? [] : [`yard=${yard}`])].join('\n');
