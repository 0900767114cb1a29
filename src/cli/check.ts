/** phaul check PID [[USER@]HOST[:PORT]] */
import { Argument, Command, Option } from 'commander';
import type { Obstacle } from '../errors.ts';
import { oneLine, plural, type PreflightEvent } from '../events.ts';
import type { CheckOptions } from '../options.ts';
import { enterNamespaceOf } from '../pidNamespace.ts';
import { requireProgram } from '../source/program.ts';
import type { MoveIp } from '../addresses.ts';
import { cpuCheckOption, moveIpOption, parseDestination, parsePid, parseTcp } from './arguments.ts';
import type { Output } from './output.ts';
import { addPlaceOptions, placeOptions, type PlaceFlags } from './placeOptions.ts';
import { addReachOptions, reachOptions, type ReachFlags } from './reachOptions.ts';
import { subjectText } from './view.ts';

interface CheckFlags extends ReachFlags, PlaceFlags {
  tcp: CheckOptions['tcp'];
  moveIp?: MoveIp[];
  cpuCheck: CheckOptions['cpuCheck'];
  json?: true;
}

const EPILOGUE = `
Nothing is touched. Obstacles keep the process from moving, and each says how it is mended; notices
tell what will be different on the other host.

With --json, the answer is one line: {"event":"preflight",…,"obstacles":[…],"notices":[…]}.

Exit codes: 0 it can move, 1 it can't, 2 wrong use.`;

export function checkCommand({ stdout }: { stdout: Output }): Command {
  const command = new Command('check')
    .description('Tells whether process PID can move, and with HOST whether it can move there.')
    .addArgument(new Argument('<pid>', 'the process').argParser(parsePid))
    .addArgument(new Argument('[host]', '[USER@]HOST[:PORT], a Host of the ssh configuration, or [IPV6]').argParser(parseDestination))
    .addOption(new Option('--tcp <mode>', 'as for migrate: TCP connections move (established), are reset (close), or are obstacles (refuse)').argParser(parseTcp).default('established'))
    .addOption(moveIpOption())
    .addOption(cpuCheckOption());
  return addReachOptions(addPlaceOptions(command))
    .addOption(new Option('--json', 'print the answer as JSON'))
    .addHelpText('after', EPILOGUE)
    .action(async (typed: number, host: string | undefined, flags: CheckFlags) => {
      const pid = await enterNamespaceOf(typed);
      await requireProgram(pid);
      const { check } = await import('../check.ts');
      const answer = await check({ pid, tcp: flags.tcp, moveIps: flags.moveIp ?? [], cpuCheck: flags.cpuCheck, ...placeOptions(flags), ...(host !== undefined && { reach: reachOptions(host, flags) }) });
      stdout.write(flags.json === true ? `${JSON.stringify(answer)}\n` : `${answerText(answer, host)}\n`);
      process.exitCode = answer.obstacles.length === 0 ? 0 : 1;
    });
}

function answerText(answer: PreflightEvent, host: string | undefined): string {
  const place = host === undefined ? '' : ` to ${answer.host}`;
  const verdict =
    answer.obstacles.length === 0
      ? `It can move${place}.`
      : `It can't move${place}: ${plural(answer.obstacles.length, 'obstacle')}.`;
  return [subjectText(answer), ...section('Obstacles:', answer.obstacles), ...section('Notices:', answer.notices), verdict].join('\n');
}

const section = (title: string, entries: Obstacle[]): string[] =>
  entries.length === 0 ? [] : [title, ...entries.map(({ sentence }) => `  - ${oneLine(sentence)}`)];
