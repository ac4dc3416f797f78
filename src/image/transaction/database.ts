import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { RpmPackage } from '../../rpm/package.ts';
import type { Engine, ReservedBox } from '../../sandbox/open.ts';
import { span } from '../../trace/trace.ts';
import type { StoredPackage } from '../store/packages.ts';
import { composeTree, needsOwner } from '../tree/compose.ts';
import { nevra } from '../tree/file-conflict.ts';
import type { PlannedDirectory, PlannedNode, TreePlan } from '../tree/plan.ts';
import { TransactionBox } from './box.ts';
import { ControlDirectory } from './control.ts';
import { failure } from './run-steps.ts';

/** Seconds; some thousand packages take a few. */
const TIMEOUT = 600;

/** Headers without payloads: everything about them has been verified before. Users come later. */
const JUST_DATABASE = [
  '-iv',
  '--justdb',
  '--nodeps',
  '--noverify',
  '--nodigest',
  '--nosignature',
  '--ignorearch',
  '--ignoreos',
  '--ignoresize',
  '--define',
  '__systemd_sysusers %{nil}',
];

/** Path of the tree's own rpm, undefined if it has none. */
export function findRpm(plan: TreePlan): string | undefined {
  return ['/usr/bin/rpm', '/bin/rpm'].find((path) => plan.find(path) !== undefined);
}

/** What {@link writeDatabase} needs. */
export interface DatabaseJob {
  /** Path of rpm in the box. */
  readonly rpm: string;
  readonly control: ControlDirectory;
  readonly packages: readonly StoredPackage[];
  readonly signal?: AbortSignal | undefined;
}

/**
 * Lets the image's own rpm write its database from the headers.
 * @returns what it said.
 * @throws KilnError E_SCRIPTLET
 */
export async function writeDatabase(box: TransactionBox, job: DatabaseJob): Promise<string> {
  const headers = job.packages.map((stored) => job.control.addFile(stored.header));
  const argv = [job.rpm, ...JUST_DATABASE, ...headers];
  const result = await box.run({ argv, timeout: TIMEOUT, signal: job.signal });
  if (result.status !== 0) throw failure('writing the rpm database', result);
  return result.output;
}

/**
 * The order in which rpm has put packages into its database, which it tells with `-v`: that is the
 * order it would have installed them in, and the lock's may be another one.
 */
export function installationOrder(packages: readonly RpmPackage[], output: string): RpmPackage[] {
  const place = new Map(output.split('\n').map((line, index) => [line.trim(), index]));
  const placed = packages.map((of) => ({ of, at: place.get(nevra(of)) }));
  if (placed.some(({ at }) => at === undefined)) return [...packages];
  return placed.sort((a, b) => a.at! - b.at!).map(({ of }) => of);
}

/** What {@link DatabaseBeside} needs. */
export interface DatabaseOptions extends Omit<DatabaseJob, 'control'> {
  readonly engine: Engine;
  readonly plan: TreePlan;
  /** A new folder for what happens. */
  readonly work: string;
  readonly reserved: ReservedBox | undefined;
  readonly treeOf: (of: RpmPackage) => string;
}

/** A database that was written. */
export interface WrittenDatabase {
  /** The overlay's upper directory, which holds it. */
  readonly upper: string;
  /** What rpm said. */
  readonly output: string;
}

/**
 * Writes the database beside the making of the tree: in a box of its own, whose root has of the tree
 * what rpm needs to run, every folder that the database may be in, and every link to a folder with
 * what it leads to. Where a folder is missing rpm goes by its name, as in an empty root. Disposing
 * of it ends the box.
 */
export class DatabaseBeside implements AsyncDisposable {
  /** Undefined where rpm could not do it here: it then has to be done in the whole tree. */
  readonly written: Promise<WrittenDatabase | undefined>;
  readonly #end = new AbortController();

  private constructor(options: DatabaseOptions, tree: string) {
    const { signal: given } = options;
    const { signal: end } = this.#end;
    const signal = given === undefined ? end : AbortSignal.any([given, end]);
    this.written = writeIn(tree, { ...options, signal });
    // Whoever waits for it gets to know; whoever no longer does need not.
    this.written.catch(() => undefined);
  }

  /** Makes the box's root; returns when rpm can start. Undefined where that cannot be made. */
  static async start(options: DatabaseOptions): Promise<DatabaseBeside | undefined> {
    const { plan, work, treeOf } = options;
    const tree = join(work, 'tree');
    try {
      mkdirSync(work, { mode: 0o700 });
      await composeTree(plan, tree, treeOf, databaseTree(plan));
    } catch (error) {
      if (!(error instanceof Error) || !('code' in error)) throw error;
      return undefined;
    }
    return new DatabaseBeside(options, tree);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.written.catch(() => undefined);
  }
}

async function writeIn(
  tree: string,
  options: DatabaseOptions,
): Promise<WrittenDatabase | undefined> {
  using _ = span('write the rpm database');
  const { engine, work, reserved, signal } = options;
  const scratch = join(work, 'scratch');
  const control = new ControlDirectory(join(work, 'control'));
  try {
    const parts = { tree, scratch, control: control.path, reserved };
    await using box = await TransactionBox.open(engine, parts);
    const output = await writeDatabase(box, { ...options, control });
    // Something that it looked for may be in the whole tree.
    if (/^(?:error|warning): /m.test(output)) return undefined;
    return { upper: join(scratch, 'upper'), output };
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof KilnError) return undefined;
    throw error;
  }
}

/** Folders in which the dynamic linker looks without being told. */
const LIBRARIES = /^(?:\/usr)?\/lib(?:64|32|x32)?(?:\/[^/]+-linux-[^/]+)?$/;

const LIBRARY = /\.so(?:\.|$)/;

/** Folders of rpm's: configuration, macros, plugins, databases. The locale C.UTF-8 as well. */
const RPM_FOLDER = /\/\.?rpm[^/]*(?:\/|$)|^\/usr\/lib\/locale\/C\./;

const RPM_FILE = /^\.?rpm/;

/** Other files that rpm may look for; the shell is for macros that call one. */
const OTHERS = new Set(
  ['passwd', 'group', 'nsswitch.conf', 'ld.so.conf']
    .map((name) => `/etc/${name}`)
    .concat(['sh', 'bash', 'dash'].flatMap((name) => [`/bin/${name}`, `/usr/bin/${name}`])),
);

/** What the box's root has of the plan. */
function databaseTree(plan: TreePlan): ReadonlySet<PlannedNode> {
  const wanted = new Set<PlannedNode>();
  for (const directory of plan.directories()) {
    const { path, children } = directory;
    const rpms = RPM_FOLDER.test(path);
    if (rpms || !path.startsWith('/usr/')) wanted.add(directory);
    const libraries = LIBRARIES.test(path);
    for (const [name, child] of children) {
      if (child.kind === 'directory') continue;
      const { file } = child.owner;
      if (
        rpms ||
        (libraries && LIBRARY.test(name)) ||
        RPM_FILE.test(name) ||
        OTHERS.has(child.path)
      ) {
        const usual = file.type === 'file' || file.type === 'symlink';
        // Whatever has another owner is no part of rpm.
        if (usual && !needsOwner(file)) wanted.add(child);
      } else if (file.type === 'symlink') {
        const target = plan.find(`${child.path}/`);
        if (target?.kind === 'directory') wanted.add(child).add(target);
      }
    }
  }
  addHolders(plan.root, wanted);
  return wanted;
}

/** Adds what holds something that is wanted. */
function addHolders(directory: PlannedDirectory, wanted: Set<PlannedNode>): void {
  for (const child of directory.children.values()) {
    if (child.kind === 'directory') addHolders(child, wanted);
    if (wanted.has(child)) wanted.add(directory);
  }
}
