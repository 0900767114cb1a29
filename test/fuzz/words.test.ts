/** The words of an operator, and of files that he has: what is no sense is refused with a sentence, whatever it is. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { addressText, movedAddressSchema, parseMoveIp } from '../../src/addresses.ts';
import { parseBandwidth, parseDestination, parseOnDiverge, parsePid, parsePlace, parseRestoreTcp, parseTcp, wholeNumber } from '../../src/cli/arguments.ts';
import { configure } from '../../src/cli/config.ts';
import { createProgram } from '../../src/cli/program.ts';
import { PhaulError } from '../../src/errors.ts';
import { resolveDestination } from '../../src/reach/config.ts';
import { judge, keyType, matchesPattern, parseKnownHosts } from '../../src/reach/knownHosts.ts';
import { attempt, changedBytes, changedText, pick, random } from './mutate.ts';

const silent = { write: () => {}, isTTY: false, columns: 80 };
const folder = mkdtempSync(join(tmpdir(), 'phaul-fuzz-'));
test.after.always(() => rmSync(folder, { recursive: true, force: true }));

const WORDS = ['4242', '4194304', '500K', '1.5G', '20M', 'root@beta', 'beta:2222', 'root@[fd00::2]:22', '[fe80::1%eth0]', '10.0.0.7/24@eth0:ens3', 'fd00::7/64@eth1', '::ffff:1.2.3.4/96', 'fe80::1%eth0/64', 'root@beta:/var/tmp/4242', 'freeze', 'abort', 'established', 'close'];

test('arguments are understood, or refused with a sentence', (t) => {
  const next = random(1);
  let understood = 0;
  for (let i = 0; i < 20_000; i++) {
    const text = i < WORDS.length ? (WORDS[i] as string) : changedText(next, WORDS);
    const pid = attempt(() => parsePid(text), text);
    const bandwidth = attempt(() => parseBandwidth(text), text);
    const number = attempt(() => wholeNumber('--streams', 1, 16)(text), text);
    const place = attempt(() => parsePlace(text), text);
    const destination = attempt(() => parseDestination(text), text);
    const moved = attempt(() => parseMoveIp(text), text);
    for (const parse of [parseOnDiverge, parseTcp, parseRestoreTcp]) {
      attempt(() => parse(text), text);
    }
    t.true(pid === undefined || (Number.isInteger(pid) && pid >= 1 && pid <= 2 ** 22), text);
    t.true(bandwidth === undefined || (Number.isInteger(bandwidth) && bandwidth >= 1024), text);
    t.true(number === undefined || (Number.isInteger(number) && number <= 16), text);
    t.true(place === undefined || place.directory.startsWith('/'), text);
    t.false(destination?.startsWith('-') ?? false, text); // it could be an option of ssh
    if (moved !== undefined) {
      const whole = { device: 'lo', deviceThere: 'lo', ...moved };
      t.true(movedAddressSchema.safeParse(whole).success, text);
      t.regex(addressText([whole], 'device'), /^[0-9a-f.:]+\/\d+@\S+$/);
    }
    understood += [pid, bandwidth, number, place, destination, moved].filter((one) => one !== undefined).length;
  }
  t.true(understood > 2_000, 'most changes must leave something to understand');
});

const KEY = Buffer.from('AAAAC3NzaC1lZDI1NTE5AAAAIPhaul0000000000000000000000000000000000000', 'base64');
const KNOWN_HOSTS = `# hosts
beta,10.0.0.2 ssh-ed25519 ${KEY.toString('base64')}
[beta]:2222,*.example.org,!evil.example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPhaul1111111111111111111111111111111111111
|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-rsa AAAAB3NzaC1yc2E=
@revoked * ssh-rsa AAAAB3NzaC1yc2E=
@cert-authority *.example.org ssh-rsa AAAAB3NzaC1yc2E=
`;

test('known_hosts is read whatever is in it, and a key of any bytes is judged', (t) => {
  const next = random(2);
  t.is(judge(parseKnownHosts(KNOWN_HOSTS, 'f', 'beta'), KEY).verdict, 'known');
  for (let i = 0; i < 8_000; i++) {
    const name = changedText(next, ['beta', '[beta]:2222', 'a.example.org', '10.0.0.2']);
    const known = parseKnownHosts(changedText(next, [KNOWN_HOSTS]), 'f', pick(next, [name, 'beta', 'evil.example.org']));
    const bytes = changedBytes(next, KEY);
    const { verdict } = judge(known, pick(next, [KEY, bytes]));
    t.true(['known', 'unknown', 'changed', 'revoked'].includes(verdict));
    t.is(typeof keyType(bytes), 'string');
  }
});

test('a pattern of many stars takes no time', (t) => {
  const began = process.cpuUsage().user;
  t.false(matchesPattern('*a'.repeat(2_000), 'a'.repeat(1_999)));
  t.true(matchesPattern('*a'.repeat(2_000), 'a'.repeat(2_000)));
  t.true(matchesPattern('*.EXAMPLE.org'.toLowerCase(), 'b.example.org'));
  t.true(process.cpuUsage().user - began < 5_000_000);
});

const CONFIG = `Host beta b*
  HostName %h.example.org
  Port 2222
  User root
  IdentityFile ~/.ssh/%r_%n
  UserKnownHostsFile ~/.ssh/known_hosts "/tmp/with blank"
  StrictHostKeyChecking accept-new
  ProxyJump one,two
  ConnectTimeout 5
Match host gamma
  Port 22
Host *
  IdentitiesOnly yes
`;

test('an ssh configuration is understood, or refused with a sentence', async (t) => {
  const next = random(3);
  const path = join(folder, 'ssh_config');
  let understood = 0;
  for (let i = 0; i < 1_000; i++) {
    const text = i === 0 ? CONFIG : changedText(next, [CONFIG]);
    const host = i === 0 ? 'beta' : changedText(next, ['beta', 'root@beta:2222', 'bob', '[fd00::2]:22', 'gamma']);
    writeFileSync(path, text.replaceAll(/\b(exec|include)\b/gi, 'x')); // these run, or read, what they name
    try {
      const { port, jumps, connectTimeoutMs, strict, knownHostsFiles } = await resolveDestination(host, path, undefined);
      t.true(Number.isInteger(port) && port >= 1 && port <= 65_535, text);
      t.true(connectTimeoutMs > 0 && ['yes', 'accept-new', 'no'].includes(strict) && Array.isArray(jumps) && Array.isArray(knownHostsFiles));
      understood++;
    } catch (thrown) {
      t.true(thrown instanceof PhaulError && thrown.message.length > 10, `${JSON.stringify({ text, host })} led to ${String(thrown)}`);
    }
  }
  t.true(understood > 150);
});

const TOML = '[migrate]\nmax-downtime = 50\nverify = true\nmove-ip = ["10.0.0.7/24", "10.0.0.8/24"]\n[agent]\nsocket = "/run/other.sock"\n';

test('defaults of the operator are taken, or refused with a sentence', (t) => {
  const next = random(4);
  const path = join(folder, 'phaul.toml');
  for (let i = 0; i < 1_000; i++) {
    const text = i === 0 ? TOML : changedText(next, [TOML]);
    writeFileSync(path, text);
    attempt(() => configure(createProgram({ stdout: silent, stderr: silent }).commands, path), text);
  }
  t.pass();
});
