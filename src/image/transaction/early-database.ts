/** rpm writes its database while the tree that it belongs to is still planned and composed. */

import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { awaitedLater, deferred } from '../../promise.ts';
import type { RpmFile, RpmPackage } from '../../rpm/package.ts';
import type { Engine, ReservedBox } from '../../sandbox/open.ts';
import { isDiskShort } from '../../state/disk-error.ts';
import { span } from '../../trace/trace.ts';
import type { StoredPackage } from '../store/entry.ts';
import { composeTree } from '../tree/compose.ts';
import { FolderFinisher } from '../tree/folder-finisher.ts';
import { TreePlan } from '../tree/plan.ts';
import { TransactionBox } from './box.ts';
import { scriptReasons } from './choose.ts';
import { ControlDirectory } from './control.ts';
import { writeDatabase } from './database.ts';
import { findRpm } from './fast.ts';

/** With fewer packages, rpm takes less time than a box of its own. */
const WORTH_A_BOX = 50;

/** Whether a second box is worth its price: there is a processor for it, and enough to do. */
export function earlyDatabasePays(count: number): boolean {
  return count >= WORTH_A_BOX && availableParallelism() > 1;
}

/** What {@link EarlyDatabase} needs. */
export interface EarlyDatabaseOptions {
  readonly engine: Engine;
  readonly packages: readonly StoredPackage[];
  /** Where rpm runs; without it, it does not. */
  readonly reserved: ReservedBox | undefined;
  /** A folder to be made. */
  readonly work: string;
  /** Bytes that may be written. */
  readonly disk: number;
  readonly signal?: AbortSignal | undefined;
}

/** The root in which rpm writes the database. */
interface Bootstrap {
  readonly plan: TreePlan;
  /** Path of rpm in it. */
  readonly rpm: string;
}

interface Prepared extends EarlyDatabaseOptions {
  readonly reserved: ReservedBox;
  readonly bootstrap: Bootstrap;
}

/** A database that rpm has written, but where it does not belong yet. */
export interface WrittenDatabase {
  /** The packages in the order in which rpm installs them. */
  readonly installed: readonly RpmPackage[];
  /** The upper directory in which it lies. */
  readonly upper: string;
}

/**
 * rpm at work in a box of its own, whose root is a bootstrap tree: what of the packages rpm itself
 * needs. Whatever goes wrong, there is no database then, and rpm has to do it in the whole tree: an
 * rpm that needs more than was thought, or packages that it refuses. Disposing of it ends rpm.
 */
export class EarlyDatabase implements AsyncDisposable {
  /** Fulfilled once rpm runs, or never will: until then others should not take turns with it. */
  readonly begun: Promise<void>;
  readonly #written: Promise<WrittenDatabase | undefined>;
  readonly #end = new AbortController();
  #failure: unknown;

  /** Has rpm begin, if that pays, and can be told to give what it gives in the whole tree. */
  static start(options: EarlyDatabaseOptions): EarlyDatabase | undefined {
    const { packages, reserved } = options;
    if (reserved === undefined || !earlyDatabasePays(packages.length)) return undefined;
    const plain = packages.map((stored) => stored.package);
    if (scriptReasons(plain).length > 0) return undefined;
    const bootstrap = planBootstrap(plain);
    return bootstrap && new EarlyDatabase({ ...options, reserved, bootstrap });
  }

  private constructor(options: Prepared) {
    const ends = [this.#end.signal, ...(options.signal === undefined ? [] : [options.signal])];
    const begun = deferred<void>();
    this.begun = begun.promise;
    this.#written = awaitedLater(
      write(options, AbortSignal.any(ends), begun.resolve)
        .catch((error: unknown) => {
          // Others would fill the disk once more. Of anything else nobody hears.
          if (isDiskShort(error)) this.#failure = error;
          using _ = span(`no early rpm database: ${error}`);
          return undefined;
        })
        .finally(begun.resolve),
    );
  }

  /** What rpm has written, once it has; undefined if it failed. @throws KilnError E_DISK, E_DISK_LOW */
  async written(): Promise<WrittenDatabase | undefined> {
    using _ = span('wait for the rpm database');
    const written = await this.#written;
    if (this.#failure !== undefined) throw this.#failure;
    return written;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.#written;
  }
}

async function write(
  { engine, packages, reserved, bootstrap, work, disk }: Prepared,
  signal: AbortSignal,
  onBegun: () => void,
): Promise<WrittenDatabase | undefined> {
  const { plan, rpm } = bootstrap;
  mkdirSync(work, { mode: 0o700 });
  const tree = join(work, 'bootstrap');
  const byPackage = new Map(packages.map((stored) => [stored.package, stored.tree]));
  await composeTree(plan, tree, new FolderFinisher(false), (of) => byPackage.get(of)!);
  signal.throwIfAborted();
  const control = new ControlDirectory(join(work, 'control'));
  const scratch = join(work, 'scratch');
  await using box = await TransactionBox.open(engine, {
    tree,
    scratch,
    control: control.path,
    reserved,
    disk,
  });
  signal.throwIfAborted();
  const installed = await writeDatabase({ box, control, rpm, packages, signal, onBegun });
  await box.finish();
  return installed && { installed, upper: join(scratch, 'upper') };
}

/** What of these packages, in installation order, their rpm needs; undefined without one, or if that does not fit together. */
export function planBootstrap(packages: readonly RpmPackage[]): Bootstrap | undefined {
  const plan = new TreePlan();
  for (const added of packages) {
    const files = added.files.filter(isForBootstrap);
    if (files.length > 0) plan.add(added, files);
  }
  const rpm = findRpm(plan);
  return rpm === undefined || plan.problems.length > 0 ? undefined : { plan, rpm };
}

/**
 * What lies in the root itself, above all the links of /lib and its like, and the folders that they lead to;
 * rpm, its settings and plugins; libraries.
 */
const FOR_BOOTSTRAP =
  /^\/(?:[^/]*$|usr\/(?:s?bin|lib(?:32|64)?)$|(?:usr\/)?(?:bin\/rpm$|lib(?:32|64)?\/(?:rpm\b|(?:[^/]+-linux-[^/]+\/)?[^/]+\.so(?:\.[^/]+)?$))|etc\/rpm|root\/\.rpmmacros$|(?:var\/lib|usr\/lib\/sysimage)\/rpm$)/;

function isForBootstrap(file: RpmFile): boolean {
  return FOR_BOOTSTRAP.test(file.path);
}
