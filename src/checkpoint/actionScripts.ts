/**
 * Programs of the operator that a dump or a restore runs at named points, with criu's names and environment:
 * CRTOOLS_SCRIPT_ACTION, CRTOOLS_IMAGE_DIR, CRTOOLS_INIT_PID (of the first process, as soon as there is one).
 *
 *   pre-dump          before anything is done to the processes
 *   network-lock      they stand still
 *   post-dump         their images are complete
 *   network-unlock    they go on after network-lock; or they are restored
 *   pre-restore       nothing has been made yet
 *   setup-namespaces, post-setup-namespaces, post-restore
 *                     all processes are made, and held
 *   pre-resume        the last thing before they run
 *   post-resume       they run
 *
 * What fails at network-unlock, pre-resume or post-resume comes too late to change anything, and is a warning.
 */
import { resolve } from 'node:path';
import { runAction } from '../action.ts';
import { asPhaulError } from '../errors.ts';

export type ActionPoint =
  | 'pre-dump' | 'network-lock' | 'post-dump' | 'network-unlock'
  | 'pre-restore' | 'setup-namespaces' | 'post-setup-namespaces' | 'post-restore' | 'pre-resume' | 'post-resume';

const TOO_LATE: ActionPoint[] = ['network-unlock', 'pre-resume', 'post-resume'];

export class ActionScripts {
  /** Of the first process. */
  pid: number | undefined;
  readonly #scripts: string[];
  readonly #directory: string;
  readonly #warn: (sentence: string) => void;

  constructor(scripts: string[], directory: string, warn: (sentence: string) => void) {
    this.#scripts = scripts;
    this.#directory = resolve(directory);
    this.#warn = warn;
  }

  run(...points: ActionPoint[]): void {
    for (const point of points) {
      for (const script of this.#scripts) {
        this.#run(script, point);
      }
    }
  }

  #run(script: string, point: ActionPoint): void {
    try {
      runAction('action script', script, point, {
        CRTOOLS_IMAGE_DIR: this.#directory,
        ...(this.pid !== undefined && { CRTOOLS_INIT_PID: String(this.pid), PHAUL_PID: String(this.pid) }),
      });
    } catch (thrown) {
      if (!TOO_LATE.includes(point)) {
        throw thrown;
      }
      this.#warn(asPhaulError(thrown).message);
    }
  }
}
