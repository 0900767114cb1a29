/** phaul page-server --stdio */
import { hostname } from 'node:os';
import { Command, Option } from 'commander';
import { PhaulError } from '../errors.ts';

const EPILOGUE = `
Nothing has to be started: "phaul dump --page-server [USER@]HOST:/DIR" starts "phaul page-server --stdio" there
through ssh, which also carries the key of the encrypted connection for the pages. It ends with that dump.`;

export const pageServerCommand = (): Command =>
  new Command('page-server')
    .description('Receives a checkpoint from another host; "phaul dump --page-server" starts it there by itself.')
    .addOption(new Option('--stdio', 'be told on stdin what to receive').makeOptionMandatory())
    .addHelpText('after', EPILOGUE)
    .action(async () => {
      if (process.geteuid?.() !== 0) {
        throw new PhaulError('ERR_NOT_ROOT', `The page server on ${hostname()} must be root, as what it receives is root's: start it with sudo.`);
      }
      const { servePages } = await import('../pageServer/server.ts');
      await servePages();
    });
