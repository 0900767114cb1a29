/** Whether the memory of the process fits here. */
import { readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { formatBytes, formatCount } from '../../events.ts';
import { kilobytes, parseFields, readSysctl } from '../../proc.ts';
import type { Plan } from '../../source/plan.ts';
import type { Check, Finding } from '../preflight.ts';

/** Page tables, and buffers of the page streams. */
const MARGIN_BYTES = 32 * 2 ** 20;
const MARGIN_RATIO = 1.02;

/** Mappings that exist beside those of the process while it is built. */
const SPARE_MAPPINGS = 16;

const NEVER_OVERCOMMIT = 2;

export const checkMemory: Check = async (plan, host) => {
  const findings = await Promise.all([checkAvailable(plan, host), checkCommit(plan, host), checkMapCount(plan, host)]);
  return [...findings.filter((finding) => finding !== undefined), ...(await checkHugePages(plan, host))];
};

async function checkAvailable(plan: Plan, host: string): Promise<Finding | undefined> {
  const need = (plan.rssBytes + plan.swapBytes) * MARGIN_RATIO + MARGIN_BYTES;
  const available = kilobytes(parseFields(await readFile('/proc/meminfo', 'utf8')).get('MemAvailable'));
  if (available < need) {
    return shortage('MEMORY', `${host} has ${formatBytes(available)} of memory available`, need, plan, 'free some there, or choose another host.');
  }
  const room = await readCgroupRoom();
  if (room !== undefined && room.bytes < need) {
    return shortage('MEMORY_CGROUP', `The control group ${room.path} of the agent on ${host} has room for ${formatBytes(room.bytes)}`, need, plan, 'raise its memory limit.');
  }
  return undefined;
}

const shortage = (code: string, found: string, need: number, plan: Plan, mend: string): Finding => ({
  code,
  subject: 'memory',
  sentence: `${found}, but ${plan.comm} needs ${formatBytes(need)} (${formatBytes(plan.rssBytes + plan.swapBytes)} and a margin): ${mend}`,
});

async function checkCommit(plan: Plan, host: string): Promise<Finding | undefined> {
  if ((await readSysctl('vm.overcommit_memory')) !== NEVER_OVERCOMMIT) {
    return undefined;
  }
  const meminfo = parseFields(await readFile('/proc/meminfo', 'utf8'));
  const left = kilobytes(meminfo.get('CommitLimit')) - kilobytes(meminfo.get('Committed_AS'));
  if (left >= plan.dataBytes) {
    return undefined;
  }
  return {
    code: 'OVERCOMMIT',
    subject: 'vm.overcommit_memory',
    sentence:
      `${host} never overcommits (vm.overcommit_memory is 2) and can promise ${formatBytes(Math.max(left, 0))} more, but ${plan.comm} has ` +
      `${formatBytes(plan.dataBytes)} of writable memory: raise vm.overcommit_ratio there.`,
  };
}

const HUGE_PAGES = '/sys/kernel/mm/hugepages';

/** Of one size: those that nobody has touched or reserved, and those that the kernel may add when it is asked. */
async function countFree(directory: string): Promise<number> {
  const read = async (name: string): Promise<number> => Number(await readFile(join(directory, name), 'utf8'));
  const mayBeAdded = (await read('nr_overcommit_hugepages')) - (await read('surplus_hugepages'));
  return (await read('free_hugepages')) - (await read('resv_hugepages')) + Math.max(mayBeAdded, 0);
}

async function checkHugePages(plan: Plan, host: string): Promise<Finding[]> {
  const sizes: string[] = await readdir(HUGE_PAGES).catch(() => []);
  const checked = plan.hugePages.map(async ({ pageBytes, bytes }): Promise<Finding | []> => {
    const has = `${plan.comm} has ${formatBytes(bytes)} in huge pages of ${formatBytes(pageBytes)}, touched or reserved`;
    const size = `hugepages-${pageBytes / 1024}kB`;
    if (!sizes.includes(size)) {
      return { code: 'HUGE_PAGES', subject: 'huge pages', sentence: `${has}, but the CPU or the kernel of ${host} has none of that size: choose another host.` };
    }
    const directory = join(HUGE_PAGES, size);
    const free = await countFree(directory);
    const lacking = Math.ceil(bytes / pageBytes) - free;
    if (lacking <= 0) {
      return [];
    }
    const setting = join(directory, 'nr_hugepages');
    const wanted = Number(await readFile(setting, 'utf8')) + lacking;
    return { code: 'HUGE_PAGES', subject: 'huge pages', sentence: `${has}, but ${host} has ${formatBytes(free * pageBytes)} of them free: run "echo ${wanted} > ${setting}" there.` };
  });
  return (await Promise.all(checked)).flat();
}

async function checkMapCount(plan: Plan, host: string): Promise<Finding | undefined> {
  const max = await readSysctl('vm.max_map_count');
  const need = plan.mappings + SPARE_MAPPINGS;
  if (max === undefined || max >= need) {
    return undefined;
  }
  return {
    code: 'MAP_COUNT',
    subject: 'vm.max_map_count',
    sentence: `${plan.comm} has ${formatCount(plan.mappings)} mappings, but ${host} allows ${formatCount(max)}: run "sysctl vm.max_map_count=${need}" there.`,
  };
}

/** The least room below a memory limit of the agent's control group and its parents, version 1 or 2. */
async function readCgroupRoom(): Promise<{ path: string; bytes: number } | undefined> {
  const lines = (await readFile('/proc/self/cgroup', 'utf8')).trim().split('\n');
  let least: { path: string; bytes: number } | undefined;
  for (const line of lines) {
    const [, controllers = '', path = '/'] = line.split(':');
    if (controllers !== '' && !controllers.split(',').includes('memory')) {
      continue;
    }
    for (let group = path; ; group = dirname(group)) {
      const bytes = controllers === '' ? await roomOf(group, '', VERSION_2) : await roomOf(group, 'memory', VERSION_1);
      if (bytes !== undefined && (least === undefined || bytes < least.bytes)) {
        least = { path: group, bytes };
      }
      if (group === '/' || group === '.') {
        break;
      }
    }
  }
  return least;
}

const VERSION_1 = { limit: 'memory.limit_in_bytes', usage: 'memory.usage_in_bytes', reclaimable: 'total_inactive_file' };
const VERSION_2 = { limit: 'memory.max', usage: 'memory.current', reclaimable: 'inactive_file' };

async function roomOf(group: string, mount: string, names: typeof VERSION_1): Promise<number | undefined> {
  const read = (name: string): Promise<string> => readFile(join('/sys/fs/cgroup', mount, group, name), 'utf8');
  try {
    const limit = Number(await read(names.limit));
    const usage = Number(await read(names.usage));
    const statistics = parseFields((await read('memory.stat')).replaceAll(' ', ':'));
    const room = limit - usage + Number(statistics.get(names.reclaimable) ?? 0);
    return Number.isFinite(room) ? room : undefined; // "max" is no number
  } catch {
    return undefined; // the root group has no limit, and not every host mounts the hierarchy
  }
}
