/** known_hosts, read as OpenSSH reads it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). */
import { createHash, createHmac } from 'node:crypto';
import { appendFile, mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';

export interface KnownKey {
  file: string;
  line: number;
  marker: '@revoked' | '@cert-authority' | undefined;
  type: string;
  /** As in the file, base64. */
  key: string;
}

export type HostKeyVerdict =
  | { verdict: 'known' }
  | { verdict: 'unknown' }
  | { verdict: 'changed' | 'revoked'; by: KnownKey };

export const fingerprint = (key: Buffer): string => `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;

/** How known_hosts writes a host on another port than ssh's own. */
export const hostEntry = (host: string, port: number): string => (port === 22 ? host : `[${host}]:${port}`);


/** From left to right, and back to the last star only: an expression would try all ways that there are. */
export function matchesPattern(pattern: string, name: string): boolean {
  let [p, n, star, retry] = [0, 0, -1, 0];
  while (n < name.length) {
    if (pattern[p] === '*') {
      [star, retry] = [p++, n];
    } else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === name[n])) {
      p++;
      n++;
    } else if (star >= 0) {
      [p, n] = [star + 1, ++retry];
    } else {
      return false;
    }
  }
  return /^\**$/.test(pattern.slice(p));
}

function matchesHash(field: string, name: string): boolean {
  const [, , salt = '', hash = ''] = field.split('|');
  return createHmac('sha1', Buffer.from(salt, 'base64')).update(name.toLowerCase()).digest('base64') === hash;
}

/** A list of patterns: one that is negated and matches excludes the host whatever else matches. */
export function matchesHosts(field: string, name: string): boolean {
  if (field.startsWith('|1|')) {
    return matchesHash(field, name);
  }
  const patterns = field.split(',');
  const matches = (pattern: string): boolean => matchesPattern(pattern.toLowerCase(), name.toLowerCase());
  return !patterns.some((pattern) => pattern.startsWith('!') && matches(pattern.slice(1))) && patterns.some((pattern) => !pattern.startsWith('!') && matches(pattern));
}

export function parseKnownHosts(text: string, file: string, name: string): KnownKey[] {
  return text.split('\n').flatMap((raw, i) => {
    const fields = raw.trim().split(/\s+/);
    const marker = fields[0] === '@revoked' || fields[0] === '@cert-authority' ? fields.shift() : undefined;
    const [hosts = '', type = '', key = ''] = fields;
    return hosts === '' || hosts.startsWith('#') || key === '' || !matchesHosts(hosts, name)
      ? []
      : [{ file, line: i + 1, marker: marker as KnownKey['marker'], type, key }];
  });
}

/** All keys that the files have for a host; files that don't exist have none. */
export async function knownKeys(files: string[], host: string, port: number): Promise<KnownKey[]> {
  const name = hostEntry(host, port);
  const found = await Promise.all(
    files.map(async (file) => {
      try {
        return parseKnownHosts(await readFile(file, 'utf8'), file, name);
      } catch {
        return [];
      }
    }),
  );
  return found.flat();
}

/** The type is the first string of the key itself; "" if it is none. */
export const keyType = (key: Buffer): string => (key.length < 4 ? '' : key.subarray(4, 4 + key.readUInt32BE(0)).toString());

export function judge(known: KnownKey[], key: Buffer): HostKeyVerdict {
  const text = key.toString('base64');
  const revoked = known.find((entry) => entry.marker === '@revoked' && entry.key === text);
  if (revoked !== undefined) {
    return { verdict: 'revoked', by: revoked };
  }
  const plain = known.filter(({ marker }) => marker === undefined);
  if (plain.some((entry) => entry.key === text)) {
    return { verdict: 'known' };
  }
  const other = plain.find(({ type }) => type === keyType(key)) ?? plain[0];
  return other === undefined ? { verdict: 'unknown' } : { verdict: 'changed', by: other };
}

export async function remember(file: string, host: string, port: number, key: Buffer): Promise<void> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await appendFile(file, `${hostEntry(host, port)} ${keyType(key)} ${key.toString('base64')}\n`, { mode: 0o600 });
}
