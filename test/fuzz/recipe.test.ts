import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { KilnError } from '../../src/errors.ts';
import { buildRecipeSchema, loadBuildRecipe } from '../../src/recipe/build-recipe.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { damagedText } from './damage.ts';

const RECIPE = `# a recipe with something of everything
description: one
image: debian-build
sandbox: { user: build, workdir: /tmp, env: { A: b }, memory: 1G, tmpfs: [{ target: /t, size: 1M }], egress: [a.example] }
sources:
  - { url: 'https://a.example/x.tar.gz', sha256: ${'a'.repeat(64)}, max-size: 1M }
  - file: x
steps:
  - echo one
  - { name: two, run: echo two, timeout: 5m, network: true, env: { C: d } }
artifacts: ['out/**']
`;

const PIECES: readonly string[] = [
  ...['&a [*a, *a]', '*a', '<<: *a', '!!binary x', '!!js/function x', '? ', '- ', ': ', '{', ']'],
  ...['|', '>-', '%YAML 9.9', '---\n', '...\n', '\t', '\0', '\ufeff', '__proto__: { a: b }', '~'],
  ...['.inf', '1e999', '0x7fffffff', '../../etc/passwd', "'", '"\\ud800"', '#'],
];

const recipe = fc.oneof(
  { weight: 3, arbitrary: damagedText(RECIPE, PIECES) },
  fc.json().map((it) => `image: a\nsteps: ${it}\nsandbox: ${it}`),
  fc.string(),
);

test('a random recipe either matches its schema or is refused with the position of each problem', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-fuzz-recipe-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const path = join(directory, 'it.yaml');
  let good = 0;
  await fc.assert(
    fc.asyncProperty(recipe, async (text) => {
      await writeFile(path, text);
      try {
        const read = await loadBuildRecipe(path);
        good++;
        // Nothing that the schema does not have came through, and no prototype was touched.
        return (
          Object.keys(read).every((key) => Object.hasOwn(buildRecipeSchema.shape, key)) &&
          !Object.hasOwn(Object.prototype, 'a')
        );
      } catch (error) {
        return (
          error instanceof KilnError &&
          (error.code === 'E_RECIPE_READ' ||
            (error.code === 'E_RECIPE' && /it\.yaml/.test(error.message)))
        );
      }
    }),
    { numRuns: 1500, examples: [[RECIPE]] },
  );
  t.true(good > 20, String(good));
});
