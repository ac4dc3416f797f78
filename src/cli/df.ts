import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { attempt } from '../host/calls/libc.ts';
import { sizeText } from '../host/calls/system-error.ts';
import { treeUsage } from '../host/files/tree-usage.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { storeUsage } from '../image/store/gc.ts';
import { listSnapshots, snapshotUsage } from '../image/store/snapshots.ts';
import { cachesIn, userStorage } from '../image/store/user-storage.ts';
import { BUILD_CACHES } from '../packages/repository/cache.ts';
import { cacheUsage } from '../packages/repository/prune.ts';
import { instanceFiles, serviceNames } from '../service/lifecycle/store.ts';
import { allSettled } from '../snapshot/settle.ts';
import type { CallerUser } from '../users/configuration.ts';
import { type Caller, listenForInterruption } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { printError } from './output/errors.ts';
import { withWork } from './output/progress.ts';
import { type Columns, type ListOptions, listing, printRows } from './output/table.ts';

const EXAMPLES = `
UNUSED is the size of images that are not in use, of packages without an image, and of all downloads and build caches. Files
that images share with packages count for the packages. Users see what is theirs, and what they may keep;
machines are kernels that they boot; services, with their data, are root's.

Examples:
  kiln df
  kiln df --json | jq '.[] | {type, bytes}'`;

interface Usage {
  readonly type:
    | 'images'
    | 'packages'
    | 'downloads'
    | 'caches'
    | 'roots'
    | 'snapshots'
    | 'machines'
    | 'services';
  readonly count: number;
  readonly bytes: number;
  readonly unusedBytes: number;
}

const COLUMNS: Columns<Usage> = [
  ['TYPE', ({ type }) => type],
  ['COUNT', ({ count }) => String(count)],
  ['SIZE', ({ bytes }) => sizeText(bytes)],
  ['UNUSED', ({ unusedBytes }) => sizeText(unusedBytes)],
];

export function dfCommand(caller: Caller): KilnCommand {
  return new KilnCommand('df')
    .description(
      'Show the size of images, packages, downloads, build caches, snapshots, kernels of machines and services on the disk.',
    )
    .rows(listing('{{.Type}} {{.Size}}'))
    .addHelpText('after', EXAMPLES)
    .action(async (options: ListOptions) => {
      using interruption = listenForInterruption(caller);
      await using engine = caller.openEngine();
      if (caller.user !== undefined) {
        await showOwn(engine, caller.user, options, caller);
        return;
      }
      const { images, imagesNotInUse, packages, packagesWithoutImage } = await storeUsage(
        engine.paths,
      );
      const { signal } = interruption;
      await withWork(caller, async () =>
        allSettled(engine.paths, await listSnapshots(engine.paths, undefined), signal),
      );
      const { files, bytes } = await cacheUsage(engine.paths);
      const caches = cachesIn(join(engine.paths.cache, BUILD_CACHES), 2);
      const rows: Usage[] = [
        { type: 'images', ...images, unusedBytes: imagesNotInUse.bytes },
        { type: 'packages', ...packages, unusedBytes: packagesWithoutImage.bytes },
        { type: 'downloads', count: files, bytes, unusedBytes: bytes },
        { type: 'caches', ...caches, unusedBytes: caches.bytes },
        { type: 'snapshots', ...(await snapshotUsage(engine.paths, undefined)), unusedBytes: 0 },
        { type: 'machines', ...machinesUsage(engine.paths), unusedBytes: 0 },
        { type: 'services', ...(await servicesUsage(engine.paths, caller)), unusedBytes: 0 },
      ];
      printRows(caller.stdout, COLUMNS, rows, options);
    });
}

/** A service can make any number of files: what is beyond these is not counted. */
const SERVICE_MAX = { bytes: Number.POSITIVE_INFINITY, entries: 2_000_000 };

/** @returns how many there are, and the disk that their folders take */
async function servicesUsage(paths: StatePaths, { stderr }: Caller) {
  const names = await serviceNames(paths);
  let bytes = 0;
  for (const name of names) {
    try {
      bytes += treeUsage(instanceFiles(paths, name).directory, SERVICE_MAX).bytes;
    } catch (cause) {
      const what = `the size of the service ${name} is not known`;
      const hint = 'docs/services.md says where its files are';
      printError(new KilnError('E_SERVICE_READ', what, { cause, hint }), stderr);
    }
  }
  return { count: names.length, bytes };
}

/** Kernels that machines boot, each with what it starts first. */
function machinesUsage({ machines }: StatePaths) {
  const names = attempt(() => readdirSync(machines)) ?? [];
  const sizes = names.map((name) => treeUsage(join(machines, name), SERVICE_MAX).bytes);
  return { count: names.length, bytes: sizes.reduce((sum, size) => sum + size, 0) };
}

async function showOwn(
  { paths }: Engine,
  user: CallerUser,
  options: ListOptions,
  { stdout, stderr }: Caller,
): Promise<void> {
  const { images, packages, downloads, caches, roots, snapshots } = await userStorage(paths, user);
  const rows: Usage[] = [
    { type: 'images', ...images },
    { type: 'packages', ...packages },
    { type: 'downloads', ...downloads, unusedBytes: downloads.bytes },
    { type: 'caches', ...caches, unusedBytes: caches.bytes },
    { type: 'roots', ...roots, unusedBytes: 0 },
    { type: 'snapshots', ...snapshots, unusedBytes: 0 },
  ];
  printRows(stdout, COLUMNS, rows, options);
  const bytes = rows.reduce((sum, row) => sum + row.bytes, 0);
  const most = sizeText(user.policy.limits.storage);
  stderr.say(`kiln: ${sizeText(bytes)} of ${most} (users.limits.storage)\n`);
}
