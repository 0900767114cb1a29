/**
 * The operator's own program, for what phaul doesn't know: the address of a cloud, a load balancer. It is run on the source, as
 * criu runs an action script, at
 *
 *   pre-dump         before anything is done to the process
 *   network-lock     the process stands still, and the target has it complete: the last thing before the commit
 *   network-unlock   after network-lock, if the process goes on here after all
 *   post-resume      it runs on the target
 *
 * A failure before the commit aborts the migration, one after it is a notice. In its environment: PHAUL_ACTION (and
 * CRTOOLS_SCRIPT_ACTION, criu's name for it), PHAUL_PID, PHAUL_NAME, PHAUL_TARGET, PHAUL_TARGET_ADDRESS, PHAUL_MIGRATION.
 */
import { runAction } from '../action.ts';
import type { SourceOrder } from './order.ts';

export type HookPoint = 'pre-dump' | 'network-lock' | 'network-unlock' | 'post-resume';

/** The process may stand still for as long as one takes. */
const TIMEOUT_MS = 10_000;

/** Of a migration, what the program is told. */
export type HookSubject = Pick<SourceOrder, 'hook' | 'pid' | 'comm' | 'host' | 'address' | 'id'>;

export class Hook {
  readonly #order: HookSubject;
  #locked: boolean;

  /** `locked`: another phaul has run it at network-lock. */
  constructor(order: HookSubject, locked = false) {
    this.#order = order;
    this.#locked = locked;
  }

  run(point: Exclude<HookPoint, 'network-unlock'>): void {
    if (point === 'network-lock') {
      this.#locked = true; // a part of it may have been done, even if it fails
    }
    this.#run(point);
  }

  /** The process goes on here. */
  undo(): void {
    if (this.#locked) {
      this.#locked = false;
      this.#run('network-unlock');
    }
  }

  #run(point: HookPoint): void {
    const { hook, pid, comm, host, address, id } = this.#order;
    if (hook === undefined) {
      return;
    }
    runAction('hook', hook, point, { PHAUL_PID: String(pid), PHAUL_NAME: comm, PHAUL_TARGET: host, PHAUL_TARGET_ADDRESS: address, PHAUL_MIGRATION: id }, TIMEOUT_MS);
  }
}
