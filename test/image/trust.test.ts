/** What one recipe lets in is nothing to another: each package is judged by the keys of who asks for it. */
import {
  copyFile,
  mkdir,
  readdir,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { basename, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { MirrorServer } from '../repository/mirror-server.ts';
import { buildPackages, createRepository } from '../repository/rpm-repository.ts';
import { GnuPgHome } from '../support/gnupg-home.ts';
import { type ImageState, imageState } from './image-state.ts';

let state: ImageState;
let gpg: GnuPgHome;
const key = (name: string) => join(state.directory, `${name}.asc`);

test.before(async () => {
  state = await imageState();
  gpg = await GnuPgHome.make();
  for (const name of ['good', 'other']) {
    await gpg.run('--quick-gen-key', name, 'ed25519', 'sign', 'never');
    await gpg.run('--armor', '--output', key(name), '--export', `=${name}`);
  }
});
test.after.always(async () => {
  await gpg[Symbol.asyncDispose]();
  await state[Symbol.asyncDispose]();
});

/** A repository of one package that nobody has seen before. */
async function repository(
  name: string,
  sign: (file: string) => Promise<void> = (file) => gpg.signPackage(file, 'good'),
): Promise<string> {
  const directory = join(state.directory, `rpms-${name}`);
  await buildPackages(directory, [{ name, files: { [`/usr/share/${name}`]: name } }]);
  const [file = ''] = await readdir(directory);
  await sign(join(directory, file));
  await createRepository(directory);
  return directory;
}

/** Writes a recipe of the repository's package. @param trust gpgcheck and gpgkey in YAML */
async function recipe(directory: string, name: string, trust: string): Promise<string> {
  const path = join(state.directory, `${basename(directory)}-${name}.yaml`);
  const wanted = basename(directory).replace('rpms-', '');
  await writeFile(
    path,
    `repositories: [{ id: one, directory: ${directory}, ${trust} }]
packages: [${wanted}]
scriptlets: { mode: none }
`,
  );
  return path;
}

const checkedBy = (name: string) => `gpgcheck: true, gpgkey: ${key(name)}`;
const UNCHECKED = 'gpgcheck: false';

async function build(path: string) {
  const { exitCode, stdout, stderr } = await state.kiln(['image', 'build', path]);
  return { exitCode, id: String(stdout).trim(), stderr: String(stderr) };
}

async function refused(t: ExecutionContext, path: string, why: RegExp): Promise<string> {
  const { exitCode, stderr } = await build(path);
  t.not(exitCode, 0, stderr);
  t.regex(stderr, why);
  return stderr;
}

async function built(t: ExecutionContext, path: string): Promise<string> {
  const { exitCode, id, stderr } = await build(path);
  t.is(exitCode, 0, stderr);
  return id;
}

test.serial('an error in a package names the package and its repository, not a file', async (t) => {
  const cut = async (file: string) => truncate(file, (await stat(file)).size - 20);
  for (const [name, sign, why] of [
    ['stranger', (file: string) => gpg.signPackage(file, 'good'), /key|sign/],
    ['stump', cut, /./],
  ] as const) {
    const directory = await repository(name, sign);
    await using server = await MirrorServer.start(directory);
    const path = join(state.directory, `${name}.yaml`);
    await writeFile(
      path,
      `repositories: [{ id: far, baseurl: "${server.url}", ${checkedBy('other')} }]
packages: [${name}]
scriptlets: { mode: none }
`,
    );
    const said = await refused(t, path, new RegExp(`${name}-1-1\\.noarch of repository far`));
    t.regex(said, why);
    t.notRegex(said, /cache\/objects/);
  }
});

/** The folder of a package in the store. */
async function entryOf(name: string): Promise<string> {
  const { packages } = state.engine.paths;
  for (const folder of await readdir(packages)) {
    const text = await readFile(join(packages, folder, 'package.json'), 'utf8').catch(() => '');
    if (text.includes(`"/usr/share/${name}"`) || text.includes(`"name":"${name}"`)) {
      return join(packages, folder);
    }
  }
  throw new Error(`${name} is not in the store`);
}

const NOT_TRUSTED =
  /is signed by [0-9a-f]{16} \(EdDSA\/SHA\d+\), not by a key that is trusted here/;

test.serial('a package accepted unchecked is checked by the next recipe that checks', async (t) => {
  const directory = await repository('loose');
  const unchecked = await built(t, await recipe(directory, 'unchecked', UNCHECKED));
  await refused(t, await recipe(directory, 'other', checkedBy('other')), NOT_TRUSTED);
  const good = await recipe(directory, 'good', checkedBy('good'));
  const checked = await built(t, good);
  t.not(checked, unchecked, 'one image for who checks and who does not');
  t.is(await built(t, good), checked);
  t.is(await built(t, await recipe(directory, 'again', UNCHECKED)), unchecked);
});

test.serial('an unsigned package, once accepted, is refused by a recipe that checks', async (t) => {
  const directory = await repository('unsigned', async () => {});
  await built(t, await recipe(directory, 'unchecked', UNCHECKED));
  await refused(
    t,
    await recipe(directory, 'good', checkedBy('good')),
    /unsigned-1-1\.noarch.*not signed/,
  );
});

test.serial(
  'a package accepted by one key is checked again by another, as if it were new',
  async (t) => {
    const directory = await repository('keys');
    const other = await recipe(directory, 'other', checkedBy('other'));
    const fresh = await refused(t, other, NOT_TRUSTED);
    await built(t, await recipe(directory, 'good', checkedBy('good')));
    const stored = await refused(t, other, NOT_TRUSTED);
    t.is(NOT_TRUSTED.exec(stored)?.[0], NOT_TRUSTED.exec(fresh)?.[0]);
  },
);

test.serial(
  'another key in the same file is another key, and voids what is known of the recipe',
  async (t) => {
    const directory = await repository('exchanged');
    const file = join(state.directory, 'changing.asc');
    await copyFile(key('good'), file);
    const path = await recipe(directory, 'changing', `gpgcheck: true, gpgkey: ${file}`);
    const image = await state.open(path);
    t.is((await state.open(path)).manifest.id, image.manifest.id);
    await copyFile(key('other'), file);
    await refused(t, path, NOT_TRUSTED);
    await t.throwsAsync(state.open(path), { code: 'E_RPM_SIGNATURE' });
  },
);

test.serial(
  'the store notes which keys checked a package, and ignores a damaged note',
  async (t) => {
    const directory = await repository('noted');
    const good = await recipe(directory, 'good', checkedBy('good'));
    await built(t, good);
    const note = join(await entryOf('noted'), 'checks.json');
    const fingerprint = (await gpg.fingerprint('good')).toLowerCase();
    const signers = async () =>
      (JSON.parse(await readFile(note, 'utf8')) as { checks: { signer: string }[] }).checks.map(
        ({ signer }) => signer,
      );
    t.deepEqual(await signers(), [fingerprint]);
    for (const damage of [
      () => rm(note),
      () => writeFile(note, ''),
      () => writeFile(note, '[1]'),
    ]) {
      await rm(state.engine.paths.images, { recursive: true });
      await damage();
      await built(t, good);
      t.deepEqual(await signers(), [fingerprint]);
    }
  },
);

test.serial('a damaged header in the store is fetched again', async (t) => {
  const directory = await repository('damaged');
  await built(t, await recipe(directory, 'unchecked', UNCHECKED));
  const header = join(await entryOf('damaged'), 'header.rpm');
  const whole = await readFile(header);
  await writeFile(header, whole.subarray(0, 200));
  await built(t, await recipe(directory, 'good', checkedBy('good')));
  t.deepEqual(await readFile(join(await entryOf('damaged'), 'header.rpm')), whole);
});

test.serial('a lock pins packages, but the recipe says which keys to trust', async (t) => {
  const directory = await repository('locked');
  const path = await recipe(directory, 'lock', UNCHECKED);
  t.is((await state.kiln(['image', 'lock', path])).exitCode, 0);
  const unchecked = await built(t, path);
  const text = await readFile(path, 'utf8');
  await writeFile(path, text.replace(UNCHECKED, checkedBy('other')));
  await refused(t, path, NOT_TRUSTED);
  await writeFile(path, text.replace(UNCHECKED, checkedBy('good')));
  t.not(await built(t, path), unchecked);
  // A lock by itself says it too.
  t.is((await state.kiln(['image', 'lock', path])).exitCode, 0);
  const lock = path.replace('.yaml', '.lock.json');
  const locked = await readFile(lock, 'utf8');
  await writeFile(lock, locked.replaceAll(key('good'), key('other')));
  await refused(t, lock, NOT_TRUSTED);
  // Nobody's key is no reason to look away.
  await writeFile(lock, locked.replaceAll(`"${key('good')}"`, ''));
  await refused(t, lock, NOT_TRUSTED);
});

test.serial('an old signature covers the payload, so the whole file is read again', async (t) => {
  const payloadOnly = async (file: string) => {
    await gpg.signPackage(file, 'good', [], ['--rpmv3']);
    const bytes = await readFile(file);
    retag(bytes, 267, 100_267);
    await writeFile(file, bytes);
  };
  const directory = await repository('old', payloadOnly);
  await built(t, await recipe(directory, 'unchecked', UNCHECKED));
  await refused(t, await recipe(directory, 'other', checkedBy('other')), NOT_TRUSTED);
  await built(t, await recipe(directory, 'good', checkedBy('good')));
});

/** Renames a tag of the signature header. */
function retag(bytes: Buffer, from: number, to: number): void {
  const count = bytes.readUInt32BE(96 + 8);
  for (let at = 96 + 16; at < 96 + 16 + count * 16; at += 16) {
    if (bytes.readUInt32BE(at) !== from) continue;
    bytes.writeUInt32BE(to, at);
    return;
  }
  throw new Error(`no tag ${from}`);
}

test.serial('rpm accepts and refuses the same packages, with the same key', async (t) => {
  const database = join(state.directory, 'rpmdb');
  await mkdir(database);
  await execa('rpmkeys', ['--dbpath', database, '--import', key('good')]);
  for (const [name, ok] of [
    ['loose', true],
    ['unsigned', false],
    ['old', true],
  ] as const) {
    const directory = join(state.directory, `rpms-${name}`);
    const [file = ''] = (await readdir(directory)).filter((one) => one.endsWith('.rpm'));
    const level = ['--define', '_pkgverify_level all'];
    const { exitCode, stdout } = await execa(
      'rpmkeys',
      [...level, '--dbpath', database, '-Kv', join(directory, file)],
      { reject: false },
    );
    t.is(exitCode === 0, ok, stdout);
  }
});
