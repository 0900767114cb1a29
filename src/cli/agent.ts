/** phaul agent [--stdio | --socket PATH]: the side that receives. */
import { Command, Option } from 'commander';
import { hostname } from 'node:os';
import { PhaulError } from '../errors.ts';
import { parseWeb } from './arguments.ts';
import type { WebPlace } from '../web/server.ts';
import { AGENT_SOCKET } from '../places.ts';

interface AgentFlags {
  stdio?: true;
  socket: string;
  web?: WebPlace;
  ownUnit: boolean;
}

const EPILOGUE = `
Nothing has to be started for a migration: "phaul migrate" starts "phaul agent --stdio" through ssh.
A service on a socket has its own limits and its own log, and takes a socket that its service manager
listens on already (phaul-agent.socket). Whoever can open the socket is root on this host: only root can.

The page of --web shows, on both hosts of a migration, its rounds as they go on, its downtime and how it
ended; /metrics has sums. Nothing can be done by it. On a port, any user of this host can see it.

Where systemd runs, each process is received in a unit of its own in phaul.slice, and lives there: it
outlives the agent and the ssh session, and "systemctl stop" of its unit ends it.`;

export const agentCommand = (): Command =>
  new Command('agent')
    .description('Receives processes; "phaul migrate" starts it on the other host by itself.')
    .addOption(new Option('--stdio', 'serve one migration on stdin and stdout').conflicts('socket'))
    .addOption(new Option('--socket <path>', 'serve on a unix socket').default(AGENT_SOCKET))
    .addOption(new Option('--web <where>', 'show what moves on a page, and as metrics for Prometheus: [127.0.0.1:]PORT, or the path of a unix socket').argParser(parseWeb))
    .addOption(new Option('--no-own-unit', 'receive processes among the children of this agent, even where systemd runs'))
    .addHelpText('after', EPILOGUE)
    .action(async ({ stdio, socket, ownUnit, web }: AgentFlags) => {
      if (process.geteuid?.() !== 0) {
        throw new PhaulError('ERR_NOT_ROOT', `The agent on ${hostname()} must be root to build processes: start it with sudo.`);
      }
      const { serveSocket, serveStdio } = await import('../target/agent.ts');
      await (stdio === true ? serveStdio(ownUnit) : serveSocket(socket, ownUnit, web));
    });
