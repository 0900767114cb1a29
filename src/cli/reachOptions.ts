/** The options of every command that goes to another host. */
import { Option, type Command } from 'commander';
import type { ReachOptions } from '../options.ts';

export interface ReachFlags {
  acceptNewHostKey?: true;
  identity?: string;
  sshConfig?: string;
}

export const addReachOptions = (command: Command): Command =>
  command
    .addOption(new Option('-i, --identity <file>', 'private key to log in with, as for ssh'))
    .addOption(new Option('-F, --ssh-config <file>', 'ssh configuration to read instead of ~/.ssh/config'))
    .addOption(new Option('--accept-new-host-key', 'trust and remember the key of a host that known_hosts lacks'));

export const reachOptions = (destination: string, flags: ReachFlags): ReachOptions => ({
  destination,
  acceptNewHostKey: flags.acceptNewHostKey === true,
  ...(flags.identity !== undefined && { identityFile: flags.identity }),
  ...(flags.sshConfig !== undefined && { sshConfigFile: flags.sshConfig }),
});
