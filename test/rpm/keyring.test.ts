import { createPublicKey, randomBytes } from 'node:crypto';
import { closeSync, copyFileSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { describeKeys } from '../../src/rpm/describe-keys.ts';
import { loadKeyring, TrustedKeyring } from '../../src/rpm/keyring.ts';
import { verifyRsa } from '../../src/rpm/rsa-signature.ts';
import { readSections } from '../../src/rpm/sections.ts';
import { parseSignaturePacket } from '../../src/rpm/signature-packet.ts';
import { SigTag } from '../../src/rpm/tags.ts';
import { rpmkeys } from '../build/signing-keys.ts';
import { GnuPgHome } from '../support/gnupg-home.ts';
import { fixture, keyFile, kiln, scratch } from './fixtures.ts';

/** Keys as plain data, and the signatures that are checked with them: gpg makes both. */

const DAY = 86400;
const at = (date: string) => Date.parse(`${date}T00:00:00Z`) / 1000;

test('plain data say of every time what the library says of it', async (t) => {
  await using gpg = await GnuPgHome.make();
  // Expires, and is extended when it has long expired.
  await gpg.at('2010-01-01', '--quick-gen-key', 'extended', 'rsa2048', 'sign', '1y');
  await gpg.at('2012-03-01', '--quick-set-expire', await gpg.fingerprint('extended'), '2y');
  // A subkey signs, expires, and another one takes its place, which is given up for a third.
  await gpg.at('2010-01-01', '--quick-gen-key', 'subkeys', 'rsa2048', 'cert', 'never');
  const main = await gpg.fingerprint('subkeys');
  await gpg.at('2010-02-01', '--quick-add-key', main, 'rsa2048', 'sign', '6m');
  await gpg.at('2011-02-01', '--quick-add-key', main, 'rsa2048', 'sign', 'never');
  await gpg.at('2012-02-01', '--quick-add-key', main, 'rsa2048', 'encr', 'never');
  await gpg.edit('2013-01-01', main, ['key 2', 'revkey', 'y', '2', '', 'y', 'save']);
  // Has two names, one of which is withdrawn.
  await gpg.at('2010-01-01', '--quick-gen-key', 'renamed', 'rsa2048', 'sign', 'never');
  const renamed = await gpg.fingerprint('renamed');
  await gpg.at('2011-01-01', '--quick-add-uid', renamed, 'new name');
  await gpg.at('2012-01-01', '--quick-revoke-uid', renamed, 'renamed');
  // Stolen: good at no time.
  await gpg.at('2010-01-01', '--quick-gen-key', 'stolen', 'rsa2048', 'sign', 'never');
  const stolen = await gpg.fingerprint('stolen');
  await gpg.edit('2012-01-01', stolen, ['revkey', 'y', '1', '', 'y', 'save']);

  const texts = [await gpg.export()];
  const keys = await describeKeys(texts);
  t.is(keys?.length, 7);
  const days: number[] = [];
  for (let day = at('2009-12-15'); day < at('2015-01-01'); day += 9 * DAY) days.push(day);
  const turns = keys!.flatMap(({ periods }) => periods.map(({ from }) => from));
  const opinions = new Map<string, Set<string>>();
  for (const second of [...days, ...turns.flatMap((from) => [from - 1, from, from + 1])]) {
    if (second < 0) continue;
    const date = new Date(second * 1000);
    // A new one each time: what the library has seen revoked stays so for earlier times, too.
    const library = await loadKeyring(texts);
    for (const key of keys!) {
      const plain = new TrustedKeyring(keys!).find({ ...key, fingerprint: null })!;
      const theirs = library.find(key)!;
      const reason = await theirs.whyInvalid(date);
      t.is(
        await plain.whyInvalid(date),
        reason,
        `${key.signer} ${key.keyId} ${date.toISOString()}`,
      );
      t.deepEqual([plain.signer, plain.rsa], [theirs.signer, theirs.rsa]);
      const said = opinions.get(key.keyId) ?? new Set<string>();
      opinions.set(key.keyId, said.add(reason ?? 'good'));
    }
  }
  // Not all of one opinion: else nothing was compared.
  const good = (name: string) => opinions.get(name.slice(-16).toLowerCase())!;
  t.true(good(await gpg.fingerprint('extended')).has('good'));
  t.true(good(await gpg.fingerprint('extended')).size > 1);
  t.false(good(stolen).has('good'));
  t.true([...opinions.values()].filter((said) => said.size > 1).length >= 5, 'too few change');
});

test('the keys of packages as plain data; null where only the library can use one', async (t) => {
  const read = (name: string) => readFileSync(keyFile(name), 'utf8');
  const [key] = (await describeKeys([read('v4-rsa4096')])) ?? [];
  const { stdout } = await execa('gpg', ['--show-keys', '--with-colons', keyFile('v4-rsa4096')]);
  t.is(key?.fingerprint, /^fpr:+([0-9A-F]+):$/m.exec(stdout)?.[1]?.toLowerCase());
  t.is(key?.signer, /^uid:(?:[^:]*:){8}([^:]+):/m.exec(stdout)?.[1]);
  for (const other of ['v4-ed25519', 'v4-ecdsa-nistp256', 'v6-rsa4k', 'v6-ed25519']) {
    t.is(await describeKeys([read(other)]), null, other);
    t.is(await describeKeys([read('v4-rsa4096'), read(other)]), null, other);
  }
  await t.throwsAsync(describeKeys(['no key']), { code: 'E_KEYRING' });
});

test('a signature whose number is cut off, or longer than it says, is wrong', (t) => {
  const fd = openSync(fixture('v4-signed-rpm-basic-with-rsa4096'), 'r');
  t.teardown(() => closeSync(fd));
  const { signature, header } = readSections(fd);
  const packet = parseSignaturePacket(signature.binary(SigTag.rsaHeader)!);
  const key = createPublicKey({
    key: { kty: 'RSA', n: randomBytes(512).fill(255, 0, 1).toString('base64url'), e: 'AQAB' },
    format: 'jwk',
  }).export({ format: 'jwk' }) as { n: string; e: string };
  const judge = (parameters: Buffer) =>
    verifyRsa({ ...packet, parameters }, key, (use) => use(header.bytes));
  const { parameters } = packet;
  const cut = [0, 1, 2, 100].map((length) => parameters.subarray(0, length));
  for (const wrong of [...cut, Buffer.concat([parameters, Buffer.alloc(1)])]) {
    t.deepEqual(judge(wrong), { status: 'bad', reason: 'its number is cut off, or too long' });
  }
  // By another key.
  t.deepEqual(judge(parameters), { status: 'bad', reason: 'Signed digest did not match' });
});

test('what signs a package is judged as rpm judges it: notations, critical and not', async (t) => {
  const directory = scratch(t);
  await using gpg = await GnuPgHome.make();
  await gpg.run('--quick-gen-key', 'signer', 'rsa2048', 'sign', 'never');
  const key = join(directory, 'key.asc');
  await gpg.run('--armor', '--output', key, '--export', 'signer');
  const verdicts: string[] = [];
  for (const [name, notation] of [
    ['plain', []],
    ['notation', ['--sig-notation', 'made-by@example.org=us']],
    ['critical', ['--sig-notation', '!only-if@example.org=understood']],
  ] as const) {
    const file = join(directory, `${name}.rpm`);
    copyFileSync(fixture('one-epoch'), file);
    await gpg.signPackage(file, 'signer', notation);
    const { stdout } = await kiln('rpm', 'verify', '--json', '--keyring', key, file);
    const { verdict, signatures } = JSON.parse(stdout) as {
      verdict: string;
      signatures: { status: string; reason: string | null }[];
    };
    const theirs = await rpmkeys(directory, file, [key]);
    t.is(verdict === 'trusted', theirs.ok, `${name}: ${theirs.text}`);
    verdicts.push(`${verdict} ${signatures[0]?.status} ${signatures[0]?.reason}`);
  }
  t.deepEqual(verdicts, [
    'trusted ok null',
    'trusted ok null',
    'untrusted unsupported it must not be used without subpacket 20',
  ]);
});
