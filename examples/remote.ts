/**
 * What remote system calls are good for, as root:
 *
 *   node examples/remote.ts steal PID FD     prints what is open there, from where the process has read it to
 *   node examples/remote.ts limits PID       asks the process itself for its limit of descriptors
 *   node examples/remote.ts blob PID N       runs machine code in it, which returns its pid plus N
 */
import { createReadStream } from 'node:fs';
import { stdout } from 'node:process';
import { pipeline } from 'node:stream/promises';
import { Remote } from '../src/remote.ts';

const SYS_GETRLIMIT = 97;
const RLIMIT_NOFILE = 7;
const PAGE = 4096;

/** mov eax, 39 (getpid); syscall; add rax, rdi; ret */
const BLOB = Buffer.from('b827000000' + '0f05' + '4801f8' + 'c3', 'hex');

const [what, pid = '', argument = '0'] = process.argv.slice(2);

async function steal(remote: Remote, fd: number): Promise<void> {
  const own = remote.takeDescriptor(fd);
  remote.detach();
  await pipeline(createReadStream('', { fd: own }), stdout, { end: false });
}

function limits(remote: Remote): void {
  const at = remote.map(PAGE);
  const answer = remote.call(SYS_GETRLIMIT, RLIMIT_NOFILE, at);
  const limit = remote.read(at, 16);
  remote.unmap(at, PAGE);
  console.log(answer === 0n ? `${limit.readBigUInt64LE(0)} now, ${limit.readBigUInt64LE(8)} at most` : `error ${-answer}`);
}

using remote = Remote.attach(Number(pid));
switch (what) {
  case 'steal':
    await steal(remote, Number(argument));
    break;
  case 'limits':
    limits(remote);
    break;
  case 'blob':
    console.log(String(remote.run(BLOB, BigInt(argument))));
    break;
  default:
    console.error('usage: node examples/remote.ts steal|limits|blob PID [FD|N]');
    process.exitCode = 2;
}
