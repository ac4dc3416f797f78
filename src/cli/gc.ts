import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { defined } from '../defined.ts';
import { removeOldJobs } from '../detached/record.ts';
import { mendDamage } from '../host/state/kinds.ts';
import { pathsOfUser, type StatePaths } from '../host/state/paths.ts';
import { syncStore } from '../image/store/durability.ts';
import { collectGarbage } from '../image/store/gc.ts';
import { type VerifyReport, verifyPackages } from '../image/store/verify.ts';
import { pruneRoots } from '../jobs/mock/root/prune.ts';
import { type Pruned, type PruneOptions, pruneCache } from '../packages/repository/prune.ts';
import { listSandboxes } from '../sandbox/domain/list.ts';
import { destroySandbox, sweepDomains, sweepSandboxes } from '../sandbox/domain/sweep.ts';
import type { Engine } from '../sandbox/open.ts';
import type { Caller } from './caller/caller.ts';
import { parseSize, parseTime } from './options/values.ts';
import { printError } from './output/errors.ts';
import { printJson } from './output/print.ts';
import { sizeText } from './output/table.ts';

const EXAMPLES = `
Without limits, only broken and abandoned things are removed. Nothing that is in use is removed.

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

/** `kiln gc`. */
export function command(caller: Caller): Command {
  return new Command('gc')
    .description(
      'Remove abandoned sandboxes and unfinished images, and what exceeds the given limits.',
    )
    .option(
      '--max-age <time>',
      'remove images, packages and downloads unused for this time, such as 4w, and sandboxes kept longer',
      parseTime,
    )
    .option(
      '--max-size <size>',
      'remove the least recently used images, packages and downloads until the rest is this small',
      parseSize,
    )
    .option('--verify', 'first compare the files of all unpacked packages with their checksums')
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
      if (caller.user !== undefined) {
        const removed = await removeKept(engine, maxAge);
        const jobs = await removeOldJobs(engine.paths, caller.user, maxAge ?? 0);
        if (options.json === true) printJson(caller.stdout, { sandboxes: removed, jobs });
        else {
          caller.stdout.say(`removed ${removed.length} sandboxes, ${jobs.length} ended jobs\n`);
        }
        return;
      }
      if (options.dryRun === true) {
        await tellWhatWouldGo(engine, options, caller);
        return;
      }
      const kept = maxAge === undefined ? {} : { keptMaxAge: maxAge };
      const sandboxes = await sweepSandboxes(engine.paths, engine.connect, kept);
      const domains = await sweepDomains(engine.paths, await engine.connect());
      const limits = defined({ maxAge, maxSize });
      const jobs = await removeOldJobs(engine.paths, undefined, maxAge);
      const roots = maxAge === undefined ? [] : await pruneRoots(engine, maxAge);
      const damaged = mendDamage(engine.paths);
      const verified = options.verify === true ? await verifyPackages(engine.paths) : undefined;
      const { failures, ...store } = await collectGarbage(engine.paths, limits);
      const downloads = await pruneCaches(engine.paths, limits);
      for (const failure of failures) printError(failure, caller.stderr);
      const report = { sandboxes, jobs, domains, roots, ...store, downloads, damaged, verified };
      if (options.json === true) printJson(caller.stdout, report);
      else {
        caller.stdout.say(
          `${verifiedText(verified)}removed ${sandboxes.length} sandboxes, ${jobs.length} ended jobs, ${domains.length} domains, ${roots.length} roots, ${store.images.length} images, ${store.packages} packages, ${downloads.files} downloads: ${sizeText(store.bytes + downloads.bytes)}; deleted ${store.trees} trees\n`,
        );
      }
    });
}

/** Prunes the shared cache and each user's own, all within the same limits. */
async function pruneCaches(paths: StatePaths, limits: PruneOptions): Promise<Pruned> {
  const users = await readdir(join(paths.root, 'users')).catch(() => []);
  const places = [paths, ...users.map((uid) => pathsOfUser(paths, { uid: Number(uid) }))];
  const all = { files: 0, bytes: 0 };
  for (const place of places) {
    const { files, bytes } = await pruneCache(place, limits);
    all.files += files;
    all.bytes += bytes;
  }
  return all;
}

/**
 * For a user: removes kept sandboxes that are old enough. The rest of the state is root's. @returns their ids
 */
async function removeKept(engine: Engine, maxAge = Number.POSITIVE_INFINITY): Promise<string[]> {
  const { paths, connect } = engine;
  const old = (await listSandboxes(paths, engine)).filter(
    ({ state, record }) => state === 'kept' && Date.now() - record.created >= maxAge,
  );
  for (const { directory, record } of old) await destroySandbox(paths, directory, record, connect);
  return old.map(({ id }) => id);
}

/** Prints what would be removed, and its size. Domains, roots and records are not counted. */
async function tellWhatWouldGo(
  { paths }: Engine,
  { maxAge = Number.POSITIVE_INFINITY, maxSize, json }: GcOptions,
  caller: Caller,
): Promise<void> {
  const sandboxes = (await listSandboxes(paths, { owner: undefined }))
    .filter(
      ({ state, record }) =>
        state === 'abandoned' || (state === 'kept' && Date.now() - record.created >= maxAge),
    )
    .map(({ id }) => id);
  const limits = { ...defined({ maxSize }), maxAge, dryRun: true };
  const { images, packages, bytes } = await collectGarbage(paths, limits);
  const downloads = await pruneCache(paths, limits);
  if (json === true) {
    printJson(caller.stdout, { dryRun: true, sandboxes, images, packages, bytes, downloads });
    return;
  }
  caller.stdout.say(
    `would remove ${sandboxes.length} sandboxes, ${images.length} images, ${packages} packages, ${downloads.files} downloads: ${sizeText(bytes + downloads.bytes)}\n`,
  );
}

function verifiedText(verified: VerifyReport | undefined): string {
  if (verified === undefined) return '';
  const { packages, damaged, images } = verified;
  return `compared ${packages} packages: ${damaged.length} damaged, ${images.length} images had their files; `;
}
