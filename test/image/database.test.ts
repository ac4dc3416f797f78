import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { planFromRecipe } from '../../src/image/plan.ts';
import { obtainPackages, type StoredPackage } from '../../src/image/store/packages.ts';
import { ensureStore } from '../../src/image/store/work-directory.ts';
import { TransactionBox } from '../../src/image/transaction/box.ts';
import { ControlDirectory } from '../../src/image/transaction/control.ts';
import {
  DatabaseBeside,
  findRpm,
  installationOrder,
  writeDatabase,
} from '../../src/image/transaction/database.ts';
import { composeTree } from '../../src/image/tree/compose.ts';
import { TreePlan } from '../../src/image/tree/plan.ts';
import type { RpmPackage } from '../../src/rpm/package.ts';
import { type ImageState, imageState } from './image-state.ts';
import { snapshotTree } from './tree-snapshot.ts';

let state: ImageState;
let stored: StoredPackage[];
const plan = new TreePlan();

const treeOf = (of: RpmPackage) => stored.find((each) => each.package === of)!.tree;

test.before(async (t) => {
  t.timeout(300_000);
  state = await imageState();
  const { paths } = state.engine;
  const recipe = await state.recipe('database', 'groups: [buildsys-build]');
  stored = await obtainPackages(paths, (await planFromRecipe(paths, recipe, {})).lock, {});
  for (const { package: added } of stored) plan.add(added);
});
test.after.always(() => state[Symbol.asyncDispose]());

/** A new folder on the store's file system. */
async function workFolder(name: string): Promise<string> {
  await ensureStore(state.engine.paths);
  const path = join(state.engine.paths.store, name);
  await mkdir(path);
  return path;
}

/** What the host's rpm finds in a database, of each file of each package. */
async function contents(upper: string): Promise<string[]> {
  const fields =
    '%{FILENAMES} %{FILESTATES} %{FILEMODES} %{FILEUSERNAME} %{FILEDIGESTS} %{FILECLASS}';
  const query = ['-qa', '--dbpath', join(upper, 'var/lib/rpm'), '--qf', `[%{=NEVRA} ${fields}\n]`];
  const { stdout } = await execa('rpm', query, { maxBuffer: 1 << 28 });
  return stdout.split('\n').sort();
}

test.serial(
  'a database written beside the tree is the one that is written in the tree',
  async (t) => {
    t.timeout(120_000);
    const { engine } = state;
    const rpm = findRpm(plan)!;
    const work = await workFolder('beside');
    const options = { engine, plan, treeOf, rpm, packages: stored, reserved: undefined };
    await using beside = await DatabaseBeside.start({ ...options, work: join(work, 'database') });
    const written = await beside!.written;
    t.truthy(written);

    const whole = await workFolder('whole');
    const tree = join(whole, 'tree');
    await composeTree(plan, tree, treeOf);
    const control = new ControlDirectory(join(whole, 'control'));
    const scratch = join(whole, 'scratch');
    const box = await TransactionBox.open(engine, { tree, scratch, control: control.path });
    const output = await writeDatabase(box, { rpm, control, packages: stored });
    await box[Symbol.asyncDispose]();

    const upper = join(scratch, 'upper');
    const found = await contents(written!.upper);
    t.true(found.length > 13_000, `${found.length}`);
    t.deepEqual(found, await contents(upper));
    const packages = stored.map((each) => each.package);
    t.deepEqual(
      installationOrder(packages, written!.output).map(({ name }) => name),
      installationOrder(packages, output).map(({ name }) => name),
    );

    // Nothing else was written, and folders on the way have the same modes and owners.
    const entries = (of: string) =>
      [...snapshotTree(of)].map(([path, line]) => [path, line.split(' ').slice(0, 2).join(' ')]);
    t.deepEqual(entries(written!.upper), entries(upper));
    // The folders in which the files are: only a part of them.
    t.true(snapshotTree(join(work, 'database/tree')).size < snapshotTree(tree).size / 10);
  },
);

test.serial('where rpm cannot run beside the tree, nothing is taken for a database', async (t) => {
  const { engine } = state;
  const options = { engine, plan, treeOf, packages: stored.slice(0, 3), reserved: undefined };
  const work = await workFolder('unable');
  // In the tree, but not in the box: no program of rpm's.
  for (const [name, rpm] of Object.entries({ missing: '/usr/bin/gcc', failing: '/usr/bin/bash' })) {
    await using beside = await DatabaseBeside.start({ ...options, rpm, work: join(work, name) });
    t.is(await beside!.written, undefined, name);
  }
  // A folder that is there already: its root cannot be made.
  await mkdir(join(work, 'taken'));
  const taken = { ...options, rpm: '/usr/bin/rpm', work: join(work, 'taken') };
  t.is(await DatabaseBeside.start(taken), undefined);
});

test.serial('whoever gives up ends the box', async (t) => {
  const { engine } = state;
  const rpm = findRpm(plan)!;
  const options = { engine, plan, treeOf, rpm, packages: stored, reserved: undefined };
  const work = await workFolder('given-up');
  const beside = (await DatabaseBeside.start({ ...options, work: join(work, 'database') }))!;
  await beside[Symbol.asyncDispose]();
  await t.throwsAsync(beside.written, { name: 'AbortError' });
  const domains = await (await engine.connect()).listDomains();
  t.deepEqual(domains, []);
});
