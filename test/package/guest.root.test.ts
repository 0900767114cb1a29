/**
 * The .deb on a Debian 12 that is booted with its own systemd and kernel, in QEMU: the agent starts when a process comes,
 * and what it has received lives on when it is restarted and when the package is installed anew. All of it is emulated,
 * and takes some minutes; test/package/guest is what is done there.
 */
import { copyFileSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { $, layOut, makePackages, missing, within } from './debian.ts';

const why = missing({ 'qemu-system-x86_64': 'qemu-system-x86', mke2fs: 'e2fsprogs' });
const folder = mkdtempSync(join(tmpdir(), 'phaul-guest-'));
const root = join(folder, 'root');
const MINUTES_MAX = 60;
const KERNEL = 'root=/dev/vda rw console=ttyS0 quiet tsc=reliable random.trust_cpu=on mitigations=off';

test.after.always(() => rmSync(folder, { recursive: true, force: true }));

async function boot(): Promise<string> {
  const [kernel = '', initrd = ''] = ['vmlinuz-*', 'initrd.img-*'].map((pattern) => globSync(join(root, 'boot', pattern))[0]);
  const [disk, serial] = [join(folder, 'disk'), join(folder, 'serial')];
  await $`mke2fs -q -t ext4 -d ${root} -O ^has_journal ${disk} 1400M`;
  const drive = `file=${disk},format=raw,if=virtio,snapshot=on,cache=unsafe`;
  // Guests under /dev/kvm may hang where the machine is one itself: everything is emulated.
  await $`timeout ${MINUTES_MAX * 60} qemu-system-x86_64 -accel tcg,thread=multi -cpu max,cx16=off -smp 2 -m 1024 -nodefaults -display none -no-reboot -kernel ${kernel} -initrd ${initrd} -drive ${drive} -serial file:${serial} -append ${KERNEL}`.nothrow();
  return readFileSync(serial, 'utf8');
}

(why === undefined ? test : test.skip)(`in a booted Debian a process is received by the socket's agent, and outlives its restart and an upgrade${why === undefined ? '' : ` (${why})`}`, async (t) => {
  t.timeout((MINUTES_MAX + 10) * 60_000);
  await layOut(root, (await makePackages()).deb);
  await within(root, 'mkdir -p /test /etc/systemd/system/multi-user.target.wants && mv /var/tmp/phaul.deb /test && ln -s ../test.service /etc/systemd/system/multi-user.target.wants/ && echo "/dev/vda / ext4 rw 0 1" >/etc/fstab');
  writeFileSync(join(root, 'etc/systemd/system/test.service'), '[Unit]\nAfter=multi-user.target\n[Service]\nExecStart=/test/guest\n');
  copyFileSync('test/package/guest', join(root, 'test/guest'));
  copyFileSync('build/victims/static_writer', join(root, 'test/static_writer'));
  const serial = await boot();
  const facts = serial.split(/\r?\n/).filter((line) => line.includes('guest: ')).map((line) => line.slice(line.indexOf('guest: ') + 'guest: '.length).trim());
  t.log(facts.map((fact) => fact.slice(0, 120)).join('\n'));
  const fact = (name: string): string => facts.find((line) => line.startsWith(`${name} `))?.slice(name.length + 1) ?? `(nothing of ${name}) ${serial.slice(-2000)}`;
  t.regex(fact('socket'), /^active service inactive/, 'nothing runs until a process comes');
  t.regex(fact('migrate'), /^0 .*"outcome":"moved"/);
  t.is(fact('service'), 'active');
  t.regex(fact('cgroup'), /^\/phaul\.slice\/phaul-[0-9a-f]+\.service$/, 'it has a unit of its own');
  t.is(fact('unit'), 'active');
  t.is(fact('parent'), '1', 'it is adopted by init');
  const [bound, noNewPrivileges, seccomp, whole] = fact('rights').split(/ +/);
  t.is(bound, whole, 'it has the rights of the host and none of the sandbox of the agent');
  t.deepEqual([noNewPrivileges, seccomp], ['0', '0']);
  t.is(fact('namespaces'), 'same');
  t.is(fact('restarted'), 'active another');
  t.true(facts.includes('lives after the restart'));
  t.regex(fact('upgraded'), /^0 another/);
  t.true(facts.includes('lives after the upgrade'));
  t.is(fact('verdict'), 'ok');
  t.regex(fact('name taken'), /^1 .*ssh\.service already/);
  t.regex(fact('named'), /^0 .*"outcome":"moved"/);
  t.regex(fact('named state'), /^active static_writer, which phaul has moved here/);
  t.is(fact('named cgroup'), '/phaul.slice/moved-writer.service');
  t.true(facts.includes('named lives'));
  t.regex(fact('named status'), /Active: active \(running\).* CGroup: \/phaul\.slice\/moved-writer\.service .*\d+ \/test\/static_writer/);
  t.is(fact('named after'), 'the restart active');
  t.true(facts.includes('named lives after the restart'));
  t.regex(fact('named stopped'), /^0 0 ok/, 'systemctl stop ends the process, and the namespace with it');
  t.true(facts.includes('end'), serial.slice(-2000));
});
