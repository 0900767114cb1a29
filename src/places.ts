/** Where phaul keeps what, on every host. */
import { join } from 'node:path';

/** The program itself. */
export const PHAUL = join(import.meta.dirname, '../bin/phaul');

/** The operator's defaults of options: see cli/config.ts. */
export const CONFIG_FILE = process.env['PHAUL_CONFIG'] ?? '/etc/phaul/phaul.toml';

/** Sockets; root's alone. */
export const RUN_DIRECTORY = '/run/phaul';

/** What migrations have reported: records.ts. */
export const RECORDS_DIRECTORY = `${RUN_DIRECTORY}/migrations`;

/** The agent that runs as a service. */
export const AGENT_SOCKET = `${RUN_DIRECTORY}/agent.sock`;

/** Whichever agent has migration `id` listens here for as long as it has it: no answer means that it is dead. */
export const arrivalSocket = (id: string): string => `${RUN_DIRECTORY}/${id}.sock`;

export const JOURNAL_DIRECTORY = process.env['PHAUL_JOURNAL'] ?? '/var/lib/phaul/journal';

/** What was made of files that come along with migration `id`, until it is certain that they stay: native/file_log.h. */
export const filesLog = (id: string): string => `${JOURNAL_DIRECTORY}/${id}.files`;
