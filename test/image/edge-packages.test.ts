import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { type EdgePackages, ensureEdgePackages } from '../../fixtures/edge-packages/ensure.ts';
import type { EdgeOutcome } from '../../fixtures/edge-packages/outcomes.ts';
import { KilnError } from '../../src/errors.ts';
import { ensureImage } from '../../src/image/build.ts';
import { planFromRecipe } from '../../src/image/plan.ts';
import type { LeasedImage } from '../../src/image/store/images.ts';
import { readContents } from '../../src/image/store/manifest.ts';
import { rpmIn } from '../fixtures/roots.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { isLong, long } from '../support/long.ts';
import {
  debianRepository,
  type FixtureRepository,
  type ImageState,
  imageState,
} from './image-state.ts';
import { differences, snapshotTree } from './tree-snapshot.ts';

let state: ImageState;
let edge: EdgePackages;
let repositories: readonly FixtureRepository[];

/** What the scriptlets of the edge packages need: a shell, coreutils, users; and rpm for its Lua. */
const BASE =
  'base-files, base-passwd, bash, coreutils, dash, grep, sed, findutils, passwd, rpm, gawk, tar';

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await imageState({ unpacked: 'noarch' });
  edge = await ensureEdgePackages();
  repositories = [
    await debianRepository(),
    { id: 'edge', directory: edge.directory, key: edge.keyPath },
  ];
});
test.after.always(() => state[Symbol.asyncDispose]());

const namesOf = (outcome: EdgeOutcome): string[] =>
  [...edge.packages.values()].filter((item) => item.outcome === outcome).map((item) => item.name);

/** The .rpm files of an image's packages, in its order. */
async function filesOf(image: LeasedImage): Promise<string[]> {
  const { packages } = await readContents(state.engine.paths, image.manifest.id);
  const directories = new Map(repositories.map(({ id, directory }) => [id, directory]));
  return packages.map((entry) => join(directories.get(entry.repository)!, entry.location));
}

/** What rpm makes of the same files; in several transactions if several lists are given. */
async function rpmTree(name: string, ...transactions: readonly string[][]): Promise<string> {
  const root = join(state.directory, name);
  await mkdir(root);
  for (const options of transactions) {
    const { exitCode, stderr } = await rpmIn(root, ['--nosignature', '-i', ...options]);
    if (exitCode !== 0) throw new Error(`rpm cannot make ${name}: ${stderr}`);
  }
  return root;
}

/**
 * Differences that are none: times and inode numbers in databases and caches, and the plain file
 * that /dev/null is to scriptlets of `rpm --root`.
 */
function relevant(theirs: string, ours: string): string[] {
  const found = differences(snapshotTree(theirs), snapshotTree(ours));
  for (const path of found.keys()) {
    if (/^\/var\/(?:cache\/ldconfig\/aux-cache|lib\/rpm\/rpmdb\.sqlite)|^\/dev\/null$/.test(path))
      found.delete(path);
  }
  return [...found].slice(0, 20).map(([path, difference]) => `${path}: ${difference}`);
}

const traceOf = (tree: string) => readFile(join(tree, 'var/log/edge-trace'), 'utf8');

test.serial('unpacking payloads first gives what rpm gives, wherever it is chosen', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const needRpm = /^edge-(?:scriptlets|triggers|trigger-target|lua|order|program)/;
  const names = namesOf('installs').filter((name) => !needRpm.test(name));
  const recipe = await state.recipe(
    'fast',
    `packages: [${BASE}, ${names.join(', ')}]`,
    repositories,
  );
  const image = await state.open(recipe);
  const { exactReasons } = await readContents(state.engine.paths, image.manifest.id);
  t.deepEqual(exactReasons, []);
  const root = await rpmTree('fast-oracle', await filesOf(image));
  t.is(await traceOf(image.tree), await traceOf(root));
  t.deepEqual(relevant(root, image.tree), []);
});

test.serial('packages whose order matters are all installed by rpm, in a sandbox', async (t) => {
  t.timeout(300_000 * PATIENCE);
  // Their %pretrans need a shell, which an empty root has not: rpm itself fails there.
  const impossible = new Set(['edge-scriptlets', 'edge-lua']);
  const names = namesOf('installs').filter((name) => !impossible.has(name));
  const recipe = await state.recipe(
    'exact',
    `packages: [${BASE}, ${names.join(', ')}]`,
    repositories,
  );
  const image = await state.open(recipe);
  t.is(image.manifest.transaction, 'exact');
  const { exactReasons } = await readContents(state.engine.paths, image.manifest.id);
  t.true(exactReasons.includes('edge-triggers.noarch has a %triggerprein scriptlet'));
  const root = await rpmTree('exact-oracle', await filesOf(image));
  t.is(await traceOf(image.tree), await traceOf(root));
  t.deepEqual(relevant(root, image.tree), []);
});

// In each run, builds whose requirements are installed on top of an image: test/build/core/build.test.ts.
long('packages on top of an image are installed by the image’s own rpm', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const { engine } = state;
  const base = await state.open(await state.recipe('base', `packages: [${BASE}]`, repositories));
  const whole = await planFromRecipe(
    engine,
    {
      path: await state.recipe(
        'whole',
        `packages: [${BASE}, ${namesOf('installs').join(', ')}]`,
        repositories,
      ),
    },
    {},
  );
  const { packages } = await readContents(engine.paths, base.manifest.id);
  const there = new Set(packages.map((entry) => entry.digest));
  const lock = {
    ...whole.lock,
    packages: whole.lock.packages.filter((entry) => !there.has(entry.digest)),
  };
  const request = { engine, lock, settings: whole.settings, base: base.manifest.id };
  await using image = await ensureImage(request);
  const files = await filesOf(image);
  t.is(files.length, whole.lock.packages.length);
  const root = await rpmTree('top-oracle', files.slice(0, there.size), files.slice(there.size));
  t.is(await traceOf(image.tree), await traceOf(root));
  t.deepEqual(relevant(root, image.tree), []);
  // What the new image did not change, it shares with its base; edge-sparse brings 65 MiB of zeros.
  t.true(image.manifest.ownBytes - 65 * 2 ** 20 < base.manifest.bytes / 4);
});

for (const [name, message] of [
  ['edge-broken-pre', /%prein\(edge-broken-pre-.*\) scriptlet failed, exit status/],
  ['edge-broken-pretrans', /%pretrans\(edge-broken-pretrans-.*\) scriptlet failed, exit status/],
] as const) {
  test.serial(`a package that rpm does not install fails the image: ${name}`, async (t) => {
    const recipe = await state.recipe(name, `packages: [${BASE}, ${name}]`, repositories);
    const error = await t.throwsAsync(state.open(recipe), { instanceOf: KilnError });
    t.is((error as KilnError).code, 'E_SCRIPTLET');
    t.regex(error!.message, message);
  });
}

const MODES = ['auto', 'exact'] as const;
for (const [index, name] of ['edge-broken-post', 'edge-broken-posttrans'].entries()) {
  test.serial(`a scriptlet that fails late is a warning: ${name}`, async (t) => {
    // Both ways in long runs; otherwise one for each package.
    for (const mode of MODES.filter((_, at) => isLong || at === index)) {
      const recipe = await state.recipe(
        `${name}-${mode}`,
        `packages: [${BASE}, ${name}]\nscriptlets: { mode: ${mode} }`,
        repositories,
      );
      const image = await state.open(recipe);
      t.is(image.manifest.transaction, mode === 'auto' ? 'fast' : 'exact');
      t.is(image.manifest.warnings.length, 1, image.manifest.warnings.join('\n'));
      t.regex(image.manifest.warnings[0]!, /scriptlet failed, exit status \d+/);
    }
  });
}

test.serial('packages with conflicting files are refused in rpm’s words', async (t) => {
  for (const names of [['edge-conflict-a', 'edge-conflict-b'], ['edge-dir-over-link']]) {
    const recipe = await state.recipe(
      names.join('-'),
      `packages: [${BASE}, ${names.join(', ')}]`,
      repositories,
    );
    const plan = await planFromRecipe(state.engine, { path: recipe }, {});
    const error = await t.throwsAsync(state.open(recipe), { instanceOf: KilnError });
    t.is((error as KilnError).code, 'E_FILE_CONFLICT');
    const directories = new Map(repositories.map(({ id, directory }) => [id, directory]));
    const files = plan.lock.packages.map((entry) =>
      join(directories.get(entry.repository)!, entry.location),
    );
    const root = join(state.directory, `${names[0]}-oracle`);
    await mkdir(root);
    const refused = await rpmIn(root, ['--nosignature', '--test', '-i', ...files]);
    const said = String(refused.stderr)
      .split('\n')
      .map((line) => line.trim());
    const problems = (error as KilnError).details?.problems as string[];
    t.true(problems.length > 0);
    for (const problem of problems) {
      // Which of two packages rpm names first depends on its own order.
      const turned = problem.replace(/ of (\S+) and (\S+)$/, ' of $2 and $1');
      t.true(said.includes(problem) || said.includes(turned), `${problem}\n${said.join('\n')}`);
    }
  }
});

test.serial('no script runs if the recipe says none, and owners are still right', async (t) => {
  const recipe = await state.recipe(
    'none',
    `packages: [${BASE}, edge-watched, edge-caps, edge-config]\nscriptlets: { mode: none }`,
    repositories,
  );
  const image = await state.open(recipe);
  t.is(image.manifest.transaction, 'none');
  await t.throwsAsync(traceOf(image.tree), { code: 'ENOENT' });
  const files = await filesOf(image);
  const root = await rpmTree('none-oracle', ['--noscripts', '--notriggers', ...files]);
  const found = relevant(root, image.tree).filter((line) => !line.startsWith('/var/lib/rpm'));
  t.deepEqual(found, []);
});
