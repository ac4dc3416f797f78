/** What a recipe says is remembered by the bundle, until anything that has a part in it is another. */
import { readdirSync, readFileSync, statSync, utimesSync } from 'node:fs';
import { mkdir, rename, symlink, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { readSealed, writeSealed } from '../../src/state/checked-file.ts';
import { debianRepository, type ImageState, imageState } from './image-state.ts';

const BUNDLE = join(import.meta.dirname, '../../dist/kiln.cjs');

let state: ImageState;

test.before(async () => {
  state = await imageState();
});
test.after.always(() => state[Symbol.asyncDispose]());

/** A folder with two recipes, and what locks of the first say. */
async function recipes(name: string, parent: string) {
  const folder = join(state.directory, name);
  await mkdir(folder);
  const { directory, key } = await debianRepository();
  const write = (file: string, text: string) => writeFile(join(folder, file), text);
  await write('base.yaml', 'description: one\n');
  await write(
    'child.yaml',
    `extends: ${parent}
repositories: [{ id: debian, directory: ${directory}, gpgcheck: true, gpgkey: ${key} }]
packages: [base-files]
`,
  );
  const env = { ...state.env, KILN_STATE: join(folder, 'state') };
  const remembered = () =>
    readdirSync(join(env.KILN_STATE, 'cache/recipes')).map((file) =>
      join(env.KILN_STATE, 'cache/recipes', file),
    );
  const description = async () => {
    const args = [BUNDLE, 'image', 'lock', 'child.yaml', '-o', 'lock.json'];
    await execa(process.execPath, args, { env, cwd: folder });
    const lock = JSON.parse(readFileSync(join(folder, 'lock.json'), 'utf8'));
    return lock.image.description as string;
  };
  return { folder, write, description, remembered };
}

test('a recipe whose files are what they were is not read again', async (t) => {
  t.timeout(60_000);
  const { description, remembered } = await recipes('same', './base.yaml');
  t.is(await description(), 'one');
  const [memory = '', ...others] = remembered();
  t.deepEqual(others, []);
  const text = String(readSealed(memory));
  writeSealed(memory, text.replace('"one"', '"as remembered"'));
  t.is(await description(), 'as remembered');
  // What cannot be understood is not needed.
  writeSealed(memory, '{"files":');
  t.is(await description(), 'one');
});

test('a change of what it extends counts, of whatever size and age', async (t) => {
  t.timeout(60_000);
  const { folder, write, description } = await recipes('changed', './base.yaml');
  t.is(await description(), 'one');
  const path = join(folder, 'base.yaml');
  const { atime, mtime } = statSync(path);
  await write('base.yaml', 'description: two\n');
  utimesSync(path, atime, mtime);
  t.is(await description(), 'two');
  await rename(path, join(folder, 'real.yaml'));
  await symlink('real.yaml', path);
  t.is(await description(), 'two');
  await write('other.yaml', 'description: three\n');
  await unlink(path);
  await symlink('other.yaml', path);
  t.is(await description(), 'three');
  await unlink(path);
  const error = await t.throwsAsync(description());
  t.regex(error!.message, /cannot read the recipe .*base\.yaml/);
});

test('another recipe of the name that it extends counts', async (t) => {
  t.timeout(60_000);
  const { folder, write, description } = await recipes('named', 'base');
  t.is(await description(), 'one');
  await mkdir(join(folder, 'recipes/images'), { recursive: true });
  await write('recipes/images/base.yaml', 'description: nearer\n');
  t.is(await description(), 'nearer');
});

test('other variables are another recipe', async (t) => {
  t.timeout(60_000);
  const { folder, description } = await recipes('variables', './base.yaml');
  t.is(await description(), 'one');
  const moved = `${process.env.KILN_FIXTURES}`;
  const { stderr } = await execa(
    process.execPath,
    [BUNDLE, 'image', 'lock', join(folder, 'child.yaml'), '-o', join(folder, 'lock.json')],
    {
      env: { ...state.env, KILN_STATE: join(folder, 'state'), KILN_FIXTURES: `${moved}/elsewhere` },
    },
  );
  t.notRegex(stderr, /error/i);
  t.is(readdirSync(join(folder, 'state/cache/recipes')).length, 2);
});
