import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Ajv2020 } from 'ajv/dist/2020.js';
import test from 'ava';
import { parse } from 'yaml';
import type { KilnError } from '../../../src/errors.ts';
import {
  buildRecipeJsonSchema,
  checkScriptRecipe,
  loadBuildRecipe,
  stepsOf,
} from '../../../src/recipe/build-recipe.ts';
import { RecipeError } from '../../../src/recipe/problem.ts';

const recipes = join(import.meta.dirname, '../../../recipes/builds');

async function load(text: string | Buffer) {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-recipe-'));
  try {
    const file = join(folder, 'it.yaml');
    await writeFile(file, text);
    return await loadBuildRecipe(file);
  } finally {
    await rm(folder, { recursive: true });
  }
}

test('all problems are reported at once, each with its place and a hint', async (t) => {
  const text = `image: debian-build
sandbx: {}
sandbox:
  memory: lots
  network: ../x
sources:
  - url: ftp://x/y
    sha256: ${'a'.repeat(64)}
  - url: http://x/y
  - file: x
    url: http://x/y
    sha256: ABC
steps:
  - name: a
    rn: 'true'
  - 5
artifacts: x
`;
  const error = await t.throwsAsync(load(text), { instanceOf: RecipeError });
  const found = error!.problems.map(
    ({ line, column, path, message, hint }) => `${line}:${column} ${path}: ${message} | ${hint}`,
  );
  const expected = [
    /^2:1 sandbx: unknown key \| did you mean "sandbox"\?/,
    /^4:11 sandbox\.memory: "lots" is not a size/,
    /^5:12 sandbox\.network: private, host, or/,
    /^7:10 sources\[0\]\.url: an http or https URL/,
    /^9:5 sources\[1\]: sha256 is missing/,
    /^10:5 sources\[2\]: url and file exclude each other/,
    /^12:13 sources\[2\]\.sha256: 64 hexadecimal digits/,
    /^14:5 steps\[0\]\.run: is missing/,
    /^15:5 steps\[0\]\.rn: unknown key \| did you mean "run"\?/,
    /^16:5 steps\[1\]: must be a string, not a number/,
    /^17:12 artifacts: must be a list, not a string/,
  ];
  for (const [index, pattern] of expected.entries()) t.regex(found[index] ?? '', pattern);
  t.is(found.length, expected.length, found.join('\n'));
});

const problemsOf = (error: RecipeError | undefined) =>
  error?.problems.map(({ path, message, hint }) => `${path}: ${message} | ${hint}`);

test('error messages are kiln’s own, and give a useful hint', async (t) => {
  const cases: readonly (readonly [string, RegExp])[] = [
    ['image: [a]\nsteps: [a]', /^image: must be a string, not a list \| undefined$/],
    ['image: 5\nsteps: [a]', /^image: must be a string, not a number \| put it in quotes$/],
    [
      'image: a\nsteps: [a]\nsandbox: { tmpfs: [{ target: /x }], bind: [{ source: /a, target: /x/ }] }',
      /^sandbox: two mounts are for \/x: the second would hide the first/,
    ],
    ['image: a', /^steps: is missing \| a list is needed here$/],
    ['image: a\nsteps: [a]\n---\nimage: b', /^: a second document begins here: a file has one/],
    [`image: a\nsteps: ${'['.repeat(9e4)}${']'.repeat(9e4)}`, /nested too deeply here/],
  ];
  for (const [text, message] of cases) {
    const error = await t.throwsAsync(load(text), { instanceOf: RecipeError });
    t.regex(problemsOf(error)?.[0] ?? '', message);
  }
  // Those of one place are told once.
  for (const depth of [100, 9e4]) {
    const open = load(`image: a\nsteps: ${'['.repeat(depth)}`);
    const error = await t.throwsAsync(open, { instanceOf: RecipeError });
    t.true((error?.problems.length ?? 9) <= 2, problemsOf(error)?.join('\n'));
  }
});

test('a recipe that is not UTF-8 is refused, not changed', async (t) => {
  const latin = Buffer.from('image: x\nsteps:\n  - echo gr\u00fcn\n', 'latin1');
  const error = await t.throwsAsync<KilnError>(load(latin), { code: 'E_RECIPE_READ' });
  t.regex(String(error?.cause), /line 3 of \S+it\.yaml is not UTF-8/);
  t.regex(error?.hint ?? '', /^save it as UTF-8/);
});

test('the exports of a recipe program pass the same schema, with marks for functions', (t) => {
  const recipe = checkScriptRecipe('x.ts', {
    image: 'i',
    sandbox: { memory: '64M', timeout: '2m' },
    steps: ['true', { name: 'two', run: { function: true }, timeout: 5 }],
  });
  t.is(recipe.sandbox.memory, 64 * 2 ** 20);
  t.is(recipe.sandbox.timeout, 120_000);
  const [first, second] = stepsOf(recipe);
  t.deepEqual([first?.name, first?.script], ['1', 'true']);
  t.deepEqual([second?.name, second?.script, second?.timeout], ['two', undefined, 5000]);
  for (const run of [5, undefined, { a: 1 }]) {
    const error = t.throws(() => checkScriptRecipe('x.ts', { image: 'i', steps: [{ run }] }), {
      instanceOf: RecipeError,
    });
    t.deepEqual(problemsOf(error), [
      'steps[0].run: must be a script (a string) or a function | undefined',
    ]);
  }
  t.throws(() => checkScriptRecipe('x.ts', { steps: [] }), { code: 'E_RECIPE' });
  t.throws(() => checkScriptRecipe('x.ts', undefined), { message: /default export/ });
});

test('the JSON Schema accepts kiln’s recipes, and rejects what kiln refuses', async (t) => {
  const validate = new Ajv2020({ strict: false }).compile(buildRecipeJsonSchema() as object);
  const names = (await readdir(recipes)).filter((name) => name.endsWith('.yaml'));
  t.true(names.length >= 4);
  for (const name of names) {
    const text = await readFile(join(recipes, name), 'utf8');
    t.true(validate(parse(text)), `${name}: ${JSON.stringify(validate.errors)}`);
    await t.notThrowsAsync(loadBuildRecipe(join(recipes, name)));
  }
  t.true(validate({ fromSnapshot: 'x', steps: ['x'] }));
  for (const bad of [
    { image: 'x', fromSnapshot: 'x', steps: ['x'] },
    { image: 'x', steps: [] },
    { image: 'x', steps: [{ rn: 'x' }] },
    { image: 'x', steps: ['x'], sandbx: {} },
    { steps: ['x'] },
  ]) {
    t.false(validate(bad), JSON.stringify(bad));
  }
});
