/** What keys are good for is remembered by the bundle, for the very texts that were read. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import type { TrustedKey } from '../../src/rpm/keyring.ts';
import { GnuPgHome } from '../support/gnupg-home.ts';
import { debianRepository, type ImageState, imageState } from './image-state.ts';

const BUNDLE = join(import.meta.dirname, '../../dist/kiln.cjs');

let state: ImageState;

test.before(async () => {
  state = await imageState();
});
test.after.always(() => state[Symbol.asyncDispose]());

/** A recipe of one signed package, which is built from its file each time. */
async function builder(name: string) {
  const folder = join(state.directory, name);
  await mkdir(folder);
  const { directory, key } = await debianRepository();
  const keyring = join(folder, 'key.asc');
  await writeFile(keyring, await readFile(key ?? ''));
  await writeFile(
    join(folder, 'image.yaml'),
    `repositories: [{ id: debian, directory: ${directory}, gpgcheck: true, gpgkey: ${keyring} }]
packages: [base-files]
scriptlets: {mode: none}
`,
  );
  const { paths } = state.engine;
  await rm(join(paths.cache, 'keys'), { recursive: true, force: true });
  const trace = join(folder, 'trace.json');
  /** Which children it took, and what it said. */
  const build = async () => {
    await rm(trace, { force: true });
    for (const old of [paths.packages, paths.images]) {
      await rm(old, { recursive: true, force: true });
    }
    const { exitCode, stderr } = await execa(
      process.execPath,
      [BUNDLE, 'image', 'build', 'image.yaml'],
      { env: { ...state.env, KILN_TRACE: trace }, cwd: folder, reject: false },
    );
    const events = readFileSync(trace, 'utf8');
    return {
      exitCode,
      stderr,
      asked: events.includes('confined: rpm-keys'),
      unpacked: events.includes('confined: rpm-unpack'),
    };
  };
  const memories = () =>
    readdirSync(join(paths.cache, 'keys')).map((file) => join(paths.cache, 'keys', file));
  return { keyring, build, memories };
}

test.serial('keys that are known are not read again', async (t) => {
  t.timeout(60_000);
  const { build, memories } = await builder('same');
  const first = await build();
  t.deepEqual([first.exitCode, first.asked, first.unpacked], [0, true, true], first.stderr);
  const second = await build();
  t.deepEqual([second.exitCode, second.asked, second.unpacked], [0, false, true], second.stderr);
  // It is what is believed: a key that is remembered as revoked signs nothing.
  const [memory = '', ...more] = memories();
  t.deepEqual(more, []);
  const text = readFileSync(memory, 'utf8');
  const keys = JSON.parse(text) as TrustedKey[];
  const revoked = keys.map((key) => ({ ...key, periods: [{ from: 0, reason: 'it is revoked' }] }));
  writeFileSync(memory, JSON.stringify(revoked));
  const refused = await build();
  t.is(refused.exitCode, 125);
  t.regex(refused.stderr, /its signature by kiln fixtures .* is wrong: it is revoked/);
  // Damaged, it is nothing.
  for (const damage of ['', text.slice(0, 100), '[{"keyId":1}]']) {
    writeFileSync(memory, damage);
    const again = await build();
    t.deepEqual([again.exitCode, again.asked], [0, true], again.stderr);
    t.is(readFileSync(memory, 'utf8'), text);
  }
});

test.serial('another key in the same file is another key', async (t) => {
  t.timeout(60_000);
  const { keyring, build } = await builder('other');
  t.is((await build()).exitCode, 0);
  await using gpg = await GnuPgHome.make();
  await gpg.run('--quick-gen-key', 'somebody else', 'rsa2048', 'sign', 'never');
  const good = await readFile(keyring, 'utf8');
  await writeFile(keyring, await gpg.export());
  const refused = await build();
  t.is(refused.exitCode, 125);
  t.regex(
    refused.stderr,
    /it is signed by [0-9a-f]{16} \(RSA.*\), not by a key that is trusted here/,
  );
  // Beside one that only the library can use.
  await gpg.run('--quick-gen-key', 'a curve', 'ed25519', 'sign', 'never');
  await writeFile(keyring, `${await gpg.export()}\n${good}`);
  for (const asked of [true, false]) {
    const result = await build();
    t.deepEqual([result.exitCode, result.asked], [0, asked], result.stderr);
  }
});
