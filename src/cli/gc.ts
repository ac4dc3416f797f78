import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { counted } from '../counted.ts';
import { defined } from '../defined.ts';
import { removeOldJobs } from '../detached/record.ts';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { sizeText } from '../host/calls/system-error.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { mendDamage } from '../host/state/kinds.ts';
import { pathsOfUser, type StatePaths } from '../host/state/paths.ts';
import { damagedImages } from '../image/store/damage.ts';
import { syncStore } from '../image/store/durability.ts';
import { collectGarbage, removeUnusedPackages } from '../image/store/gc.ts';
import { removeIdleImage } from '../image/store/images.ts';
import { sweepSnapshots } from '../image/store/snapshots.ts';
import { buildCachesOf, imagesOf } from '../image/store/user-storage.ts';
import { type VerifyReport, verifyPackages } from '../image/store/verify.ts';
import { pruneRoots } from '../jobs/mock/root/root.ts';
import { removeBuildCaches, rootsBuildCaches } from '../jobs/rpmbuild/buildroot/caches.ts';
import { flag } from '../options/kind.ts';
import { age, rest } from '../options/numbers.ts';
import { row, type ValuesOf } from '../options/row.ts';
import { ROOTS } from '../options/rules.ts';
import { type Pruned, type PruneOptions, pruneCache } from '../packages/repository/prune.ts';
import { destroySandbox } from '../sandbox/domain/destroy.ts';
import { sweepMachineFiles } from '../sandbox/domain/machine/prune.ts';
import { isOver, listSandboxes } from '../sandbox/domain/sandbox-record.ts';
import { sweepDomains, sweepSandboxes } from '../sandbox/domain/sweep.ts';
import type { CallerUser } from '../users/configuration.ts';
import { sweepJobs } from '../users/job-folder.ts';
import type { Caller } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';
import { exitStatusHelp } from './options/exit-statuses.ts';
import { printError } from './output/errors.ts';
import { printEither } from './output/print.ts';

/** As a check that found something, not as a failure of kiln's. */
const FOUND_DAMAGE = 1;
/** Ids in one error. */
const SHOWN = 5;

const EXAMPLES = `${exitStatusHelp('kiln gc')}
Without limits, only broken, expired and abandoned things are removed. Nothing that is in use is removed.

Examples:
  kiln gc
  kiln gc --max-age 4w --max-size 20G --dry-run
  kiln gc --max-age 4w --max-size 20G`;

const GC = {
  maxAge: row(age, 'open', {
    help: 'remove images, packages and downloads unused for this time, such as 4w, and sandboxes kept longer',
  }),
  maxSize: row(rest, ROOTS, {
    help: 'remove the least recently used images, packages and downloads until the rest is this small',
  }),
  verify: row(flag, ROOTS, {
    help: 'first compare the files of all unpacked packages and images with their checksums; damaged ones are made anew when wanted',
  }),
  dryRun: row(flag, ROOTS, {
    help: 'remove nothing; tell how many sandboxes, images, packages and downloads would go',
  }),
  json: row(flag, 'open', { help: 'print the report as JSON' }),
  syncOnly: row(flag, ROOTS, { help: 'only write the store to the disk', hidden: true }),
};

type GcOptions = ValuesOf<typeof GC>;

export function gcCommand(caller: Caller): KilnCommand {
  return new KilnCommand('gc')
    .description(
      'Remove expired and abandoned sandboxes and unfinished images, and what exceeds the given limits.',
    )
    .rows(GC)
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
      if (existsSync(engine.paths.machines)) {
        domains.push(...(await sweepDomains(engine.paths, await engine.connect('qemu'))));
      }
      const machines = await sweepMachineFiles(engine.paths, maxAge);
      const snapshots = await sweepSnapshots(engine.paths, undefined);
      const limits = defined({ maxAge, maxSize });
      const jobs = await removeOldJobs(engine.paths, undefined, maxAge);
      const roots = await pruneRoots(engine, maxAge);
      const damaged = mendDamage(engine.paths);
      const verified = options.verify === true ? await verifyPackages(engine.paths) : undefined;
      const { failures, ...store } = await collectGarbage(engine.paths, limits);
      const downloads = await pruneCaches(engine.paths, limits);
      for (const failure of failures) printError(failure, caller.stderr);
      const report = {
        ...{ sandboxes, snapshots, jobs, domains, machines, roots, ...store, downloads },
        ...{ damaged, verified },
      };
      const text = () =>
        `${verifiedText(verified)}removed ${amounts({
          ...{ sandbox: sandboxes.length, 'ended job': jobs.length, domain: domains.length },
          ...{ root: roots.length, image: store.images.length, package: store.packages },
          ...{ download: downloads.files, snapshot: snapshots.length },
          'kernel or saved machine': machines.length,
        })}: ${sizeText(store.bytes + downloads.bytes)}`;
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
      const unknown = uncomparedErrors(uncompared);
      for (const error of unknown) printError(error, caller.stderr);
      if (found.length + images.length + unknown.length > 0) caller.exitStatus = FOUND_DAMAGE;
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
  const snapshots = await sweepSnapshots(paths, user);
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
    `removed ${amounts({
      ...{ sandbox: sandboxes.length, 'ended job': jobs.length, root: roots.length },
      ...{ image: images.length, package: packages.count },
      ...{ download: downloads.files, snapshot: snapshots.length },
    })}`;
  const found = { sandboxes, snapshots, jobs, roots, images };
  const report = { ...found, packages: packages.count, downloads };
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
  for (const { folder, record } of old) await destroySandbox(paths, folder, record, connect);
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
    `would remove ${amounts({
      ...{ sandbox: sandboxes.length, image: images.length },
      ...{ package: packages, download: downloads.files },
    })}: ${sizeText(bytes + downloads.bytes)}`;
  printEither(caller.stdout, how, report, text);
}

function uncomparedErrors({ packages, images, files }: VerifyReport['uncompared']): KilnError[] {
  const anew =
    'make these images anew: `kiln image rm NAME`, then `kiln image build`; or with --update';
  const those = images.length === 1 ? 'its' : 'their';
  const lost = `the digests of the files of ${counted(packages.length, 'package')} are lost: images that share the files were not compared with them`;
  const unnoted = `${counted(images.length, 'image')} without digests of ${those} own files: these were not compared (${images.slice(0, SHOWN).join(', ')})`;
  const sparse = `${counted(files, 'file of an image has', 'files of images have')} too many holes to be compared`;
  const errors: [number, string, string][] = [
    [packages.length, lost, anew],
    [images.length, unnoted, anew],
    [files, sparse, 'have the recipe write these files without holes, or make them in the sandbox'],
  ];
  return errors.flatMap(([count, what, hint]) =>
    count === 0 ? [] : [new KilnError('E_DAMAGED', what, { hint })],
  );
}

function verifiedText(verified: VerifyReport | undefined): string {
  if (verified === undefined) return '';
  const { packages, damaged, images, uncompared } = verified;
  const found = [
    damaged.length > 0 && `${damaged.length} damaged`,
    images.length > 0 && `${counted(images.length, 'image')} with damaged files`,
  ].filter((part) => part !== false);
  const { files } = uncompared;
  const left = amounts({
    ...{ package: uncompared.packages.length, image: uncompared.images.length, file: files },
  });
  const what = found.length === 0 ? 'no damage' : found.join(', ');
  const rest = left === NOTHING ? '' : `; ${left} could not be compared`;
  return `compared ${counted(packages, 'package')}: ${what}${rest}\n`;
}

const NOTHING = 'nothing';

/** Of what there is any. */
function amounts(counts: Readonly<Record<string, number>>): string {
  const some = Object.entries(counts).filter(([, count]) => count > 0);
  const parts = some.map(([one, count]) =>
    counted(count, one, one === 'sandbox' ? 'sandboxes' : `${one}s`),
  );
  return parts.length === 0 ? NOTHING : parts.join(', ');
}
