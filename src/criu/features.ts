/** What criu's "check --feature" asks for: abilities of the kernel, by criu's names, that phaul makes use of. */
import { release } from 'node:os';
import { PhaulError } from '../errors.ts';

/** Since which kernel each is there. */
const SINCE: Record<string, [major: number, minor: number]> = {
  aio_remap: [3, 19],
  clone3_set_tid: [5, 5],
  fdinfo_lock: [4, 1],
  get_rseq_conf: [5, 13],
  ipv6_freebind: [4, 15],
  kcmp_epoll: [4, 13],
  loginuid: [3, 13],
  mem_dirty_track: [6, 7], // by comparing; which pages there are, PAGEMAP_SCAN tells
  memfd_hugetlb: [4, 16],
  mnt_id: [3, 15],
  net_diag_raw: [4, 10],
  openat2: [5, 6],
  pagemap_scan: [6, 7],
  pagemap_scan_guard_pages: [6, 15],
  seccomp_filters: [4, 4],
  seccomp_suspend: [4, 3],
  sk_unix_file: [5, 4],
  sockopt_buf_lock: [5, 14],
  tcp_half_closed: [4, 10],
  timens: [5, 6],
  timer_cr_ids: [6, 16],
  timerfd: [3, 15],
  uffd: [4, 11],
};

export const FEATURES = Object.keys(SINCE);

/** Without these no process is dumped or restored. */
export const NEEDED = ['clone3_set_tid', 'get_rseq_conf', 'pagemap_scan', 'timerfd'];

const KERNEL = /^(\d+)\.(\d+)/;

export function requireFeature(name: string): void {
  const since = SINCE[name];
  if (since === undefined) {
    throw new PhaulError('ERR_USAGE', `phaul makes no use of the feature ${name}, or doesn't know it. It knows: ${FEATURES.join(', ')}.`);
  }
  const [, major, minor] = KERNEL.exec(release()) ?? [];
  if (Number(major) < since[0] || (Number(major) === since[0] && Number(minor) < since[1])) {
    throw new PhaulError('ERR_USAGE', `This kernel, ${release()}, has no ${name}, which came with Linux ${since.join('.')}.`);
  }
}
