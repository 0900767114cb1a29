/** phaul agent [--stdio | --socket PATH]: the side that receives. */
import { Command, Option } from 'commander';
import { hostname } from 'node:os';
import { PhaulError } from '../errors.ts';
import { AGENT_SOCKET } from '../places.ts';

interface AgentFlags {
  stdio?: true;
  socket: string;
}

const EPILOGUE = `
Nothing has to be started for a migration: "phaul migrate" starts "phaul agent --stdio" through ssh.
A service on a socket saves the start, and lets the agent run in namespaces or with limits of your
choice. Whoever can open the socket is root on this host: only root can.`;

export const agentCommand = (): Command =>
  new Command('agent')
    .description('Receives processes; "phaul migrate" starts it on the other host by itself.')
    .addOption(new Option('--stdio', 'serve one migration on stdin and stdout').conflicts('socket'))
    .addOption(new Option('--socket <path>', 'serve on a unix socket').default(AGENT_SOCKET))
    .addHelpText('after', EPILOGUE)
    .action(async ({ stdio, socket }: AgentFlags) => {
      if (process.geteuid?.() !== 0) {
        throw new PhaulError('ERR_NOT_ROOT', `The agent on ${hostname()} must be root to build processes: start it with sudo.`);
      }
      const { serveSocket, serveStdio } = await import('../target/agent.ts');
      await (stdio === true ? serveStdio() : serveSocket(socket));
    });
