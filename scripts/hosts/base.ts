/**
 * The disk of hosts: a Debian under systemd, cgroup v2, two security modules and a system libvirtd.
 * Made once and kept below .cache/hosts, named by what goes into it; never written to afterwards.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, readlink, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { shellWord } from '../../src/shell-words.ts';
import { sweepAtEnd } from '../scratch.ts';
import { CUSTOMIZE, HOST_PACKAGES, LABEL, SETUP } from './kinds.ts';

/** The release that hosts run. */
const SUITE = 'trixie';

/** What the tests that run there need, beside kiln. */
export const TEST_PACKAGES = [
  'busybox-static',
  'procps',
  // test/escape compiles its probe.
  'gcc',
  'libc6-dev',
  'libcap2-bin',
  // What the pages ask services with.
  'curl',
  // test/users has a hostile client.
  'python3-minimal',
];

/** Bytes of the root file system; sparse, so that only what is in it takes room. */
const DISK_BYTES = 12 * 2 ** 30;

/** How the folders of disks are called, before their key. */
const NAME = 'disk-';

/** How many disks of former package lists are kept. */
const KEPT = 1;

/** A bootable host. */
export interface HostDisk {
  readonly disk: string;
  readonly kernel: string;
  readonly initrd: string;
}

/** The Debian packages that host-packages.txt names for these uses. */
async function kilnPackages(top: string, uses: readonly string[]): Promise<string[]> {
  const text = await readFile(join(top, 'scripts/host-packages.txt'), 'utf8');
  return text
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([use = '', , debian]) => uses.includes(use) && debian !== undefined && debian !== '-')
    .map(([, , debian]) => String(debian));
}

/** Makes the disk of all hosts unless it is there. @param more packages beside kiln's and a host's @param uses of kiln's */
export async function ensureHostDisk(
  top: string,
  cache: string,
  more: readonly string[] = [],
  uses: readonly string[] = ['run'],
): Promise<HostDisk> {
  const packages = [
    ...new Set([...HOST_PACKAGES, ...more, ...(await kilnPackages(top, uses))]),
  ].sort();
  const key = createHash('sha256')
    .update(JSON.stringify([SUITE, packages, SETUP, CUSTOMIZE, LABEL, DISK_BYTES]))
    .digest('hex')
    .slice(0, 16);
  const folder = join(cache, `${NAME}${key}`);
  const host = {
    disk: join(folder, 'disk.img'),
    kernel: join(folder, 'vmlinuz'),
    initrd: join(folder, 'initrd.img'),
  };
  if (await stat(folder).catch(() => undefined)) return host;
  process.stdout.write(
    `==> the hosts’ disk: ${packages.length} packages and what they need (mmdebstrap)\n`,
  );
  await pruneHalves(cache);
  const half = join(cache, `.${NAME}${key}.${process.pid}`);
  await mkdir(half, { recursive: true });
  sweepAtEnd(half);
  try {
    await makeDisk(half, packages);
    await rename(half, folder);
  } finally {
    await rm(half, { recursive: true, force: true });
  }
  await pruneDisks(cache, folder);
  return host;
}

async function makeDisk(folder: string, packages: readonly string[]): Promise<void> {
  const inFolder = execa({ cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
  // What it mounts goes with it, however it ends.
  await inFolder('unshare', [
    ...['--mount', 'mmdebstrap'],
    '--variant=minbase',
    `--include=${packages.join(',')}`,
    `--setup-hook=sh -c ${shellWord(SETUP)} setup "$1"`,
    `--customize-hook=sh -c ${shellWord(CUSTOMIZE)} customize "$1"`,
    // Nobody reads there. It is half of the files.
    ...['doc', 'man', 'locale', 'info'].map(
      (name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`,
    ),
    '--quiet',
    '--mode=root',
    '--format=directory',
    SUITE,
    'tree',
  ]);
  // After what mmdebstrap does last: /etc/machine-id without a label, and there is no journal.
  await inFolder('chroot', ['tree', ...LABEL, '/']);
  // What the boot loader of a real host would load; Debian links the newest at the root.
  for (const name of ['vmlinuz', 'initrd.img']) {
    await inFolder('cp', ['-L', await realpathBelow(join(folder, 'tree'), name), name]);
  }
  // Not from an archive: mke2fs 1.47 refuses those with names that are not ASCII.
  await inFolder('mke2fs', ['-q', '-t', 'ext4', '-d', 'tree', 'disk.img', `${DISK_BYTES / 1024}k`]);
  await rm(join(folder, 'tree'), { recursive: true });
}

/** The file that the link `name` at the top of `root` names, relative or not. */
async function realpathBelow(root: string, name: string): Promise<string> {
  return join(root, await readlink(join(root, name)));
}

/** Deletes what others left that were killed: nobody else makes a disk there now. */
async function pruneHalves(cache: string): Promise<void> {
  for (const name of await readdir(cache)) {
    if (!name.startsWith(`.${NAME}`)) continue;
    await rm(join(cache, name), { recursive: true, force: true });
  }
}

/** Deletes disks of former package lists, but for the youngest. */
async function pruneDisks(cache: string, current: string): Promise<void> {
  const former = (await readdir(cache))
    .filter((name) => name.startsWith(NAME))
    .map((name) => join(cache, name))
    .filter((path) => path !== current);
  const ages = await Promise.all(
    former.map(async (path) => ({ path, time: (await stat(path)).mtimeMs })),
  );
  ages.sort((a, b) => b.time - a.time);
  for (const { path } of ages.slice(KEPT)) await rm(path, { recursive: true, force: true });
}
