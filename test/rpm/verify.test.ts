import { createHash } from 'node:crypto';
import { copyFileSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { fixture, keyFile, kiln, packages, put, scratch } from './fixtures.ts';

interface Verified {
  readonly verdict: string;
  readonly faults: readonly string[];
  readonly error?: { readonly code: string; readonly message: string };
  readonly signatures: readonly { keyId: string; status: string; algorithm: string }[];
  readonly digests: readonly { scope: string; algorithm: string; status: string }[];
}

async function verify(files: readonly string[], ...keys: readonly string[]) {
  const options = keys.flatMap((key) => ['--keyring', keyFile(key)]);
  const { stdout, exitCode } = await kiln('rpm', 'verify', '--json', ...options, ...files);
  return { exitCode, results: stdout.split('\n').map((line) => JSON.parse(line) as Verified) };
}

const RSA = fixture('v4-signed-rpm-basic-with-rsa4096');

test('the status is 0 for a trusted package, and 1 for an unknown key or none', async (t) => {
  t.is((await verify([RSA], 'v4-rsa4096')).exitCode, 0);
  t.is((await verify([RSA], 'v4-ed25519')).exitCode, 1);
  t.is((await verify([RSA])).exitCode, 1);
  t.is((await verify([fixture('one-epoch')], 'v4-rsa4096')).exitCode, 1);
});

test('every kind of key is verified: RSA, Ed25519, ECDSA, version 6', async (t) => {
  const signed = packages.filter((path) => basename(path).includes('-signed-'));
  const keys = ['v4-rsa4096', 'v4-ed25519', 'v4-ecdsa-nistp256', 'v6-ed25519', 'v6-rsa4k'];
  const { results } = await verify(signed, ...keys, 'v6-mldsa65-ed25519');
  for (const [i, path] of signed.entries()) {
    // rpm has no post-quantum algorithm here: said so, not guessed.
    const known = !path.includes('mldsa');
    const { signatures, verdict } = results[i]!;
    t.deepEqual(
      [...new Set(signatures.map(({ status }) => status))],
      [known ? 'ok' : 'unsupported'],
      path,
    );
    t.is(verdict, known ? 'trusted' : 'untrusted', path);
  }
});

test('signatures and digests of version 4 packages are judged as by rpmkeys', async (t) => {
  const database = scratch(t);
  const keys = ['v4-rsa4096', 'v4-ed25519'];
  for (const key of keys) await execa('rpmkeys', ['--dbpath', database, '--import', keyFile(key)]);
  const signed = packages.filter((path) => /RPMS-v4-signed/.test(path));
  const { results } = await verify(signed, ...keys);
  for (const [i, path] of signed.entries()) {
    const check = execa('rpmkeys', ['--dbpath', database, '-Kv', path as string], {
      reject: false,
      env: { LC_ALL: 'C' },
    });
    const lines = (await check).stdout.split('\n');
    const theirs = lines.flatMap((line) => {
      const match = /Header V4 (\S+) Signature, key ID (\S+): (\w+)/.exec(line);
      return match === null ? [] : [`${match[1]} ${match[2]} ${match[3]?.toLowerCase()}`];
    });
    // rpm knows one signature a tag and shows those; kiln shows also what tag 278 holds.
    const ours = results[i]!.signatures.map(
      ({ algorithm, keyId, status }) => `${algorithm} ${keyId.slice(-8)} ${status}`,
    );
    t.true(theirs.length > 0, path);
    for (const line of theirs) t.true(ours.includes(line), `${path}: ${line} / ${ours}`);
    t.false(lines.some((line) => /digest: (?!OK)/.test(line)));
  }
});

test('the status is 2 if a byte of signature, digest, header or payload differs', async (t) => {
  const directory = scratch(t);
  const bytes = readFileSync(RSA);
  const { headerStart } = layout(bytes);
  const digest = createHash('sha256').update(bytes.subarray(headerStart, headerEnd(bytes)));
  const places = {
    digest: bytes.indexOf(digest.digest('hex')),
    // The end of the 512 bytes of an RSA signature with 4096 bits.
    signature: dataOf(bytes, 268) + 500,
    header: bytes.indexOf('A package for exercising'),
    payload: bytes.length - 1,
  };
  for (const [what, at] of Object.entries(places)) {
    const copy = Buffer.from(bytes);
    copy[at] = copy[at]! ^ 1;
    const { exitCode, results } = await verify([put(directory, what, copy)], 'v4-rsa4096');
    t.is(exitCode, 2, what);
    t.is(results[0]?.verdict, 'broken', what);
    t.true((results[0]?.faults?.length ?? 0) > 0 || results[0]?.error !== undefined, what);
  }
});

test('the status is 2 for another package’s signature, with the key and the reason', async (t) => {
  const directory = scratch(t);
  const other = readFileSync(RSA);
  const unsigned = readFileSync(fixture('signed/RPMS-v4-rpm-basic'));
  // Both have the same size: the signature header of one, the header and payload of the other,
  // with one letter of the summary changed and the header digests gone.
  const { headerStart } = layout(other);
  const mixed = Buffer.concat([other.subarray(0, headerStart), unsigned.subarray(headerStart)]);
  const at = mixed.indexOf('A package for exercising', headerStart);
  mixed[at] = 'a'.charCodeAt(0);
  for (const tag of [269, 273]) retag(mixed, tag);
  const { exitCode, results } = await verify([put(directory, 'mixed.rpm', mixed)], 'v4-rsa4096');
  t.is(exitCode, 2);
  t.is(results[0]!.verdict, 'broken');
  t.is(results[0]!.signatures[0]!.status, 'bad');
  t.regex(results[0]!.faults.join('\n'), /e964f9fb30d073b5.* wrong/);
});

/** Where the main header begins. */
function layout(bytes: Buffer): { headerStart: number } {
  const size = 16 + bytes.readUInt32BE(96 + 8) * 16 + bytes.readUInt32BE(96 + 12);
  return { headerStart: 96 + Math.ceil(size / 8) * 8 };
}

function headerEnd(bytes: Buffer): number {
  const { headerStart } = layout(bytes);
  const index = bytes.readUInt32BE(headerStart + 8) * 16;
  return headerStart + 16 + index + bytes.readUInt32BE(headerStart + 12);
}

/** Where the data of a tag of the signature header is. */
function dataOf(bytes: Buffer, tag: number): number {
  const count = bytes.readUInt32BE(96 + 8);
  const store = 96 + 16 + count * 16;
  for (let at = 96 + 16; at < store; at += 16) {
    if (bytes.readUInt32BE(at) === tag) return store + bytes.readUInt32BE(at + 8);
  }
  throw new Error(`no tag ${tag}`);
}

/** Renames a tag of the signature header to one that nobody reads. */
function retag(bytes: Buffer, tag: number): void {
  const count = bytes.readUInt32BE(96 + 8);
  for (let at = 96 + 16; at < 96 + 16 + count * 16; at += 16) {
    if (bytes.readUInt32BE(at) === tag) bytes.writeUInt32BE(tag + 100000, at);
  }
}

test('the status is 2 for a package that is cut anywhere', async (t) => {
  const directory = scratch(t);
  const bytes = readFileSync(fixture('payload-test-0.1-w3.zstdio'));
  const lengths = [0, 1, 95, 96, 111, 112, 500, bytes.length - 1];
  for (let at = 1000; at < bytes.length; at += 700) lengths.push(at);
  const files = lengths.map((length) =>
    put(directory, `cut-${length}.rpm`, bytes.subarray(0, length)),
  );
  const { exitCode, results } = await verify(files);
  t.is(exitCode, 2);
  t.deepEqual([...new Set(results.map(({ verdict }) => verdict))], ['broken']);
});

test('kiln rpm verify prints a line for each file, and exits with the highest status', async (t) => {
  const directory = scratch(t);
  copyFileSync(RSA, join(directory, 'good.rpm'));
  const broken = put(directory, 'broken.rpm', Buffer.from('no package'));
  const { stdout, stderr, exitCode } = await kiln(
    ...['rpm', 'verify', '--keyring', keyFile('v4-rsa4096')],
    ...[join(directory, 'good.rpm'), fixture('one-epoch'), broken],
  );
  t.is(exitCode, 2);
  t.regex(stdout, /good\.rpm +trusted .*\n.*one-epoch.* +untrusted .*\n.*broken\.rpm +broken/);
  t.regex(stderr, /broken\.rpm: it is not an RPM package/);
});

test('an invalid keyring gives an error of its own', async (t) => {
  const { exitCode, stderr } = await kiln('rpm', 'verify', '--keyring', '/etc/passwd', RSA);
  t.is(exitCode, 125);
  t.regex(stderr, /no armored public key/);
});
