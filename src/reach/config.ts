/** What ssh's configuration says about a destination: [USER@]HOST[:PORT], [IPV6]:PORT or a Host alias. */
import { readFile } from 'node:fs/promises';
import { homedir, userInfo } from 'node:os';
import { join } from 'node:path';
import SSHConfig from 'ssh-config';
import { PhaulError } from '../errors.ts';

export interface Destination {
  /** As the operator wrote it, without user and port. */
  name: string;
  /** Where to connect. */
  hostName: string;
  /** Under which known_hosts has its key. */
  keyName: string;
  port: number;
  user: string;
  /** Undefined: ssh's defaults. */
  identityFiles: string[] | undefined;
  identitiesOnly: boolean;
  identityAgent: string | undefined;
  knownHostsFiles: string[];
  strict: 'yes' | 'accept-new' | 'no';
  jumps: string[];
  connectTimeoutMs: number;
}

const CONNECT_TIMEOUT_MS = 10_000;
const SSH_PORT = 22;
const PORT_MAX = 65_535;

type Settings = Record<string, string | string[] | undefined>;

export function parseDestination(text: string): { user?: string; host: string; port?: number } {
  const match = /^(?:(?<user>[^@]+)@)?(?:\[(?<six>[^\]]+)\]|(?<host>[^:]+|[0-9a-fA-F:]*:[0-9a-fA-F:]+))(?::(?<port>\d+))?$/.exec(text);
  const { user, six, host, port } = match?.groups ?? {};
  const name = six ?? host;
  if (name === undefined) {
    throw new PhaulError('ERR_USAGE', `"${text}" is no host: write [USER@]HOST[:PORT], or [IPV6]:PORT.`);
  }
  return { host: name, ...(user !== undefined && { user }), ...(port !== undefined && { port: Number(port) }) };
}

async function readConfig(path: string, mustExist: boolean): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    if (!mustExist && (cause as NodeJS.ErrnoException).code === 'ENOENT') {
      return '';
    }
    throw new PhaulError('ERR_REACH_CONFIG', `The ssh configuration ${path} can't be read: ${(cause as Error).message}.`, { cause });
  }
}

const words = (value: string | string[] | undefined): string[] => (value === undefined ? [] : Array.isArray(value) ? value : value.trim().split(/\s+/));
const one = (value: string | string[] | undefined): string | undefined => (Array.isArray(value) ? value.join(' ') : value);

/** First the file that the operator names, or ~/.ssh/config and /etc/ssh/ssh_config: the first value wins. */
async function settingsOf(host: string, configFile: string | undefined): Promise<Settings> {
  const files = configFile === undefined ? [join(homedir(), '.ssh/config'), '/etc/ssh/ssh_config'] : [configFile];
  const settings: Settings = {};
  for (const file of files) {
    const text = await readConfig(file, configFile !== undefined);
    let computed: Settings;
    try {
      computed = SSHConfig.parse(text).compute(host, { ignoreCase: true }) as Settings;
    } catch (cause) {
      throw new PhaulError('ERR_REACH_CONFIG', `The ssh configuration ${file} can't be understood: ${(cause as Error).message}.`, { cause });
    }
    for (const [key, value] of Object.entries(computed)) {
      settings[key] ??= value;
    }
  }
  return settings;
}

export async function resolveDestination(text: string, configFile: string | undefined, identityFile: string | undefined): Promise<Destination> {
  const asked = parseDestination(text);
  const settings = await settingsOf(asked.host, configFile);
  const user = asked.user ?? one(settings['user']) ?? userInfo().username;
  const hostName = (one(settings['hostname']) ?? asked.host).replaceAll('%h', asked.host);
  const port = asked.port ?? Number(one(settings['port']) ?? SSH_PORT);
  if (!Number.isInteger(port) || port < 1 || port > PORT_MAX) {
    throw new PhaulError('ERR_REACH_CONFIG', `"${asked.port ?? one(settings['port'])}", which ${asked.host} is to be reached at, is no port: a port is a number from 1 to ${PORT_MAX}.`);
  }
  const expand = (path: string): string =>
    path
      .replace(/^~(?=\/|$)/, homedir())
      .replace(/%[dhnrup%]/g, (token) => ({ '%d': homedir(), '%h': hostName, '%n': asked.host, '%r': user, '%u': userInfo().username, '%p': String(port), '%%': '%' })[token] ?? token);
  const files = words(settings['identityfile']).map(expand);
  const strict = one(settings['stricthostkeychecking'])?.toLowerCase();
  const jump = one(settings['proxyjump']);
  const timeout = Number(one(settings['connecttimeout']));
  return {
    name: asked.host,
    hostName,
    keyName: one(settings['hostkeyalias']) ?? hostName,
    port,
    user,
    identityFiles: identityFile !== undefined ? [expand(identityFile)] : files.length > 0 ? files : undefined,
    identitiesOnly: identityFile !== undefined || one(settings['identitiesonly'])?.toLowerCase() === 'yes',
    identityAgent: one(settings['identityagent']),
    knownHostsFiles: [
      ...(settings['userknownhostsfile'] === undefined ? ['~/.ssh/known_hosts', '~/.ssh/known_hosts2'] : words(settings['userknownhostsfile'])),
      ...(settings['globalknownhostsfile'] === undefined ? ['/etc/ssh/ssh_known_hosts', '/etc/ssh/ssh_known_hosts2'] : words(settings['globalknownhostsfile'])),
    ].map(expand),
    strict: strict === 'accept-new' ? 'accept-new' : strict === 'no' || strict === 'off' ? 'no' : 'yes',
    jumps: jump === undefined || jump.toLowerCase() === 'none' ? [] : jump.split(','),
    connectTimeoutMs: timeout > 0 ? timeout * 1000 : CONNECT_TIMEOUT_MS,
  };
}
