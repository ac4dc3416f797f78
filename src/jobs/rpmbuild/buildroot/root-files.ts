/** What a result directory says of the root that a package was built in, by mock's file names. */
import { readFile, statfs } from 'node:fs/promises';
import { arch, cpus, freemem, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { SmallCache } from '../../../host/state/small-cache.ts';
import { fetchPackages } from '../../../packages/repository/fetch-packages.ts';
import type { Lock } from '../../../packages/repository/lock/lock.ts';
import {
  type BuildrootLock,
  exportBuildrootLock,
} from '../../../packages/solver/export-buildroot-lock.ts';
import type { BuildRun } from '../build-run.ts';
import type { PreparedBuild } from '../prepare.ts';
import type { BuildBase } from './base.ts';
import { serializeBuildLock } from './lock.ts';

/** Images whose lists are kept, two files of some 100 KB each. */
const KEPT = 200;

/** As mock asks rpm for installed_pkgs.log. */
const QUERY =
  '%{NAME}-%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}.%{ARCH} %{BUILDTIME} %{SIZE} %{PKGID} installed\\n';

/**
 * Writes installed_pkgs.log: what the image's own rpm says is installed. An image never changes, so
 * each is asked once.
 */
export async function writeInstalled(
  run: BuildRun,
  { sandbox, image }: PreparedBuild,
): Promise<void> {
  if (run.request.omit?.includes('installed_pkgs.log') === true) return;
  const cache = rootCache(run);
  const name = `${image.manifest.id}.installed`;
  let list = await cache.read(name);
  if (list === undefined) {
    const chunks: Buffer[] = [];
    const end = await sandbox.run(['rpm', '-qa', '--qf', QUERY], {
      ...run.command('root.log'),
      onOutput: (chunk) => chunks.push(chunk),
    });
    list = Buffer.concat(chunks).toString('utf8').split('\n').filter(Boolean).sort().join('\n');
    if (end.exitCode === 0) await cache.write(name, list);
  }
  run.write('installed_pkgs.log', `${list}\n`);
}

/** Writes lock.json and buildroot_lock.json. What cannot be written is warned of. */
export async function writeLocks(
  run: BuildRun,
  base: BuildBase,
  { image, layer, requires }: PreparedBuild,
): Promise<void> {
  const lock = serializeBuildLock(base, layer, requires);
  if (lock === undefined) {
    const message = 'no lock.json: it is not known where the packages of the image came from';
    run.warn({ code: 'no-lock', message });
    return;
  }
  run.write('lock.json', lock);
  try {
    run.write('buildroot_lock.json', await buildrootLock(run, base, image, layer));
  } catch (error) {
    run.signal.throwIfAborted();
    const why = error instanceof Error ? error.message : String(error);
    run.warn({ code: 'no-buildroot-lock', message: `no buildroot_lock.json: ${why}` });
  }
}

/** An image never changes, and its base's packages are in most others. */
async function buildrootLock(
  run: BuildRun,
  base: BuildBase,
  image: PreparedBuild['image'],
  { lock, whole }: PreparedBuild['layer'],
): Promise<string> {
  const cache = rootCache(run);
  const textOf = async (id: string, packages: Lock, below?: string) => {
    const known = await cache.read(`${id}.buildroot`);
    if (known !== undefined) return known;
    const others = below === undefined ? [] : (JSON.parse(below) as BuildrootLock).buildroot.rpms;
    const options = { paths: run.engine.paths, signal: run.signal };
    const files = await fetchPackages(packages, options);
    const root = await exportBuildrootLock(packages, files, options, others);
    const text = `${JSON.stringify(root, undefined, 4)}\n`;
    await cache.write(`${id}.buildroot`, text);
    return text;
  };
  const below = base.lock?.packages;
  if (below === undefined) throw new TypeError('a base with a lock has a root with one');
  if (lock === null || whole) return await textOf(image.manifest.id, lock ?? below);
  return await textOf(image.manifest.id, lock, await textOf(base.image.manifest.id, below));
}

function rootCache(run: BuildRun): SmallCache {
  return new SmallCache(join(run.engine.paths.cache, 'roots'), KEPT);
}

/** Writes hw_info.log: the machine that the build ran on. */
export async function writeHardware(run: BuildRun): Promise<void> {
  const [cpuinfo, space] = await Promise.all([
    readFile('/proc/cpuinfo', 'utf8').catch(() => ''),
    statfs(run.engine.paths.root).catch(() => undefined),
  ]);
  const model = /^model name\s*: (.*)$/m.exec(cpuinfo)?.[1] ?? 'unknown';
  const flags = /^(?:flags|Features)\s*: (.*)$/m.exec(cpuinfo)?.[1] ?? '';
  const mebibytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
  const lines = [
    `Linux ${release()} ${arch()}`,
    `CPU: ${cpus().length} x ${model}`,
    `Flags: ${flags}`,
    `Memory: ${mebibytes(totalmem())}, ${mebibytes(freemem())} free`,
    ...(space === undefined
      ? []
      : [
          `Disk: ${mebibytes(space.blocks * space.bsize)}, ${mebibytes(space.bavail * space.bsize)} free`,
        ]),
  ];
  run.write('hw_info.log', `${lines.join('\n')}\n`);
}
