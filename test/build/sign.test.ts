/** Signing packages, against gpg's keys and rpm's own word about signatures. */

import { hash } from 'node:crypto';
import {
  chmod,
  copyFile,
  mkdir,
  readdir,
  readFile,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { basename, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { defined } from '../../src/defined.ts';
import type { KilnError } from '../../src/errors.ts';
import { below, ownPath } from '../../src/host/files/held.ts';
import type { BuiltPackage } from '../../src/jobs/rpmbuild/outcome/report.ts';
import { packageSigner, signPackages } from '../../src/jobs/rpmbuild/provenance/sign.ts';
import { readRpm } from '../../src/packages/rpm/read.ts';
import type { SigningKeyFiles } from '../../src/packages/rpm/signature/signing-key.ts';
import { temporaryDirectory } from '../repository/rpm-repository.ts';
import { fixture, kiln } from '../rpm/fixtures.ts';
import { buildRpm } from '../rpm/rpm-builder.ts';
import { ownCaller } from '../support/own-caller.ts';
import { damaged, type KeyPair, makeKey, payloadOf, rpmkeys } from './signing-keys.ts';

const OWNER = { uid: 1234, gid: 2345 };

const UNSIGNED = fixture('signed/RPMS-v4-rpm-basic');
const SOURCE = fixture('SRPMS-v4-rpm-basic');
const SIGNED = fixture('v4-signed-rpm-basic-with-ed25519');
const VERSION_6 = fixture('signed/RPMS-v6-rpm-basic');

let keys: Readonly<Record<'rsa2048' | 'ed25519' | 'nistp256', KeyPair>>;
let keyDirectory: string;
const cleaning: (() => Promise<void>)[] = [];
test.before(async () => {
  keyDirectory = await temporaryDirectory({ teardown: (clean) => cleaning.push(clean) });
  keys = {
    rsa2048: await makeKey(keyDirectory, 'rsa2048'),
    ed25519: await makeKey(keyDirectory, 'ed25519', 'a secret'),
    nistp256: await makeKey(keyDirectory, 'nistp256'),
  };
  await writeFile(join(keyDirectory, 'passphrase'), 'a secret\nnot this\n');
});
test.after.always(async () => {
  for (const clean of cleaning) await clean();
});

async function signer(name: keyof typeof keys) {
  const passphraseFile = below(ownPath(keyDirectory), 'passphrase');
  return (await packageSigner(ownCaller, {
    signKey: ownPath(keys[name].secret),
    signPassphraseFile: passphraseFile,
  }))!;
}

/** Copies of packages in a result directory, as a build reports them. */
async function collected(t: ExecutionContext, files: readonly string[]) {
  const directory = join(await temporaryDirectory(t), 'result');
  await mkdir(directory);
  const packages: BuiltPackage[] = [];
  for (const path of files) {
    const file = basename(path);
    await copyFile(path, join(directory, file));
    const bytes = await readFile(path);
    const identity = await readRpm(path);
    const sha256 = hash('sha256', bytes, 'hex');
    packages.push({ file, nevra: file, isSource: false, sha256, size: bytes.length, identity });
  }
  return { directory, packages, owner: OWNER };
}

for (const [name, algorithm] of [
  ['rsa2048', 'RSA'],
  ['ed25519', 'EdDSA'],
  ['nistp256', 'ECDSA'],
] as const) {
  test(`${algorithm}: rpm and kiln accept the signature, and nothing else changes`, async (t) => {
    const { directory, packages, owner } = await collected(t, [UNSIGNED, SOURCE]);
    const file = join(directory, packages[0]!.file);
    await chmod(file, 0o640);
    const signed = await signPackages({
      directory: ownPath(directory),
      owner,
      packages,
      signer: await signer(name),
    });
    const id = keys[name].fingerprint.slice(-16);
    const tag = name === 'rsa2048' ? 'RSAHEADER' : 'DSAHEADER';
    for (const [index, { file, sha256, size }] of signed.entries()) {
      const path = join(directory, file);
      const check = await rpmkeys(directory, path, [keys[name].public]);
      t.true(check.ok, check.text);
      t.regex(
        check.text,
        new RegExp(
          `Header V4 ${algorithm}/SHA\\d+ Signature, key (ID|fingerprint).*${id.slice(-8)}: OK`,
        ),
      );
      const { stdout } = await execa('rpm', [
        ...['-qp', '--dbpath', join(keyDirectory, 'rpmdb'), '--qf', `%{${tag}:pgpsig}`, path],
      ]);
      t.regex(stdout, new RegExp(`^${algorithm}/.*${id}$`));
      const verify = await kiln('rpm', 'verify', '--keyring', keys[name].public, path);
      t.is(verify.exitCode, 0, verify.stderr);
      const original = [UNSIGNED, SOURCE][index]!;
      t.deepEqual(await payloadOf(path), await payloadOf(original));
      const bytes = await readFile(path);
      t.is(sha256, hash('sha256', bytes, 'hex'));
      t.is(size, bytes.length);
    }
    const { uid, gid, mode } = await stat(file);
    t.deepEqual([uid, gid, mode & 0o7777], [OWNER.uid, OWNER.gid, 0o640]);
    t.deepEqual(
      (await readdir(directory)).filter((entry) => !entry.startsWith('rpmdb-')).sort(),
      packages.map((entry) => entry.file).sort(),
    );
  });
}

test('a signed header, signature or payload with one changed byte is not OK', async (t) => {
  const { directory, packages, owner } = await collected(t, [UNSIGNED]);
  await signPackages({
    directory: ownPath(directory),
    owner,
    packages,
    signer: await signer('rsa2048'),
  });
  const bytes = await readFile(join(directory, packages[0]!.file));
  const { stdout } = await execa('rpm', [
    ...['-qp', '--dbpath', join(keyDirectory, 'rpmdb'), '--qf', '%{RSAHEADER}'],
    join(directory, packages[0]!.file),
  ]);
  const places = {
    signature: bytes.indexOf(Buffer.from(stdout, 'hex')) + stdout.length / 2 - 5,
    header: bytes.indexOf('A package for exercising'),
    payload: bytes.length - 1,
  };
  const path = join(directory, 'tampered.rpm');
  for (const [what, at] of Object.entries(places)) {
    t.true(at > 96, what);
    const copy = Buffer.from(bytes);
    copy[at] = copy[at]! ^ 1;
    await writeFile(path, copy);
    t.false((await rpmkeys(directory, path, [keys.rsa2048.public])).ok, what);
  }
});

test('a subkey can sign while the main key is kept elsewhere', async (t) => {
  const { directory, packages, owner } = await collected(t, [UNSIGNED]);
  const key = await makeKey(keyDirectory, 'ed25519', 'a secret', 'rsa2048');
  const passphraseFile = below(ownPath(keyDirectory), 'passphrase');
  const subkey = (await packageSigner(ownCaller, {
    signKey: ownPath(key.secret),
    signPassphraseFile: passphraseFile,
  }))!;
  t.is(subkey.fingerprint, key.fingerprint);
  await signPackages({ directory: ownPath(directory), owner, packages, signer: subkey });
  const path = join(directory, packages[0]!.file);
  const { ok, text } = await rpmkeys(directory, path, [key.public]);
  t.true(ok, text);
  t.regex(text, /Header V4 RSA/);
  t.is((await kiln('rpm', 'verify', '--keyring', key.public, path)).exitCode, 0);
});

test('signing again replaces the signature, whoever made it', async (t) => {
  const { directory, packages, owner } = await collected(t, [SIGNED]);
  const path = join(directory, packages[0]!.file);
  const first = await signPackages({
    directory: ownPath(directory),
    owner,
    packages,
    signer: await signer('rsa2048'),
  });
  t.regex((await rpmkeys(directory, path, [keys.rsa2048.public])).text, /RSA.* OK/);
  const again = {
    directory: ownPath(directory),
    owner,
    packages: first,
    signer: await signer('ed25519'),
  };
  await signPackages(again);
  const { ok, text } = await rpmkeys(directory, path, [keys.ed25519.public]);
  t.true(ok, text);
  t.deepEqual(text.match(/Header V4 \w+/g), ['Header V4 EdDSA']);
  // rpm's own tool can take it away again: the signature header is one that it can work with.
  await execa('rpmsign', ['--delsign', path]);
  t.notRegex((await rpmkeys(directory, path, [])).text, /Signature/);
});

test('rpm 6 packages get their signature where rpm 6 looks for it', async (t) => {
  const { directory, packages, owner } = await collected(t, [VERSION_6]);
  await signPackages({
    directory: ownPath(directory),
    owner,
    packages,
    signer: await signer('ed25519'),
  });
  const path = join(directory, packages[0]!.file);
  const { signatures } = await readRpm(path, {
    depth: 'payload',
    keys: [await readFile(keys.ed25519.public, 'utf8')],
  });
  t.deepEqual(
    signatures.map(({ status, algorithm }) => [status, algorithm.split('/')[0]]),
    [['ok', 'EdDSA']],
  );
  // rpm 4.20 checks the digests only: it does not know the tag. gpg judges the signature itself.
  const check = await rpmkeys(directory, path, [keys.ed25519.public]);
  t.true(check.ok, check.text);
  const bytes = await readFile(path);
  const files = ['key', 'signature', 'header'].map((name) => join(directory, name));
  await execa('gpg', ['--dearmor', '--output', files[0]!, keys.ed25519.public]);
  const { signature, header } = openpgpParts(bytes);
  await writeFile(files[1]!, Buffer.from(signature, 'base64'));
  await writeFile(files[2]!, header);
  const gpgv = ['--keyring', files[0]!, files[1]!, files[2]!];
  t.regex((await execa('gpgv', gpgv)).stderr, /Good signature/);
  await writeFile(files[2]!, Buffer.concat([header, Buffer.of(0)]));
  await t.throwsAsync(execa('gpgv', gpgv));
});

/** The one string of tag 278 and the main header, straight from the bytes. */
function openpgpParts(bytes: Buffer): { signature: string; header: Buffer } {
  const sizeAt = (at: number) => [bytes.readUInt32BE(at + 8), bytes.readUInt32BE(at + 12)] as const;
  const [count, length] = sizeAt(96);
  const store = 96 + 16 + count * 16;
  const start = 96 + Math.ceil((16 + count * 16 + length) / 8) * 8;
  const [tags, size] = sizeAt(start);
  for (let at = 96 + 16; at < store; at += 16) {
    if (bytes.readUInt32BE(at) !== 278) continue;
    const from = store + bytes.readUInt32BE(at + 8);
    const signature = bytes.toString('latin1', from, bytes.indexOf(0, from));
    return { signature, header: bytes.subarray(start, start + 16 + tags * 16 + size) };
  }
  throw new Error('no tag 278');
}

test('only collected packages are signed, and either all or none', async (t) => {
  const { directory, packages, owner } = await collected(t, [UNSIGNED, SOURCE]);
  const [first, second] = packages.map(({ file }) => join(directory, file));
  const before = await readFile(first!);
  const sign = async () =>
    await signPackages({
      directory: ownPath(directory),
      owner,
      packages,
      signer: await signer('rsa2048'),
    });

  await copyFile(SIGNED, second!);
  t.is((await t.throwsAsync<KilnError>(sign()))?.code, 'E_BUILD_OUTPUT');
  await execa('rm', [second!]);
  await symlink(SOURCE, second!);
  t.is((await t.throwsAsync<KilnError>(sign()))?.code, 'E_BUILD_OUTPUT');
  t.deepEqual(await readFile(first!), before);
  t.is((await readdir(directory)).length, 2);
});

test('a package that is damaged or cut is not signed', async (t) => {
  const { directory, packages, owner } = await collected(t, [UNSIGNED]);
  const good = buildRpm({ files: [] });
  const broken = Buffer.from(good);
  broken[good.length - 1] = broken[good.length - 1]! ^ 1;
  for (const [bytes, code] of [
    [broken, 'E_RPM_DIGEST'],
    [good.subarray(0, 150), 'E_RPM_FORMAT'],
  ] as const) {
    const [entry] = packages;
    await writeFile(join(directory, entry!.file), bytes);
    const sha256 = hash('sha256', bytes, 'hex');
    const wanted = { directory: ownPath(directory), owner, packages: [{ ...entry!, sha256 }] };
    const error = await t.throwsAsync<KilnError>(
      signPackages({ ...wanted, signer: await signer('rsa2048') }),
    );
    t.is(error?.code, code);
  }
});

test('a key that cannot sign gives E_SIGN_KEY, with the reason', async (t) => {
  const directory = await temporaryDirectory(t);
  const bad = join(directory, 'bad.asc');
  await writeFile(bad, await damaged(keys.rsa2048.secret));
  const wrong = join(directory, 'wrong');
  await writeFile(wrong, 'another secret\n');
  const locked = keys.ed25519.secret;
  for (const [named, message] of [
    [{ key: join(directory, 'none') }, /cannot be read/],
    [{ key: keys.rsa2048.public }, /not an armored OpenPGP secret key/],
    [{ key: bad }, /not an armored OpenPGP secret key/],
    [{ key: '/etc/passwd' }, /not an armored OpenPGP secret key/],
    [{ key: locked }, /locked with a passphrase/],
    [{ key: locked, passphraseFile: wrong }, /passphrase does not open/],
    [{ key: locked, passphraseFile: join(directory, 'none') }, /passphrase file .* cannot be read/],
  ] as const) {
    const { key, passphraseFile } = Object.fromEntries(
      Object.entries(named).map(([name, path]) => [name, ownPath(path)]),
    ) as unknown as SigningKeyFiles;
    const signing = { signKey: key, ...defined({ signPassphraseFile: passphraseFile }) };
    const error = await t.throwsAsync<KilnError>(
      packageSigner(ownCaller, signing),
      undefined,
      message.source,
    );
    t.is(error?.code, 'E_SIGN_KEY');
    t.regex(error?.message ?? '', message);
  }
});
