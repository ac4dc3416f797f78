/**
 * The disks of hosts: a Debian under systemd, cgroup v2, a security module and a system libvirtd.
 * Made once and kept below .cache/hosts, named by what goes into it; never written to afterwards.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, readlink, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { shellWord } from '../../src/shell-words.ts';
import type { HostKind } from './kinds.ts';

/** The release that hosts run. */
const SUITE = 'trixie';

/** What the tests that run there need. */
const TESTS = [
  'busybox-static',
  'procps',
  // test/escape compiles its probe.
  'gcc',
  'libc6-dev',
  'libcap2-bin',
  // test/users has a hostile client.
  'python3-minimal',
];

/** Bytes of the root file system; sparse, so that only what is in it takes room. */
const DISK_BYTES = 12 * 2 ** 30;

/** How many disks of former package lists are kept. */
const KEPT = 1;

/** A bootable host. */
export interface HostDisk {
  readonly disk: string;
  readonly kernel: string;
  readonly initrd: string;
}

/** The Debian packages that host-packages.txt names for running kiln. */
async function kilnPackages(top: string): Promise<string[]> {
  const text = await readFile(join(top, 'scripts/host-packages.txt'), 'utf8');
  return text
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([use, , debian]) => use === 'run' && debian !== undefined && debian !== '-')
    .map(([, , debian]) => String(debian));
}

/** Makes a host's disk unless it is there. */
export async function ensureHostDisk(
  kind: HostKind,
  top: string,
  cache: string,
): Promise<HostDisk> {
  const { customize, name, title } = kind;
  const packages = [...new Set([...kind.packages, ...TESTS, ...(await kilnPackages(top))])].sort();
  const key = createHash('sha256')
    .update(JSON.stringify([SUITE, packages, customize, DISK_BYTES]))
    .digest('hex')
    .slice(0, 16);
  const folder = join(cache, `${name}-${key}`);
  const host = {
    disk: join(folder, 'disk.img'),
    kernel: join(folder, 'vmlinuz'),
    initrd: join(folder, 'initrd.img'),
  };
  if (await stat(folder).catch(() => undefined)) return host;
  process.stdout.write(
    `==> ${title}: ${packages.length} packages and what they need (mmdebstrap)\n`,
  );
  const half = join(cache, `.${name}-${key}.${process.pid}`);
  await mkdir(half, { recursive: true });
  try {
    await makeDisk(half, packages, customize);
    await rename(half, folder);
  } finally {
    await rm(half, { recursive: true, force: true });
  }
  await pruneDisks(cache, name, folder);
  return host;
}

async function makeDisk(
  folder: string,
  packages: readonly string[],
  customize: string,
): Promise<void> {
  const inFolder = execa({ cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
  await inFolder('mmdebstrap', [
    '--variant=minbase',
    `--include=${packages.join(',')}`,
    `--customize-hook=sh -c ${shellWord(customize)} customize "$1"`,
    '--quiet',
    '--mode=root',
    '--format=directory',
    SUITE,
    'tree',
  ]);
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

/** Deletes a kind's disks of former package lists, but for the youngest. */
async function pruneDisks(cache: string, kind: string, current: string): Promise<void> {
  const former = (await readdir(cache))
    .filter((name) => name.startsWith(`${kind}-`))
    .map((name) => join(cache, name))
    .filter((path) => path !== current);
  const ages = await Promise.all(
    former.map(async (path) => ({ path, time: (await stat(path)).mtimeMs })),
  );
  ages.sort((a, b) => b.time - a.time);
  for (const { path } of ages.slice(KEPT)) await rm(path, { recursive: true, force: true });
}
