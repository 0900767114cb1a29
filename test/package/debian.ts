/** The packages, and a Debian 12 to install the .deb on: made once, by Debian's own tools. */
import { existsSync, globSync, mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { $ as shell } from 'zx';

const BUILD = join(process.cwd(), 'build');
const TAR = join(BUILD, 'debian-12.tar');
const TOOLS = { dh: 'debhelper', help2man: 'help2man', scdoc: 'scdoc', fakeroot: 'fakeroot', mmdebstrap: 'mmdebstrap' };

/** With what boots: the kernel is of backports that Debian 12 has among its security updates, 6.12. */
const PACKAGES = ['systemd-sysv', 'dbus', 'udev', 'openssh-server', 'iproute2', 'linux-image-6.12-cloud-amd64'];
const INITRAMFS = `mkdir -p "$1/etc/initramfs-tools/conf.d" && echo MODULES=list >"$1/etc/initramfs-tools/conf.d/phaul" && printf 'virtio_pci\\nvirtio_blk\\next4\\n' >"$1/etc/initramfs-tools/modules"`;

export const $ = shell({ quiet: true });

const onPath = (tool: string): boolean => (process.env['PATH'] ?? '').split(':').some((folder) => existsSync(join(folder, tool)));

/** Why the tests can't run here; undefined: they can. */
export function missing(more: Record<string, string> = {}): string | undefined {
  const packages = Object.entries({ ...TOOLS, ...more }).filter(([tool]) => !onPath(tool)).map(([, name]) => name);
  return packages.length === 0 ? undefined : `${packages.join(', ')} not installed: "npm run test:package" brings what it needs`;
}

/** Paths of the packages as `npm run package` makes them. */
export async function makePackages(): Promise<{ deb: string; npm: string }> {
  await $`scripts/package`;
  const [deb = '', npm = ''] = ['phaul_*_amd64.deb', 'phaul-*.tgz'].map((pattern) => globSync(pattern)[0]);
  return { deb: join(process.cwd(), deb), npm: join(process.cwd(), npm) };
}

/** Lays out a Debian 12 with the .deb installed, as apt does it, in a new folder. */
export async function layOut(root: string, deb: string): Promise<void> {
  if (!existsSync(TAR)) {
    mkdirSync(BUILD, { recursive: true });
    await $`mmdebstrap --quiet --variant=minbase --include=${PACKAGES.join(',')} --essential-hook=${INITRAMFS} bookworm ${TAR}.new.tar`;
    renameSync(`${TAR}.new.tar`, TAR);
  }
  mkdirSync(root);
  await $`tar -xf ${TAR} -C ${root}`;
  await $`cp ${deb} ${root}/var/tmp/phaul.deb && cp /etc/resolv.conf ${root}/etc/`;
  await within(root, 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends /var/tmp/phaul.deb');
}

/** A command line within the folder, with /proc and nothing else of this machine. */
export const within = (root: string, line: string) =>
  $`unshare --mount --pid --fork --kill-child --propagation private sh -c ${`cd "$0" && mount -t proc proc proc && mount -t tmpfs tmpfs run && exec chroot . sh -c "$1"`} ${root} ${line}`;
