import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { imageRecipeJsonSchema } from '../../src/recipe/image-recipe.ts';
import { loadImageRecipe } from '../../src/recipe/load-image-recipe.ts';
import { RecipeError } from '../../src/recipe/problem.ts';
import { PATIENCE } from '../support/busybox-state.ts';

async function folder(files: Record<string, string>) {
  const path = await mkdtemp(join(tmpdir(), 'kiln-recipe-'));
  for (const [name, text] of Object.entries(files)) await writeFile(join(path, name), text);
  const load = (name: string) =>
    loadImageRecipe(join(path, name), {
      variables: { KILN_STATE: '/state', KILN_FIXTURES: '/fixtures' },
      arch: 'x86_64',
      isTrusted: () => true,
      findByName: (wanted) =>
        files[`${wanted}.yaml`] === undefined ? undefined : join(path, `${wanted}.yaml`),
    });
  return { path, load, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

const repository = `
repositories:
  - id: local
    directory: \${KILN_STATE}/fixtures/$arch
`;

test('all problems of a recipe are reported at once, each with its place and a hint', async (t) => {
  await using recipes = await folder({
    'bad.yaml': `pakages: [bash]
repositories:
  - id: local
    directory: \${KILN_STAT}/x
files:
  - path: relative/path
    content: x
    mode: 644
  - path: /etc/x
    source: a
    content: b
  - path: /
    content: c
users:
  - name: build
    uid: many
scriptlets:
  mode: atuo
`,
  });
  const error = await t.throwsAsync(recipes.load('bad.yaml'), { instanceOf: RecipeError });
  const found = error!.problems.map(
    ({ line, column, path, message, hint }) => `${line}:${column} ${path}: ${message} | ${hint}`,
  );
  const expected = [
    /^1:1 pakages: unknown key \| did you mean "packages"\?/,
    /^4:16 repositories\[0\]\.directory: unknown variable \$KILN_STAT \| did you mean \$KILN_STATE\?/,
    /^6:11 files\[0\]\.path: an absolute path/,
    /^8:11 files\[0\]\.mode: "?644"? is no file mode: write it in quotes/,
    /^9:5 files\[1\]: exactly one of content and source is needed/,
    /^12:11 files\[2\]\.path: a file, not the root of the image/,
    /^16:10 users\[0\]\.uid: must be a number, not a string/,
    /^18:9 scriptlets\.mode: "atuo" is not one of auto, exact, none \| did you mean "auto"\?/,
  ];
  t.is(found.length, expected.length, found.join('\n'));
  for (const pattern of expected)
    t.true(
      found.some((line) => pattern.test(line)),
      `${pattern}\n${found.join('\n')}`,
    );
  t.regex(error!.message, /bad\.yaml:1:1: pakages: unknown key/);
});

test('broken YAML is a problem with a place, not an internal error', async (t) => {
  await using recipes = await folder({ 'broken.yaml': 'packages: [bash\nusers: {\n' });
  const error = await t.throwsAsync(recipes.load('broken.yaml'), { instanceOf: RecipeError });
  t.true(error!.problems.every((problem) => problem.line > 0));
});

test('a YAML alias bomb is refused', async (t) => {
  const level = (n: number) => `  l${n}: &l${n} [${`*l${n - 1}, `.repeat(9)}*l${n - 1}]\n`;
  const bomb = `environment:\n  l0: &l0 [x]\n${[1, 2, 3, 4, 5, 6, 7, 8, 9].map(level).join('')}`;
  await using recipes = await folder({ 'bomb.yaml': bomb });
  await t.throwsAsync(recipes.load('bomb.yaml'), { instanceOf: RecipeError });
});

test('a key that is there twice is a problem, at its second place', async (t) => {
  const twice = 'packages: [bash]\nenvironment: { A: b, C: d, A: e, A: f }\npackages: []\n';
  await using recipes = await folder({ 'twice.yaml': twice });
  const error = await t.throwsAsync(recipes.load('twice.yaml'), { instanceOf: RecipeError });
  t.deepEqual(
    error!.problems.map(({ line, column, message }) => `${line}:${column} ${message}`),
    ['2:28 Map keys must be unique', '3:1 Map keys must be unique'],
  );
});

test('tens of thousands of keys are read in seconds', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const keys = (name: string) => Array.from({ length: 50_000 }, (_, n) => `${name}${n}: v\n`);
  await using recipes = await folder({
    'many.yaml': `${repository}packages: [bash]\nenvironment:\n${keys('  K').join('')}`,
    'unknown.yaml': keys('k').join(''),
    'equal.yaml': 'packages: []\n'.repeat(50_000),
  });
  const before = process.cpuUsage();
  const { environment } = await recipes.load('many.yaml');
  t.is(Object.keys(environment ?? {}).length, 50_000);
  const unknown = await t.throwsAsync(recipes.load('unknown.yaml'), { instanceOf: RecipeError });
  t.regex(unknown!.message, /^.*has 51 problems:\n.*: 49950 more keys are unknown$/m);
  const equal = await t.throwsAsync(recipes.load('equal.yaml'), { instanceOf: RecipeError });
  t.is(equal!.problems.length, 1);
  // yaml's own check for equal keys takes minutes of a processor.
  t.true(process.cpuUsage(before).user < 15e6 * PATIENCE);
});

test('a recipe adds to the one it extends', async (t) => {
  await using recipes = await folder({
    'base.yaml': `${repository}
packages: [bash]
environment: { PATH: /bin, LANG: C }
scriptlets: { timeout: 90s }
`,
    'child.yaml': `extends: base
packages: [gcc]
environment: { LANG: C.UTF-8 }
scriptlets: { mode: exact }
disk: 3G
user: build
users: [{ name: build, uid: 1000, home: /builddir }]
files: [{ path: /etc/x, source: x.conf, mode: '0600' }]
`,
  });
  const recipe = await recipes.load('child.yaml');
  t.deepEqual(recipe.packages, ['bash', 'gcc']);
  t.deepEqual(recipe.environment, { PATH: '/bin', LANG: 'C.UTF-8' });
  t.deepEqual(recipe.scriptlets, { mode: 'exact', timeout: 90, disk: 3 * 2 ** 30 });
  t.deepEqual(recipe.repositories[0]!.source, {
    kind: 'directory',
    path: '/state/fixtures/x86_64',
  });
  t.is(recipe.name, 'child');
  t.is(recipe.files[0]!.mode, 0o600);
  t.is(recipe.files[0]!.source, join(recipes.path, 'x.conf'));
});

test('recipes that extend one another in a circle are refused', async (t) => {
  await using recipes = await folder({
    'a.yaml': 'extends: b\npackages: [bash]\n',
    'b.yaml': 'extends: a\n',
  });
  const error = await t.throwsAsync(recipes.load('a.yaml'), { instanceOf: RecipeError });
  t.regex(error!.message, /extends itself/);
  const one = error!.problems.map(({ path }) => path);
  t.deepEqual(one, ['extends'], 'what b lacks may be in what it cannot extend');
});

test('a recipe whose ancestor is missing, or is itself, has that one problem', async (t) => {
  await using recipes = await folder({ 'a.yaml': 'extends: nobody\n', 'b.yaml': 'extends: b\n' });
  for (const name of ['a.yaml', 'b.yaml']) {
    const error = await t.throwsAsync(recipes.load(name), { instanceOf: RecipeError });
    t.deepEqual(
      error!.problems.map(({ path }) => path),
      ['extends'],
    );
  }
});

test('a recipe cannot have the same user as the one it extends', async (t) => {
  await using recipes = await folder({
    'base.yaml': `${repository}\npackages: [bash]\nusers: [{ name: build, uid: 1000 }]\n`,
    'child.yaml': 'extends: base\nusers: [{ name: build, uid: 1001 }]\n',
  });
  const error = await t.throwsAsync(recipes.load('child.yaml'), { instanceOf: RecipeError });
  t.regex(error!.message, /child\.yaml:2:17: users\[0\]\.name: build is used twice/);
});

test('a recipe can write a file once, and replace one of the recipe it extends', async (t) => {
  await using recipes = await folder({
    'base.yaml': `${repository}\npackages: [bash]\nfiles: [{ path: /etc/x, content: a }]\n`,
    'child.yaml': 'extends: base\nfiles: [{ path: /etc/x, content: b }]\n',
    'twice.yaml':
      'extends: base\nfiles:\n  - { path: /etc/y, content: b }\n  - { path: /etc//y, content: c }\n',
  });
  t.is((await recipes.load('child.yaml')).files.at(-1)?.content, 'b');
  const error = await t.throwsAsync(recipes.load('twice.yaml'), { instanceOf: RecipeError });
  t.regex(error!.message, /twice\.yaml:4:13: files\[1\]\.path: \/etc\/y is written twice/);
});

test('the JSON Schema knows every key and refuses others', (t) => {
  const schema = imageRecipeJsonSchema() as {
    properties: Record<string, unknown>;
    additionalProperties: boolean;
  };
  t.false(schema.additionalProperties);
  t.true(Object.keys(schema.properties).includes('scriptlets'));
});
