/** Instructions that the process may have decided to use on the source's CPU. */
import { arch } from 'node:os';
import { engine } from '../../engine/libphaul.ts';
import { readCpuFlags } from '../../proc.ts';
import type { CpuCheck } from '../../options.ts';
import type { Plan } from '../../source/plan.ts';
import type { Check, Finding } from '../preflight.ts';

/**
 * Names of /proc/cpuinfo that a program can find by cpuid and keep in mind: without them, it would die
 * of SIGILL or compute something else. Left out are what only the kernel uses and mere hints about
 * speed, such as erms, that hypervisors show or hide at will.
 */
const LATCHED = new Set(
  `cx8 cx16 cmov fpu mmx mmxext 3dnow 3dnowext fxsr sse sse2 pni ssse3 sse4_1 sse4_2 sse4a
   popcnt abm bmi1 bmi2 tbm movbe lahf_lm adx clflush clflushopt clwb clzero rdtscp rdpid fsgsbase rdrand rdseed
   aes pclmulqdq vaes vpclmulqdq gfni sha_ni sha512 sm3 sm4
   xsave xsaveopt xsavec xgetbv1 avx avx2 f16c fma fma4 xop avx_vnni avx_ifma avx_ne_convert avx_vnni_int8 avx_vnni_int16
   avx512f avx512dq avx512cd avx512bw avx512vl avx512er avx512pf avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni
   avx512_bitalg avx512_vpopcntdq avx512_4vnniw avx512_4fmaps avx512_vp2intersect avx512_bf16 avx512_fp16
   avx10_1 avx10_2 apx amx_tile amx_int8 amx_bf16 amx_fp16 amx_complex
   rtm tsxldtrk ospke user_shstk movdiri movdir64b enqcmd waitpkg serialize cmpccxadd mwaitx rdpru`.split(/\s+/),
);

export const checkCpu: Check = async (plan, host) => {
  if (plan.arch !== arch()) {
    return [
      {
        code: 'ARCH',
        subject: plan.arch,
        sentence: `${host} is of another architecture (${arch()}) than ${plan.host} (${plan.arch}): choose a host of the same.`,
      },
    ];
  }
  if (plan.cpuCheck === 'off') {
    return [];
  }
  const here = await readCpuFlags();
  return [...missingFlags(plan, here, host), ...(plan.cpuCheck === 'strict' ? furtherFlags(plan, here, host) : []), ...largerXsave(plan, host)];
};

const WITHOUT: Record<CpuCheck, string> = {
  strict: '--cpu-check used asks only for what programs find by cpuid.',
  used: '--cpu-check off moves it all the same: if it uses one of them, it dies there of SIGILL.',
  off: '',
};

const without = (flags: string[], others: string[]): string[] => {
  const known = new Set(others);
  return flags.filter((flag) => !known.has(flag));
};

function missingFlags(plan: Plan, here: string[], host: string): Finding[] {
  const strict = plan.cpuCheck === 'strict';
  const missing = without(plan.cpuFlags, here).filter((flag) => strict || LATCHED.has(flag));
  if (missing.length === 0) {
    return [];
  }
  return [
    {
      code: 'CPU_FLAGS',
      subject: missing.join(' '),
      sentence:
        `The CPU of ${host} lacks ${missing.join(', ')}, which ${strict ? `that of ${plan.host} has` : `${plan.comm} may use since it started on ${plan.host}`}: ` +
        `choose a host with these, or hide them from the programs on the source (for virtual machines: one CPU model on both hosts). ${WITHOUT[plan.cpuCheck]}`,
    },
  ];
}

/** Nothing dies of these, but what begins with them there can't come back. */
function furtherFlags(plan: Plan, here: string[], host: string): Finding[] {
  const further = without(here, plan.cpuFlags);
  if (further.length === 0) {
    return [];
  }
  return [
    {
      code: 'CPU_FLAGS_MORE',
      subject: further.join(' '),
      sentence:
        `The CPU of ${host} has ${further.join(', ')}, which that of ${plan.host} lacks, and --cpu-check strict wants the same on both: choose a host with the same CPU and kernel. ` +
        WITHOUT.strict,
    },
  ];
}

const DYNAMIC_LINKER = /\/ld-linux-x86-64\.so\.\d$|\/ld-\d[\d.]*\.so$/;

/**
 * When a function is called for the first time, glibc's dynamic linker saves the vector registers in as many bytes as XSAVE
 * wrote when the program started. XSAVEC, which it prefers, writes only what is in use.
 */
function largerXsave(plan: Plan, host: string): Finding[] {
  const bytes = engine.xsaveBytes();
  const has = (flag: string): boolean => plan.cpuFlags.includes(flag);
  if (!has('xsave') || has('xsavec') || bytes <= plan.xsaveBytes || !plan.files.some(({ path }) => DYNAMIC_LINKER.test(path))) {
    return [];
  }
  return [
    {
      code: 'CPU_XSAVE',
      subject: 'xsave',
      sentence:
        `The vector registers of ${host}'s CPU take ${bytes} bytes to save, those of ${plan.host} ${plan.xsaveBytes}, which is the room that the dynamic linker ` +
        `of ${plan.comm} leaves for them: choose a host with the same, or hide the larger registers there (a kernel booted with clearcpuid=avx512f).`,
    },
  ];
}
