/** Signatures are judged as rpm judges them: gpg makes keys and signatures, rpmkeys is the oracle. */
import { closeSync, copyFileSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import { inspect } from '../../src/packages/rpm/inspect.ts';
import { Keyring } from '../../src/packages/rpm/signature/keyring.ts';
import { loadLibrpmio } from '../../src/packages/rpm/signature/librpmio.ts';
import { GnuPgHome } from '../support/gnupg-home.ts';
import { fixture, keyFile, kiln, put, scratch } from './fixtures.ts';

const KILN = join(import.meta.dirname, '../../bin/kiln');

const test = anyTest as TestFn<{ readonly gpg: GnuPgHome }>;

test.before(async (t) => {
  Object.assign(t.context, { gpg: await GnuPgHome.make() });
});
test.after.always((t) => t.context.gpg[Symbol.asyncDispose]());

interface Judged {
  readonly verdict: string;
  readonly signatures: readonly {
    readonly status: string;
    readonly reason: string | null;
    readonly keyId: string;
    readonly fingerprint: string | null;
  }[];
}

/** What `kiln rpm verify` says of a package. */
async function ours(file: string, key?: string): Promise<Judged> {
  const keyring = key === undefined ? [] : ['--keyring', key];
  const { stdout } = await kiln('rpm', 'verify', '--json', ...keyring, file);
  return JSON.parse(stdout) as Judged;
}

/**
 * What `rpmkeys -Kv` says of the signature over the header. The key lies in a folder: rpm does not
 * import one that has expired, but it uses one that expired after it was imported.
 */
async function theirs(
  directory: string,
  file: string,
  key?: string,
  env: NodeJS.ProcessEnv = {},
): Promise<string> {
  const folder = join(directory, `keys-${Math.random().toString(36).slice(2)}`);
  mkdirSync(folder);
  if (key !== undefined) copyFileSync(key, join(folder, 'one.key'));
  const define = ['--define', '_keyring fs', '--define', `_keyringpath ${folder}`];
  const { stdout } = await execa(
    'rpmkeys',
    [...define, '--dbpath', join(folder, 'db'), '-Kv', file],
    {
      reject: false,
      env: { ...env, LC_ALL: 'C' },
    },
  );
  const line = /^ *Header .*signature.*: (OK|BAD|NOKEY|NOTTRUSTED)\b/im.exec(stdout);
  if (line === null) throw new Error(`rpmkeys says nothing of a signature:\n${stdout}`);
  return line[1]!;
}

/** rpm's word for what kiln says. */
const RPM_WORDS: Readonly<Record<string, readonly string[]>> = {
  ok: ['OK'],
  nokey: ['NOKEY'],
  bad: ['BAD', 'NOTTRUSTED'],
  unsupported: ['BAD', 'NOTTRUSTED'],
};

/** Holds kiln's verdict on a package against rpm's. */
async function compare(
  t: ExecutionContext<unknown>,
  directory: string,
  file: string,
  key: string | undefined,
  expected: string,
  reason?: RegExp,
): Promise<Judged> {
  const judged = await ours(file, key);
  const [signature] = judged.signatures;
  const about = `${file}: ${JSON.stringify(judged)}`;
  t.is(judged.signatures.length, 1, about);
  t.is(signature?.status, expected, about);
  if (reason !== undefined) t.regex(signature?.reason ?? '', reason);
  const word = await theirs(directory, file, key);
  t.true(RPM_WORDS[expected]?.includes(word), `rpm says ${word}; ${about}`);
  t.is(judged.verdict === 'trusted', word === 'OK', about);
  return judged;
}

function copyOf(directory: string, name: string): string {
  const file = join(directory, `${name}.rpm`);
  copyFileSync(fixture('one-epoch'), file);
  return file;
}

async function exported(gpg: GnuPgHome, directory: string, name: string): Promise<string> {
  const path = join(directory, `${name}.asc`);
  await gpg.run('--armor', '--yes', '--output', path, '--export', `=${name}`);
  return path;
}

const clock = (day: string) => ['--faked-system-time', `${day.replaceAll('-', '')}T000000!`];

test.serial('a key whose validity was extended replaces its older self-signature', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.at('2020-01-01', '--quick-gen-key', 'extended', 'ed25519', 'sign', '2y');
  const file = copyOf(directory, 'extended');
  await gpg.signPackage(file, 'extended', clock('2020-06-01'));
  await gpg.at('2021-12-01', '--quick-set-expire', await gpg.fingerprint('extended'), '20y');
  // As distributions publish theirs: only the newest self-signature is left.
  const key = join(directory, 'key.asc');
  const clean = ['--export-options', 'export-minimal'];
  await gpg.run('--armor', ...clean, '--output', key, '--export', '=extended');
  const { signatures } = await compare(t, directory, file, key, 'ok');
  t.is(signatures[0]?.fingerprint, (await gpg.fingerprint('extended')).toLowerCase());
});

test.serial('a signature made before its key expired is valid, a later one is not', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.at('2020-01-01', '--quick-gen-key', 'expired', 'ed25519', 'sign', '1y');
  const before = copyOf(directory, 'before');
  await gpg.signPackage(before, 'expired', clock('2020-06-01'));
  const key = await exported(gpg, directory, 'expired');
  const after = copyOf(directory, 'after');
  await gpg.at('2021-06-01', '--quick-set-expire', await gpg.fingerprint('expired'), '3y');
  await gpg.signPackage(after, 'expired', clock('2022-06-01'));
  await compare(t, directory, before, key, 'ok');
  // Of the extension this key file knows nothing.
  await compare(t, directory, after, key, 'bad', /not alive/);
  // Both files together: one has the older self-signature, one the newer.
  const extended = await exported(gpg, scratch(t), 'expired');
  const ring = join(directory, 'ring.asc');
  writeFileSync(ring, `${readFileSync(key, 'utf8')}\n${readFileSync(extended, 'utf8')}`);
  for (const file of [before, after]) t.is((await ours(file, ring)).verdict, 'trusted', file);
});

/** What gpg makes of several copies of one key: the second opinion about a merged one. */
async function mergedByGpg(t: ExecutionContext<unknown>, copies: readonly string[]) {
  await using other = await GnuPgHome.make();
  for (const copy of copies) await other.run('--import', copy);
  const path = join(scratch(t), 'merged.asc');
  await other.run('--armor', '--output', path, '--export');
  return path;
}

test.serial('an older copy of a key does not outvote a newer one', async (t) => {
  const { gpg } = t.context;
  const make = async (name: string) => {
    await gpg.at('2020-01-01', '--quick-gen-key', name, 'ed25519', 'sign', 'never');
    const directory = scratch(t);
    const [early, late] = ['early', 'late'].map((it) => copyOf(directory, it));
    await gpg.signPackage(early!, name, clock('2020-06-01'));
    await gpg.signPackage(late!, name, clock('2022-06-01'));
    return { files: [early!, late!], older: await exported(gpg, directory, name) };
  };
  const revoke = async (name: string, reason: string) => {
    const typed = ['revkey', 'y', reason, '', 'y', 'save'];
    await gpg.edit('2021-06-01', name, typed);
    return await exported(gpg, scratch(t), name);
  };
  const expire = async (name: string) => {
    await gpg.at('2021-06-01', '--quick-set-expire', await gpg.fingerprint(name), '1d');
    return await exported(gpg, scratch(t), name);
  };
  const changes = {
    'copy-one': () => revoke('copy-one', '1'),
    'copy-two': () => revoke('copy-two', '3'),
    'copy-three': () => expire('copy-three'),
  };
  for (const [name, change] of Object.entries(changes)) {
    const { files, older } = await make(name);
    for (const file of files) t.is((await ours(file, older)).verdict, 'trusted', name);
    const newer = await change();
    const merged = await mergedByGpg(t, [older, newer]);
    const words = await Promise.all(files.map((file) => theirs(scratch(t), file, merged)));
    for (const copies of [
      [older, newer],
      [newer, older],
      [older, newer, older],
    ]) {
      const ring = join(scratch(t), 'ring.asc');
      writeFileSync(ring, copies.map((path) => readFileSync(path, 'utf8')).join('\n'));
      for (const [at, file] of files.entries()) {
        const { verdict, signatures } = await ours(file, ring);
        const word = words[at];
        const about = `${name}, ${file}: rpm says ${word} of the merged key, kiln ${signatures[0]?.reason}`;
        t.is(verdict === 'trusted', word === 'OK', about);
      }
    }
    // Where rpm cannot merge keys, no copy of one that is over is believed.
    const texts = [older, newer].map((path) => readFileSync(path, 'utf8'));
    const keyring = new Keyring({ ...loadLibrpmio(), merge: () => undefined }, texts);
    for (const file of files) {
      const fd = openSync(file, 'r');
      const { signatures } = inspect(fd, { depth: 'header', keyring }, () => ({}));
      closeSync(fd);
      const trusted = (await ours(file, newer)).verdict === 'trusted';
      t.is(signatures[0]?.status === 'ok', trusted, `${name}, ${file}: ${signatures[0]?.reason}`);
    }
  }
});

test.serial(
  'a stolen key verifies nothing, and a retired key verifies what it signed before',
  async (t) => {
    const { gpg } = t.context;
    const directory = scratch(t);
    for (const [name, why] of [
      ['stolen', '1'],
      ['retired', '3'],
    ] as const) {
      await gpg.at('2020-01-01', '--quick-gen-key', name, 'ed25519', 'sign', 'never');
      const file = copyOf(directory, name);
      await gpg.signPackage(file, name, clock('2021-01-01'));
      const late = copyOf(directory, `${name}-late`);
      await gpg.signPackage(late, name, clock('2023-01-01'));
      const lines = ['revkey', 'y', why, '', 'y', 'save'];
      await gpg.edit('2022-01-01', await gpg.fingerprint(name), lines);
      const key = await exported(gpg, directory, name);
      await compare(t, directory, file, key, why === '1' ? 'bad' : 'ok');
      await compare(t, directory, late, key, 'bad', /revoked/);
    }
  },
);

test.serial('a subkey can sign, unless it is revoked or meant for other things', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.at('2020-01-01', '--quick-gen-key', 'subkeys', 'rsa2048', 'cert', 'never');
  const main = await gpg.fingerprint('subkeys');
  await gpg.at('2020-02-01', '--quick-add-key', main, 'ed25519', 'sign', 'never');
  const file = copyOf(directory, 'subkey');
  await gpg.signPackage(file, 'subkeys', clock('2020-06-01'));
  const good = await exported(gpg, directory, 'subkeys');
  const { signatures } = await compare(t, directory, file, good, 'ok');
  t.is(signatures[0]?.fingerprint, main.toLowerCase());
  t.not(signatures[0]?.keyId, main.slice(-16).toLowerCase());
  await gpg.edit('2021-01-01', main, ['key 1', 'revkey', 'y', '1', '', 'y', 'save']);
  const revoked = await exported(gpg, scratch(t), 'subkeys');
  await compare(t, directory, file, revoked, 'bad', /revoked/);
});

test.serial('a signature from the future is wrong, with its key and without', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.at('2020-01-01', '--quick-gen-key', 'future', 'ed25519', 'sign', 'never');
  const file = copyOf(directory, 'future');
  await gpg.signPackage(file, 'future', clock('2035-01-01'));
  const key = await exported(gpg, directory, 'future');
  await compare(t, directory, file, key, 'bad', /not alive|future/);
  await compare(t, directory, file, undefined, 'bad', /not alive|future/);
});

test.serial('every kind of key that gpg makes is judged as by rpm', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  const kinds: readonly (readonly [string, string, RegExp?])[] = [
    ['rsa1024', 'unsupported', /weak|policy|not considered secure/i],
    ['rsa2048', 'ok'],
    ['rsa4096', 'ok'],
    ['dsa2048', 'ok'],
    ['ed25519', 'ok'],
    ['nistp256', 'ok'],
    ['nistp521', 'ok'],
    ['brainpoolP256r1', 'unsupported', /policy|not supported/i],
  ];
  for (const [kind, expected, reason] of kinds) {
    await gpg.run('--quick-gen-key', `kind ${kind}`, kind, 'sign', 'never');
    const file = copyOf(directory, kind);
    await gpg.signPackage(file, `kind ${kind}`);
    const key = await exported(gpg, directory, `kind ${kind}`);
    await compare(t, directory, file, key, expected, reason);
  }
});

test.serial('MD5 and SHA-1 are too weak, and SHA-224 and longer are not', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.run('--quick-gen-key', 'digests', 'rsa2048', 'sign', 'never');
  const key = await exported(gpg, directory, 'digests');
  for (const [digest, expected] of [
    ['SHA1', 'unsupported'],
    ['SHA224', 'ok'],
    ['SHA512', 'ok'],
  ] as const) {
    const file = copyOf(directory, digest);
    await gpg.signPackage(file, 'digests', ['--digest-algo', digest]);
    await compare(t, directory, file, key, expected);
  }
});

test.serial('notations are judged by whether they are critical', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.run('--quick-gen-key', 'notations', 'ed25519', 'sign', 'never');
  const key = await exported(gpg, directory, 'notations');
  for (const [name, expected, notation] of [
    ['plain', 'ok', []],
    ['notation', 'ok', ['--sig-notation', 'made-by@example.org=us']],
    ['critical', 'unsupported', ['--sig-notation', '!only-if@example.org=understood']],
  ] as const) {
    const file = copyOf(directory, name);
    await gpg.signPackage(file, 'notations', notation);
    await compare(t, directory, file, key, expected);
  }
});

test.serial('a malformed signature is wrong, and never one of an unknown key', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.run('--quick-gen-key', 'malformed', 'rsa2048', 'sign', 'never');
  const key = await exported(gpg, directory, 'malformed');
  const signed = copyOf(directory, 'whole');
  await gpg.signPackage(signed, 'malformed');
  const bytes = readFileSync(signed);
  const at = signatureAt(bytes);
  // Offsets in a version 4 packet with an old header of two bytes of length.
  const changes: Readonly<Record<string, (copy: Buffer) => void>> = {
    'no packet': (copy) => copy.writeUInt8(0, at),
    'another packet': (copy) => copy.writeUInt8(0x99, at),
    'longer than it is': (copy) => copy.writeUInt16BE(0xfff0, at + 1),
    'the subpackets overlap': (copy) => copy.writeUInt16BE(0xff00, at + 7),
    'zeros only': (copy) => copy.fill(0, at, at + 100),
    'another digest': (copy) => copy.writeUInt8(copy[at + 30]! ^ 1, at + 30),
  };
  await compare(t, directory, signed, key, 'ok');
  for (const [what, change] of Object.entries(changes)) {
    const copy = Buffer.from(bytes);
    change(copy);
    const file = put(directory, `${what.replaceAll(' ', '-')}.rpm`, copy);
    for (const ring of [key, undefined]) {
      const judged = await ours(file, ring);
      const word = await theirs(directory, file, ring);
      t.is(word, 'BAD', `${what}: ${JSON.stringify(judged)}`);
      t.is(judged.signatures[0]?.status, 'bad', `${what}: ${JSON.stringify(judged)}`);
      t.is(judged.verdict, 'broken', what);
    }
  }
});

/** Where the packet of tag 268 begins in a package. */
function signatureAt(bytes: Buffer): number {
  const count = bytes.readUInt32BE(96 + 8);
  const store = 96 + 16 + count * 16;
  for (let at = 96 + 16; at < store; at += 16) {
    if (bytes.readUInt32BE(at) === 268) return store + bytes.readUInt32BE(at + 8);
  }
  throw new Error('it is not signed by RSA');
}

test.serial('a key file may have several keys and blocks, not all usable by rpm', async (t) => {
  const { gpg } = t.context;
  const directory = scratch(t);
  await gpg.run('--quick-gen-key', 'last', 'ed25519', 'sign', 'never');
  const file = copyOf(directory, 'several');
  await gpg.signPackage(file, 'last');
  const texts = [keyFile('v4-keyring'), keyFile('v6-mldsa65-ed25519')].map((path) =>
    readFileSync(path, 'utf8'),
  );
  const mine = readFileSync(await exported(gpg, directory, 'last'), 'utf8');
  const ring = join(directory, 'ring.asc');
  writeFileSync(ring, `some words\n${texts.join('\n')}\nmore words\n${mine}`);
  t.is((await ours(file, ring)).verdict, 'trusted');
  writeFileSync(ring, texts.join('\n'));
  t.is((await ours(file, ring)).signatures[0]?.status, 'nokey');
});

test.serial('a damaged key file gives an error of its own', async (t) => {
  const directory = scratch(t);
  const whole = readFileSync(keyFile('v4-rsa4096'), 'utf8');
  const lines = whole.split('\n');
  for (const [name, text] of [
    ['cut', whole.slice(0, 600)],
    ['letters', whole.replace(/^(\S{20})\S/m, '$1!')],
    ['empty', `${lines[0]}\n\n${lines.at(-2)}\n`],
  ] as const) {
    const ring = join(directory, `${name}.asc`);
    writeFileSync(ring, text);
    const file = fixture('v4-signed-rpm-basic-with-rsa4096');
    const { exitCode, stderr } = await kiln('rpm', 'verify', '--keyring', ring, file);
    t.is(exitCode, 125, `${name}: ${stderr}`);
    t.regex(stderr, /key of the keyring is broken/);
  }
});

test.serial(
  'the host’s crypto policy, or else kiln’s, decides about a key self-signed with SHA-1',
  async (t) => {
    const { gpg } = t.context;
    const directory = scratch(t);
    const old = ['--cert-digest-algo', 'SHA1'];
    await gpg.at('2015-01-01', ...old, '--quick-gen-key', 'old', 'rsa2048', 'sign', 'never');
    const file = copyOf(directory, 'old');
    await gpg.signPackage(file, 'old', clock('2026-01-01'));
    const key = await exported(gpg, directory, 'old');
    const weak = copyOf(directory, 'weak');
    await gpg.signPackage(weak, 'old', ['--digest-algo', 'SHA1']);
    t.is((await ours(file, key)).verdict, 'trusted');
    t.is((await ours(weak, key)).signatures[0]?.status, 'unsupported');
    const policy = join(import.meta.dirname, '../../policy/rpm-sequoia.config');
    t.is(await theirs(directory, file, key, { RPM_SEQUOIA_CRYPTO_POLICY: policy }), 'OK');
    t.is(await theirs(directory, weak, key, { RPM_SEQUOIA_CRYPTO_POLICY: policy }), 'NOTTRUSTED');

    // A host that has a policy of its own.
    const strict = join(directory, 'strict.config');
    writeFileSync(strict, '[hash_algorithms]\nsha1.second_preimage_resistance = "never"\n');
    t.is(await theirs(directory, file, key, { RPM_SEQUOIA_CRYPTO_POLICY: strict }), 'NOTTRUSTED');
    const script = `cd ${directory} && mkdir etc && mount -t tmpfs tmpfs etc && mkdir etc/upper etc/inner
    mount -t overlay -o lowerdir=/etc,upperdir=etc/upper,workdir=etc/inner o /etc
    mkdir -p /etc/crypto-policies/back-ends
    cp ${strict} /etc/crypto-policies/back-ends/rpm-sequoia.config
    exec "$@"`;
    const verify = [KILN, 'rpm', 'verify', '--json', '--keyring', key, file];
    const { stdout } = await execa('unshare', ['--mount', 'sh', '-c', script, 'sh', ...verify], {
      reject: false,
      env: { KILN_FROM_SOURCE: '1', KILN_NODE: process.execPath },
    });
    t.is((JSON.parse(stdout) as Judged).signatures[0]?.status, 'unsupported', stdout);
  },
);

test.serial('without librpmio nothing passes, and the missing library is named', async (t) => {
  const file = fixture('v4-signed-rpm-basic-with-rsa4096');
  const library = '$(readlink -f /usr/lib/*/librpmio.so.10 /usr/lib64/librpmio.so.10 | head -n 1)';
  const script = `mount --bind /dev/null ${library} && exec "$@"`;
  const command = [KILN, 'rpm', 'verify', file];
  const { exitCode, stdout, stderr } = await execa(
    'unshare',
    ['--mount', 'sh', '-c', script, 'sh', ...command],
    { reject: false, env: { KILN_FROM_SOURCE: '1', KILN_NODE: process.execPath } },
  );
  t.is(exitCode, 125, stdout);
  t.regex(stderr, /librpmio\.so\.10 cannot be used.*librpmio10.*rpm-libs/s);
});
