/** Writes the completion of phaul's commands and options for a shell: scripts/completion.ts bash | zsh */
import type { Argument, Command, Option } from 'commander';
import { createProgram } from '../src/cli/program.ts';
import { TRACKERS } from '../src/engine/engine.ts';
import { CPU_CHECKS, FILES_MODES } from '../src/options.ts';

const silent = { write: () => {}, isTTY: false, columns: 80 };
const { commands } = createProgram({ stdout: silent, stderr: silent });

/** What completes the value of an option or an argument, by its name in the help. */
const kinds: Record<string, { bash: string; zsh: string }> = {
  pid: { bash: 'COMPREPLY=($(compgen -W "$(cd /proc && echo [1-9]*)" -- "$cur"))', zsh: '_pids' },
  host: { bash: '_known_hosts_real -a -- "$cur"', zsh: '_user_at_host' },
  file: { bash: '_filedir', zsh: '_files' },
  path: { bash: '_filedir', zsh: '_files' },
  dir: { bash: '_filedir -d', zsh: '_files -/' },
  directory: { bash: '_filedir -d', zsh: '_files -/' },
};

const words = (list: string[]): { bash: string; zsh: string } => ({ bash: `COMPREPLY=($(compgen -W '${list.join(' ')}' -- "$cur"))`, zsh: `(${list.join(' ')})` });

/** Options that take one of a few words say so in their description, where they are explained. */
const choices: Record<string, string[]> = { '--tcp': ['established', 'close', 'refuse'], '--on-diverge': ['freeze', 'abort'], '--tracker': ['auto', ...TRACKERS], '--cpu-check': [...CPU_CHECKS], '--files': [...FILES_MODES], '--pid-namespace': ['same', 'new'] };

const kindOfOption = (option: Option): { bash: string; zsh: string } | undefined => {
  const value = /<([^>]+)>/.exec(option.flags)?.[1];
  return choices[option.long ?? ''] !== undefined ? words(choices[option.long ?? ''] ?? []) : kinds[value ?? ''];
};
const kindOfArgument = (argument: Argument): { bash: string; zsh: string } | undefined => kinds[argument.name()];
const names = ({ short, long }: Option): string[] => [short, long].filter((name) => name !== undefined);
const allOptions = (command: Command): Option[] => [...command.createHelp().visibleOptions(command)];

function bash(): string {
  const perCommand = commands.map((command) => {
    const valued = allOptions(command).filter(({ required }) => required);
    const values = valued.map((option) => `      ${names(option).join(' | ')}) ${kindOfOption(option)?.bash ?? ':'}; return ;;`);
    const free = command.registeredArguments.map((argument, index) => `      ${index}) ${kindOfArgument(argument)?.bash ?? ':'} ;;`);
    return `    ${command.name()})
      case $prev in
${values.join('\n')}
      esac
      if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W '${allOptions(command).flatMap(names).join(' ')}' -- "$cur"))
        return
      fi
      valued=' ${valued.flatMap(names).join(' ')} '
      for ((i = 2; i < cword; i++)); do
        if [[ $valued == *" \${words[i]} "* ]]; then ((i++)); elif [[ \${words[i]} != -* ]]; then ((free++)); fi
      done
      case $free in
${free.join('\n')}
      esac ;;`;
  });
  return `# bash completion for phaul
_phaul() {
  local cur prev words cword i free=0 valued
  _init_completion || return
  if ((cword == 1)); then
    COMPREPLY=($(compgen -W '${commands.map((command) => command.name()).join(' ')} --help --version' -- "$cur"))
    return
  fi
  case \${words[1]} in
${perCommand.join('\n')}
  esac
} &&
  complete -F _phaul phaul
`;
}

/** For a place within single quotes. */
const quoted = (text: string): string => text.replaceAll("'", `'\\''`).replaceAll(/[[\]:]/g, (sign) => `\\${sign}`);

function zsh(): string {
  const spec = (option: Option): string => {
    const value = option.required ? `:${quoted(/<([^>]+)>/.exec(option.flags)?.[1] ?? '')}:${kindOfOption(option)?.zsh ?? ''}` : '';
    const [first = '', ...others] = names(option);
    const name = others.length === 0 ? `'${first}` : `'(${names(option).join(' ')})'{${names(option).join(',')}}'`;
    return `        ${name}[${quoted(option.description)}]${value}'`;
  };
  const perCommand = commands.map((command) => {
    const free = command.registeredArguments.map((argument, index) => `        '${index + 1}${argument.required ? '' : ':'}:${quoted(argument.name())}:${kindOfArgument(argument)?.zsh ?? ''}'`);
    return `    ${command.name()})
      _arguments -s \\
${[...allOptions(command).map(spec), ...free].join(' \\\n')} ;;`;
  });
  return `#compdef phaul
_user_at_host() {
  if compset -P '*@'; then _hosts; else _alternative 'hosts:host:_hosts' 'users:user:_users -S @'; fi
}
_phaul() {
  local -a commands=(
${commands.map((command) => `    '${command.name()}:${quoted(command.description())}'`).join('\n')}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
${perCommand.join('\n')}
  esac
}
_phaul "$@"
`;
}

process.stdout.write(process.argv[2] === 'zsh' ? zsh() : bash());
