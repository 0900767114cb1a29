/** Instructions that the process may have decided to use on the source's CPU. */
import { arch } from 'node:os';
import { readCpuFlags } from '../../proc.ts';
import type { Check } from '../preflight.ts';

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
  const here = new Set(await readCpuFlags());
  const missing = plan.cpuFlags.filter((flag) => LATCHED.has(flag) && !here.has(flag));
  if (missing.length === 0) {
    return [];
  }
  return [
    {
      code: 'CPU_FLAGS',
      subject: missing.join(' '),
      sentence:
        `The CPU of ${host} lacks ${missing.join(', ')}, which ${plan.comm} may use since it started on ${plan.host}: ` +
        'choose a host with these, or hide them from the programs on the source (for virtual machines: one CPU model on both hosts).',
    },
  ];
};
