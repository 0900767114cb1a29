/** A process tree from a directory. */
import { cgroupText } from '../cgroups.ts';
import { engine } from '../engine/libphaul.ts';
import type { RestoreOptions } from '../options.ts';
import { ActionScripts } from './actionScripts.ts';
import { withCheckpoint } from './directory.ts';

export interface Restored {
  /** Of the first process. */
  pid: number;
  /** Sentences for the operator about what is different here. */
  notices: string[];
}

/** Whatever fails leaves no process. */
export function restore({ directory, tcp, leaveStopped, cgroups, actionScripts }: RestoreOptions, warn: (sentence: string) => void): Restored {
  return withCheckpoint(directory, (fd) => {
    const scripts = new ActionScripts(actionScripts, directory, warn);
    scripts.run('pre-restore');
    const restoring = engine.openRestore(fd, { tcpClose: tcp !== 'established', tcpAtEnd: tcp === 'end' }, cgroupText(cgroups));
    const { pid } = restoring;
    let notices: string[];
    try {
      scripts.pid = pid;
      scripts.run('setup-namespaces', 'post-setup-namespaces', 'post-restore', 'network-unlock', 'pre-resume');
      restoring.release(leaveStopped);
      notices = restoring.said();
    } finally {
      restoring.close();
    }
    scripts.run('post-resume');
    return { pid, notices };
  });
}
