import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Option } from 'commander';
import { defined } from '../defined.ts';
import { removeOldJobs } from '../detached/record.ts';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { sizeText } from '../host/calls/system-error.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { treeUsage } from '../host/files/tree-usage.ts';
import { mendDamage } from '../host/state/kinds.ts';
import { pathsOfUser, type StatePaths } from '../host/state/paths.ts';
import { damagedImages } from '../image/store/damage.ts';
import { syncStore } from '../image/store/durability.ts';
import { collectGarbage, removeUnusedPackages, storeUsage } from '../image/store/gc.ts';
import { removeIdleImage } from '../image/store/images.ts';
import { buildCachesOf, imagesOf, usageOf, userStorage } from '../image/store/user-storage.ts';
import { type VerifyReport, verifyPackages } from '../image/store/verify.ts';
import { pruneRoots } from '../jobs/mock/root/root.ts';
import { removeBuildCaches, rootsBuildCaches } from '../jobs/rpmbuild/buildroot/caches.ts';
import { needed } from '../options/kind.ts';
import { sizeInBytes, timeInMilliseconds } from '../options/measures.ts';
import { BUILD_CACHES } from '../packages/repository/cache.ts';
import {
  cacheUsage,
  type Pruned,
  type PruneOptions,
  pruneCache,
} from '../packages/repository/prune.ts';
import { destroySandbox } from '../sandbox/domain/destroy.ts';
import { isOver, listSandboxes } from '../sandbox/domain/sandbox-record.ts';
import { sweepDomains, sweepSandboxes } from '../sandbox/domain/sweep.ts';
import { instanceFiles, serviceNames } from '../service/lifecycle/store.ts';
import type { CallerUser } from '../users/configuration.ts';
import { sweepJobs } from '../users/job-folder.ts';
import type { Caller } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { exitStatusHelp } from './options/exit-statuses.ts';
import { printError } from './output/errors.ts';
import { printEither } from './output/print.ts';
import { addListOptions, type Columns, type ListOptions, printRows } from './output/table.ts';

/** As a check that found something, not as a failure of kiln's. */
const FOUND_DAMAGE = 1;

const EXAMPLES = `${exitStatusHelp('kiln gc')}
Without limits, only broken, expired and abandoned things are removed. Nothing that is in use is removed.

Examples:
  kiln gc
  kiln gc --max-age 4w --max-size 20G --dry-run
  kiln gc --max-age 4w --max-size 20G`;

interface GcOptions {
  readonly maxAge?: number;
  readonly maxSize?: number;
  readonly verify?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
  readonly syncOnly?: boolean;
}

export function gcCommand(caller: Caller): KilnCommand {
  return new KilnCommand('gc')
    .description(
      'Remove expired and abandoned sandboxes and unfinished images, and what exceeds the given limits.',
    )
    .option(
      '--max-age <time>',
      'remove images, packages and downloads unused for this time, such as 4w, and sandboxes kept longer',
      // 0: all of them.
      (text) => needed(timeInMilliseconds(text), 'not a duration: write it as 90s, 10m or 1h30m.'),
    )
    .option(
      '--max-size <size>',
      'remove the least recently used images, packages and downloads until the rest is this small',
      (text) => needed(sizeInBytes(text), 'not a size: write it as 512M or 2G.'),
    )
    .option(
      '--verify',
      'first compare the files of all unpacked packages with their checksums; damaged ones, and images that share their files, are made anew when wanted',
    )
    .option(
      '--dry-run',
      'remove nothing; tell how many sandboxes, images, packages and downloads would go',
    )
    .option('--json', 'print the report as JSON')
    .addOption(new Option('--sync-only', 'only write the store to the disk').hideHelp())
    .addHelpText('after', EXAMPLES)
    .action(async (options: GcOptions) => {
      await using engine = caller.openEngine();
      if (options.syncOnly === true) {
        await syncStore(engine.paths);
        return;
      }
      const { maxAge, maxSize } = options;
      if (options.dryRun !== true) await sweepJobs(engine.paths);
      if (caller.user !== undefined) {
        await removeOwn(engine, caller.user, options, caller);
        return;
      }
      if (options.dryRun === true) {
        await tellWhatWouldGo(engine, options, caller);
        return;
      }
      const kept = defined({ keptMaxAge: maxAge });
      const sandboxes = await sweepSandboxes(engine.paths, engine.connect, kept);
      const domains = await sweepDomains(engine.paths, await engine.connect());
      const limits = defined({ maxAge, maxSize });
      const jobs = await removeOldJobs(engine.paths, undefined, maxAge);
      const roots = await pruneRoots(engine, maxAge);
      const damaged = mendDamage(engine.paths);
      const verified = options.verify === true ? await verifyPackages(engine.paths) : undefined;
      const { failures, ...store } = await collectGarbage(engine.paths, limits);
      const downloads = await pruneCaches(engine.paths, limits);
      for (const failure of failures) printError(failure, caller.stderr);
      const report = { sandboxes, jobs, domains, roots, ...store, downloads, damaged, verified };
      const text = () =>
        `${verifiedText(verified)}removed ${sandboxes.length} sandboxes, ${jobs.length} ended jobs, ${domains.length} domains, ${roots.length} roots, ${store.images.length} images, ${store.packages} packages, ${downloads.files} downloads: ${sizeText(store.bytes + downloads.bytes)}; deleted ${store.trees} trees`;
      printEither(caller.stdout, options, report, text);
      if (verified === undefined) return;
      const stay = damagedImages(engine.paths);
      for (const { path, why } of stay.values()) {
        const hint = '`kiln doctor state-files` says how it is mended';
        printError(
          new KilnError('E_DAMAGED', `${path} is damaged: ${why}`, { hint }),
          caller.stderr,
        );
      }
      const { damaged: found, images, uncompared } = verified;
      if (uncompared.packages.length > 0) {
        const what = `files of ${uncompared.packages.length} packages are not known any more: images that share them were not compared`;
        const hint =
          'make these images anew: `kiln image rm NAME`, then `kiln image build`; or with --update';
        printError(new KilnError('E_DAMAGED', what, { hint }), caller.stderr);
      }
      if (found.length + images.length + uncompared.packages.length > 0)
        caller.exitStatus = FOUND_DAMAGE;
    });
}

/** What a user has: without an age, only what nothing needs any more. */
async function removeOwn(
  engine: Engine,
  user: CallerUser,
  { maxAge, ...how }: GcOptions,
  { stdout }: Caller,
): Promise<void> {
  const { paths } = engine;
  const sandboxes = await removeKept(engine, maxAge);
  const jobs = await removeOldJobs(paths, user, maxAge ?? 0);
  const oldest = maxAge === undefined ? Number.NEGATIVE_INFINITY : Date.now() - maxAge;
  const roots = maxAge === undefined ? [] : await pruneRoots(engine, maxAge);
  const images: string[] = [];
  for (const { manifest, lastUse, inUse } of await imagesOf(paths, user)) {
    if (inUse || lastUse >= oldest) continue;
    const { gone, tree } = await removeIdleImage(paths, manifest.id, user.uid);
    if (tree !== undefined) await removeTree(tree);
    if (gone) images.push(manifest.id);
  }
  const packages = await removeUnusedPackages(paths, user);
  const downloads = await pruneOwn(paths, user, defined({ maxAge }));
  const text = () =>
    `removed ${sandboxes.length} sandboxes, ${jobs.length} ended jobs, ${roots.length} roots, ${images.length} images, ${packages.count} packages, ${downloads.files} downloads`;
  const report = { sandboxes, jobs, roots, images, packages: packages.count, downloads };
  printEither(stdout, how, report, text);
}

async function pruneCaches(paths: StatePaths, limits: PruneOptions): Promise<Pruned> {
  const pruned = [await pruneCache(paths, limits)];
  for (const folder of await rootsBuildCaches(paths)) {
    pruned.push(await removeBuildCaches(paths, folder, limits));
  }
  for (const uid of await readdir(join(paths.root, 'users')).catch(() => [])) {
    pruned.push(await pruneOwn(paths, { uid: Number(uid) }, limits));
  }
  return sumOf(pruned);
}

async function pruneOwn(
  paths: StatePaths,
  user: { readonly uid: number },
  limits: PruneOptions,
): Promise<Pruned> {
  return sumOf([
    await pruneCache(pathsOfUser(paths, user), limits),
    await removeBuildCaches(paths, buildCachesOf(paths, user), limits),
  ]);
}

function sumOf(parts: readonly Pruned[]): Pruned {
  const sum = (field: keyof Pruned) => parts.reduce((all, part) => all + part[field], 0);
  return { files: sum('files'), bytes: sum('bytes') };
}

async function removeKept(engine: Engine, maxAge = Number.POSITIVE_INFINITY): Promise<string[]> {
  const { paths, connect } = engine;
  const old = (await listSandboxes(paths, engine)).filter(
    ({ state, record }) => state === 'kept' && Date.now() - record.created >= maxAge,
  );
  for (const { directory, record } of old) await destroySandbox(paths, directory, record, connect);
  return old.map(({ id }) => id);
}

async function tellWhatWouldGo(
  { paths }: Engine,
  { maxAge = Number.POSITIVE_INFINITY, maxSize, ...how }: GcOptions,
  caller: Caller,
): Promise<void> {
  const sandboxes = (await listSandboxes(paths, { owner: undefined }))
    .filter(
      ({ state, record }) =>
        isOver(state) || (state === 'kept' && Date.now() - record.created >= maxAge),
    )
    .map(({ id }) => id);
  const limits = { ...defined({ maxSize }), maxAge, dryRun: true };
  const { images, packages, bytes } = await collectGarbage(paths, limits);
  const downloads = await pruneCaches(paths, limits);
  const report = { dryRun: true, sandboxes, images, packages, bytes, downloads };
  const text = () =>
    `would remove ${sandboxes.length} sandboxes, ${images.length} images, ${packages} packages, ${downloads.files} downloads: ${sizeText(bytes + downloads.bytes)}`;
  printEither(caller.stdout, how, report, text);
}

function verifiedText(verified: VerifyReport | undefined): string {
  if (verified === undefined) return '';
  const { packages, damaged, images, uncompared } = verified;
  const found = `${damaged.length} damaged, ${images.length} images had their files`;
  const rest = `${uncompared.packages.length} packages and ${uncompared.files} files of images could not be compared`;
  return `compared ${packages} packages: ${found}; ${rest}; `;
}

const DF_EXAMPLES = `
UNUSED is the size of images that are not in use, of packages without an image, and of all downloads and build caches. Files
that images share with packages count for the packages. Users see what is theirs, and what they may keep;
services, with their data, are root's.

Examples:
  kiln df
  kiln df --json | jq '.[] | {type, bytes}'`;

interface Usage {
  readonly type: 'images' | 'packages' | 'downloads' | 'caches' | 'roots' | 'services';
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
  const it = new KilnCommand('df').description(
    'Show the size of images, packages, downloads, build caches and services on the disk.',
  );
  return addListOptions(it, '{{.Type}} {{.Size}}')
    .addHelpText('after', DF_EXAMPLES)
    .action(async (options: ListOptions) => {
      await using engine = caller.openEngine();
      if (caller.user !== undefined) {
        await showOwn(engine, caller.user, options, caller);
        return;
      }
      const { images, imagesNotInUse, packages, packagesWithoutImage } = await storeUsage(
        engine.paths,
      );
      const { files, bytes } = await cacheUsage(engine.paths);
      const caches = usageOf(join(engine.paths.cache, BUILD_CACHES));
      const rows: Usage[] = [
        { type: 'images', ...images, unusedBytes: imagesNotInUse.bytes },
        { type: 'packages', ...packages, unusedBytes: packagesWithoutImage.bytes },
        { type: 'downloads', count: files, bytes, unusedBytes: bytes },
        { type: 'caches', ...caches, unusedBytes: caches.bytes },
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

async function showOwn(
  { paths }: Engine,
  user: CallerUser,
  options: ListOptions,
  { stdout, stderr }: Caller,
): Promise<void> {
  const { images, packages, downloads, caches, roots } = await userStorage(paths, user);
  const rows: Usage[] = [
    { type: 'images', ...images },
    { type: 'packages', ...packages },
    { type: 'downloads', ...downloads, unusedBytes: downloads.bytes },
    { type: 'caches', ...caches, unusedBytes: caches.bytes },
    { type: 'roots', ...roots, unusedBytes: 0 },
  ];
  printRows(stdout, COLUMNS, rows, options);
  const bytes = rows.reduce((sum, row) => sum + row.bytes, 0);
  const most = sizeText(user.policy.limits.storage);
  stderr.say(`kiln: ${sizeText(bytes)} of ${most} (users.limits.storage)\n`);
}
