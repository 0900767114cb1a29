/** The native tests, on a kernel that this machine hasn't got: each tracker that it has keeps the same contract, for one. */
import type { Host, Lab } from './labHosts.ts';
import type { Row } from './labTable.ts';

/** Of what differs between kernels and CPUs; those that have time limits of their own would tell how slow the guest is. */
const TESTS = ['track_test', 'shared_track_test', 'xstate_test', 'vdso_test', 'rebirth_test'];
const TIMEOUT_S = 300;
const SKIPPED = 77;

export async function testNatively(lab: Lab, host: Host, kernel: string): Promise<Row[]> {
  const rows: Row[] = [];
  for (const name of TESTS) {
    const { exitCode, stdout, stderr } = await lab.on(host, 'bash', '-c', `cd ${process.cwd()} && exec timeout ${TIMEOUT_S} build/test/${name} </dev/null`);
    const said = (stdout + stderr).trim().split('\n').at(-1) ?? '';
    const outcome = exitCode === 0 ? 'ok' : exitCode === SKIPPED ? said : `failed (${exitCode}): ${said}`;
    rows.push({ cells: [kernel, '', '', name, outcome, '', '', ''], asExpected: exitCode === 0 || exitCode === SKIPPED });
  }
  return rows;
}
