import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import { GnuPgHome } from '../support/gnupg-home.ts';
import { MirrorServer } from './mirror-server.ts';
import { lockOf, nevras, repository } from './open.ts';
import { buildPackages, createRepository } from './rpm-repository.ts';

interface Context {
  readonly directory: string;
  readonly rpms: string;
  /** Signs repomd.xml with gpg, as a distribution does. */
  readonly sign: (user: string, ...options: string[]) => Promise<void>;
}
const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-signed-'));
  const rpms = join(directory, 'rpms');
  await buildPackages(rpms, [{ name: 'one' }]);
  await createRepository(rpms);
  const home = join(directory, 'gnupg');
  await execa('install', ['-d', '-m', '0700', home]);
  const gpg = (...options: string[]) =>
    execa('gpg', [
      '--homedir',
      home,
      '--batch',
      '--yes',
      '--pinentry-mode',
      'loopback',
      '--passphrase',
      '',
      ...options,
    ]);
  for (const user of ['good', 'other']) {
    await gpg(
      '--quick-generate-key',
      `${user} <${user}@example.org>`,
      user === 'good' ? 'rsa3072' : 'ed25519',
      'sign',
      'never',
    );
    await gpg('--armor', '--output', join(directory, `${user}.asc`), '--export', user);
  }
  const repomd = join(rpms, 'repodata/repomd.xml');
  const sign = async (user: string, ...options: string[]) => {
    await gpg(
      '--local-user',
      user,
      '--detach-sign',
      ...options,
      '--output',
      `${repomd}.asc`,
      repomd,
    );
  };
  Object.assign(t.context, { directory, rpms, sign });
});

test.after.always(async (t) => {
  await execa('gpgconf', ['--homedir', join(t.context.directory, 'gnupg'), '--kill', 'all'], {
    reject: false,
  });
  await rm(t.context.directory, { recursive: true, force: true });
});

function attempt({ directory, rpms }: Context, cache: string, keys = ['good.asc']) {
  const gpgkey = keys.map((key) => join(directory, key));
  const config = repository({ id: 'signed', directory: rpms, repo_gpgcheck: true, gpgkey });
  return lockOf([config], join(directory, cache), { install: ['one'] });
}

test.serial('a repomd.xml that a trusted key signed is accepted, armored or binary', async (t) => {
  await t.context.sign('good', '--armor');
  t.deepEqual(nevras(await attempt(t.context, 'armored')), ['one-1-1.noarch']);
  await t.context.sign('good');
  t.deepEqual(nevras(await attempt(t.context, 'binary')), ['one-1-1.noarch']);
  await t.context.sign('other', '--armor');
  t.deepEqual(nevras(await attempt(t.context, 'both', ['good.asc', 'other.asc'])), [
    'one-1-1.noarch',
  ]);
});

test.serial('a repomd.xml is refused if unsigned, changed, or signed by another key', async (t) => {
  const refused = async (cache: string, message: RegExp) => {
    const error = await t.throwsAsync<KilnError>(attempt(t.context, cache));
    t.is(error?.code, 'E_REPOSITORY_SIGNATURE');
    t.regex(error?.message ?? '', message);
  };
  await t.context.sign('other', '--armor');
  await refused('other', /key [0-9a-f]{16} is not among the trusted ones/);
  const repomd = join(t.context.rpms, 'repodata/repomd.xml');
  await writeFile(`${repomd}.asc`, 'no signature');
  await refused('none', /repomd\.xml/);
  await t.context.sign('good', '--armor');
  const content = await readFile(repomd, 'utf8');
  await writeFile(repomd, `${content}\n`);
  await refused('changed', /is not signed by a trusted key/);
  await rm(`${repomd}.asc`);
  const error = await t.throwsAsync<KilnError>(attempt(t.context, 'missing'));
  t.is(error?.code, 'E_REPOSITORY_MISSING');
  await writeFile(repomd, content);
});

test.serial('the signature is fetched from the mirror, too', async (t) => {
  const { directory, rpms, sign } = t.context;
  await sign('good', '--armor');
  await using server = await MirrorServer.start(rpms);
  const config = repository({
    id: 'signed',
    baseurl: server.url,
    repo_gpgcheck: true,
    gpgkey: join(directory, 'good.asc'),
  });
  const cache = join(directory, 'remote');
  t.deepEqual(nevras(await lockOf([config], cache, { install: ['one'] })), ['one-1-1.noarch']);
  t.true(server.served().includes('/repodata/repomd.xml.asc'));
});

test.serial(
  'other keys in the same file are other keys, and the signature is checked again',
  async (t) => {
    const { directory, rpms, sign } = t.context;
    await sign('good', '--armor');
    await copyFile(join(directory, 'good.asc'), join(directory, 'changing.asc'));
    await using server = await MirrorServer.start(rpms);
    const sources = [{ directory: rpms }, { baseurl: server.url }];
    const attempt = (source: (typeof sources)[number], cache: string) => {
      const gpgkey = join(directory, 'changing.asc');
      const config = repository({ id: 'signed', ...source, repo_gpgcheck: true, gpgkey });
      return lockOf([config], join(directory, cache), { install: ['one'] });
    };
    for (const [index, source] of sources.entries()) {
      t.deepEqual(nevras(await attempt(source, `changing-${index}`)), ['one-1-1.noarch']);
    }
    await copyFile(join(directory, 'other.asc'), join(directory, 'changing.asc'));
    for (const [index, source] of sources.entries()) {
      const refused = await t.throwsAsync(attempt(source, `changing-${index}`));
      t.is((refused as KilnError).code, 'E_REPOSITORY_SIGNATURE');
    }
  },
);

test.serial('a key that was extended later is accepted, a future signature is not', async (t) => {
  const { directory, rpms } = t.context;
  await using gpg = await GnuPgHome.make();
  await gpg.at('2020-01-01', '--quick-gen-key', 'extended', 'rsa2048', 'sign', '2y');
  const repomd = join(rpms, 'repodata/repomd.xml');
  const detach = ['--armor', '--yes', '--output', `${repomd}.asc`, '--detach-sign', repomd];
  await gpg.at('2020-06-01', ...detach);
  await gpg.at('2021-12-01', '--quick-set-expire', await gpg.fingerprint('extended'), '20y');
  await writeFile(join(directory, 'extended.asc'), await gpg.export());
  const keys = ['extended.asc'];
  t.deepEqual(nevras(await attempt(t.context, 'extended', keys)), ['one-1-1.noarch']);
  await gpg.at('2035-01-01', ...detach);
  const error = await t.throwsAsync<KilnError>(attempt(t.context, 'future', keys));
  t.is(error?.code, 'E_REPOSITORY_SIGNATURE');
  t.regex(error?.message ?? '', /not alive/);
});

test.serial('a file with two signatures needs only one of a trusted key', async (t) => {
  const { rpms, sign } = t.context;
  const asc = join(rpms, 'repodata/repomd.xml.asc');
  await sign('other');
  const other = await readFile(asc);
  await sign('good');
  await writeFile(asc, Buffer.concat([other, await readFile(asc)]));
  t.deepEqual(nevras(await attempt(t.context, 'two')), ['one-1-1.noarch']);
});

test.serial('a signature that kills its reader is reported with repository and file', async (t) => {
  const { rpms, sign } = t.context;
  const asc = join(rpms, 'repodata/repomd.xml.asc');
  await sign('good');
  const bytes = await readFile(asc);
  // A fingerprint of the signer (type 33) as of a version 5 key: rpm-sequoia 1.8 panics.
  bytes[bytes.indexOf(Buffer.from([22, 33, 4])) + 2] = 5;
  await writeFile(asc, bytes);
  const error = await t.throwsAsync<KilnError>(attempt(t.context, 'deadly', ['other.asc']));
  t.is(error?.code, 'E_CONFINE_DIED');
  t.regex(error?.message ?? '', /^repository signed: repomd\.xml\.asc: the confined child for /);
});
