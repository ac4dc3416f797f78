import { cp, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { ownersOf } from '../../src/image/store/manifest.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { debianRepository } from './image-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

test.serial(
  'an ambiguous id removes nothing, and a missing id stops no other removal',
  async (t) => {
    const other = `${IMAGE.slice(0, 20)}${'c'.repeat(44)}`;
    const directory = join(state.paths.images, other);
    await cp(join(state.paths.images, IMAGE), directory, { recursive: true });
    const manifest = join(directory, 'image.json');
    const text = await readFile(manifest, 'utf8');
    await writeFile(manifest, text.replaceAll(IMAGE, other));
    const shown = await state.kiln(['image', 'show', IMAGE.slice(0, 12)]);
    t.not(shown.exitCode, 0);
    t.regex(
      String(shown.stderr),
      /^kiln: 2 images begin with b{12} \[E_IMAGE_AMBIGUOUS\]\n.*give more digits: /,
    );
    const all = await state.kiln(['image', 'rm', 'nope', other.slice(0, 21), 'nor-this']);
    t.is(all.stdout, other, 'one that is not there does not stop the others');
    t.is(all.exitCode, 125);
    for (const name of ['nope', 'nor-this'])
      t.true(
        String(all.stderr).includes(
          `there is no image and no recipe called ${name} [E_IMAGE_MISSING]`,
        ),
      );
    t.deepEqual(await readdir(state.paths.images), [IMAGE]);
  },
);

test.serial('an image that was removed during a listing is listed without owners', (t) => {
  t.is(ownersOf(state.paths, { id: 'f'.repeat(64) }).size, 0);
});

test.serial('an imported image never gets a name that -r cannot take', async (t) => {
  const archive = join(state.beside, 'my image.tar');
  const exported = await state.kiln(['image', 'export', IMAGE, '-o', archive]);
  t.is(exported.exitCode, 0, String(exported.stderr));
  const imported = await state.kiln(['image', 'import', archive, '--json']);
  t.is(JSON.parse(String(imported.stdout)).name, 'imported');
  t.is((await state.kiln(['image', 'rm', 'imported'])).exitCode, 0);
});

test.serial(
  'an archive that is imported again keeps its first name, and starts commands in /',
  async (t) => {
    const archive = join(state.beside, 'root.tar');
    await execa('tar', ['-cf', archive, '-C', join(state.paths.images, IMAGE, 'tree'), '.']);
    const first = await state.kiln(['image', 'import', archive, '--name', 'first']);
    t.is(first.exitCode, 0, String(first.stderr));
    const second = await state.kiln(['image', 'import', archive, '--name', 'second']);
    t.is(second.stdout, first.stdout);
    for (const name of ['first', 'second']) {
      const ran = await state.kiln(['run', '-r', name, '--user', 'build', '--', 'busybox', 'pwd']);
      t.is(ran.stdout, '/', String(ran.stderr));
    }
    t.regex(String((await state.kiln(['image', 'ls'])).stdout), / second, first /);
    t.is((await state.kiln(['image', 'rm', 'first'])).stdout, first.stdout);
    t.not((await state.kiln(['image', 'show', 'second'])).exitCode, 0);
  },
);

test.serial(
  'image lock pins the packages of the repository, and is stale for another recipe',
  async (t) => {
    const { directory, key } = await debianRepository();
    const recipe = join(state.paths.root, 'locked.yaml');
    const write = (packages: string) =>
      writeFile(
        recipe,
        `repositories:\n  - { id: debian, directory: ${directory}, gpgcheck: true, gpgkey: ${key} }\n` +
          `packages: [${packages}]\nscriptlets: { mode: none }\n`,
      );
    await write('tzdata');
    const locked = await state.kiln(['image', 'lock', recipe]);
    t.is(locked.exitCode, 0, String(locked.stderr));
    const lock = JSON.parse(await readFile(recipe.replace('.yaml', '.lock.json'), 'utf8'));
    const pinned = lock.packages.packages.find(({ nevra }: { nevra: string }) =>
      /^tzdata-/.test(nevra),
    );
    const { stdout: sum } = await execa('sha256sum', [join(directory, pinned.location)]);
    t.is(pinned.digest, `sha256:${sum.split(' ')[0]}`);

    await write('tzdata, perl-base');
    const stale = await state.kiln(['image', 'build', recipe]);
    t.not(stale.exitCode, 0);
    t.regex(
      String(stale.stderr),
      /locked\.lock\.json was made for another version of \S+locked\.yaml/,
    );
    t.regex(String(stale.stderr), /kiln image lock.*--update/);
    t.is((await state.kiln(['image', 'lock', recipe])).exitCode, 0);
    const built = await state.kiln(['image', 'build', recipe]);
    t.is(built.exitCode, 0, String(built.stderr));
  },
);

test.serial('a recipe’s name means its image, even if another recipe has it too', async (t) => {
  const { directory, key } = await debianRepository();
  const cwd = join(state.beside, 'names');
  await mkdir(cwd);
  const repository = `{ id: debian, directory: ${directory}, gpgcheck: true, gpgkey: ${key} }`;
  const text = `repositories: [${repository}]\npackages: [tzdata]\nscriptlets: { mode: none }\n`;
  await writeFile(join(cwd, 'first.yaml'), text);
  await writeFile(join(cwd, 'second.yaml'), `description: mine\n${text}`);
  const done = async (...args: string[]) => {
    const { exitCode, stdout, stderr } = await state.kiln(['image', ...args], { cwd });
    t.is(exitCode, 0, String(stderr));
    return String(stdout);
  };
  const id = await done('build', 'first.yaml');
  t.is(await done('build', './second.yaml'), id);
  for (const name of ['first', 'second']) t.is(JSON.parse(await done('show', name)).id, id, name);
  t.is(await done('rm', 'first'), id);
  const gone = await state.kiln(['image', 'show', 'first'], { cwd });
  t.regex(String(gone.stderr), /there is no image and no recipe called first \[E_IMAGE_MISSING\]/);
});
