/**
 * The recipes for real distributions, against a server that imitates their layout: metalink and
 * mirrorlist, zstd metadata, groups, signed packages. Only host names and keys are exchanged.
 */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import type { Repository, RepositorySource } from '../../src/packages/repository/configuration.ts';
import { fetchPackages } from '../../src/packages/repository/fetch-packages.ts';
import { assertTrusted } from '../../src/packages/rpm/inspect.ts';
import { readRpms } from '../../src/packages/rpm/read.ts';
import { type LoadedImageRecipe, loadImageRecipe } from '../../src/recipe/load-image-recipe.ts';
import { MirrorServer } from './mirror-server.ts';
import { lockOf } from './open.ts';
import { buildPackages, createRepository } from './rpm-repository.ts';

interface Context {
  readonly directory: string;
  readonly server: MirrorServer;
  readonly recipes: readonly LoadedImageRecipe[];
}
const test = anyTest as TestFn<Context>;

const NAMES = [
  ...['fedora-44', 'centos-stream-10', 'almalinux-10', 'rocky-10'],
  'opensuse-tumbleweed',
];
const KEYS = '/usr/share/distribution-gpg-keys/';

test.before(async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-distributions-'));
  const recipes = await Promise.all(NAMES.map(loadRecipe));
  const root = join(directory, 'www');
  const packages = new Set(recipes.flatMap((recipe) => recipe.packages));
  await buildPackages(join(root, 'os/Packages'), [
    ...[...packages].map((name) => ({ name, requires: ['library'] })),
    { name: 'library', arch: 'x86_64' as const },
    { name: 'fedora-release', requires: ['library'] },
  ]);
  await signAll(directory, join(root, 'os/Packages'));
  const comps = join(directory, 'comps.xml');
  await writeFile(
    comps,
    `<comps><group><id>buildsys-build</id><name>Buildsystem building group</name><packagelist>
     <packagereq type="mandatory">bash</packagereq><packagereq type="mandatory">fedora-release</packagereq>
     </packagelist></group></comps>`,
  );
  await createRepository(join(root, 'os'), '--groupfile', comps, '--general-compress-type=zstd');
  const server = await MirrorServer.start(root);
  server.misbehave = (request, response) => {
    const url = new URL(request.url ?? '/', server.url);
    if (url.pathname === '/metalink') response.end(metalink(server.url, url.searchParams));
    else if (url.pathname.startsWith('/mirrorlist')) response.end(`${server.url}os/\n`);
    else return false;
    return true;
  };
  metalinkDigest = createHash('sha256')
    .update(await readFile(join(root, 'os/repodata/repomd.xml')))
    .digest('hex');
  Object.assign(t.context, { directory, server, recipes });
});

test.after.always(async (t) => {
  await t.context.server[Symbol.asyncDispose]();
  await execa('gpgconf', ['--homedir', join(t.context.directory, 'gnupg'), '--kill', 'all'], {
    reject: false,
  });
  await rm(t.context.directory, { recursive: true, force: true });
});

let metalinkDigest = '';

function metalink(url: string, query: URLSearchParams): string {
  if (!query.has('repo') || query.get('arch') !== 'x86_64') return '<html>invalid</html>';
  return `<metalink version="3.0" xmlns="http://www.metalinker.org/" xmlns:mm0="http://fedorahosted.org/mirrormanager">
  <files><file name="repomd.xml"><verification><hash type="sha256">${metalinkDigest}</hash></verification>
  <resources><url protocol="http" preference="100">${url}os/repodata/repomd.xml</url></resources></file></files></metalink>`;
}

function loadRecipe(name: string): Promise<LoadedImageRecipe> {
  const path = join(import.meta.dirname, `../../recipes/images/${name}.yaml`);
  return loadImageRecipe(path, {
    variables: { KILN_STATE: '/state', KILN_FIXTURES: '/fixtures' },
    arch: 'x86_64',
    findByName: () => undefined,
    isTrusted: () => true,
  });
}

async function signAll(directory: string, packages: string): Promise<void> {
  const home = join(directory, 'gnupg');
  await execa('install', ['-d', '-m', '0700', home]);
  const gpg = (...options: string[]) =>
    execa('gpg', [
      '--homedir',
      home,
      '--batch',
      '--pinentry-mode',
      'loopback',
      '--passphrase',
      '',
      ...options,
    ]);
  await gpg('--quick-generate-key', 'Distribution <d@example.org>', 'rsa2048', 'sign', 'never');
  await gpg('--armor', '--output', join(directory, 'key.asc'), '--export');
  const files = (await readdir(packages)).map((name) => join(packages, name));
  await execa(
    'rpmsign',
    [
      ...[
        '--define',
        '_gpg_name Distribution',
        '--define',
        `_gpg_path ${home}`,
        '--define',
        '__gpg /usr/bin/gpg',
      ],
      '--addsign',
      ...files,
    ],
    { env: { GNUPGHOME: home } },
  );
}

/** The same repository on the loopback server. */
function moved(repository: Repository, server: string, key: string): Repository {
  const move = (url: string) => {
    const { pathname, search } = new URL(url);
    return `${server}${pathname.slice(1)}${search}`;
  };
  const { source } = repository;
  const there: RepositorySource =
    source.kind === 'baseurl'
      ? { kind: 'baseurl', urls: [`${server}os/`] }
      : source.kind === 'directory'
        ? source
        : { kind: source.kind, url: move(source.url) };
  return { ...repository, source: there, gpgkey: [key] };
}

for (const [index, name] of NAMES.entries()) {
  test.serial(`${name}: signed, from real mirrors, with keys of ${KEYS}`, (t) => {
    const recipe = t.context.recipes[index];
    for (const { source, gpgcheck, gpgkey } of recipe?.repositories ?? []) {
      const urls =
        source.kind === 'baseurl' ? source.urls : source.kind === 'directory' ? [] : [source.url];
      t.true(
        urls.length > 0 && urls.every((url) => url.startsWith('https://') && !url.includes('$')),
      );
      t.true(gpgcheck);
      t.true(gpgkey.length > 0 && gpgkey.every((path) => path.startsWith(KEYS)));
    }
    t.true((recipe?.repositories.length ?? 0) > 0);
  });

  test.serial(`${name}: locked and fetched from a server of that layout`, async (t) => {
    const { directory, server, recipes } = t.context;
    const recipe = recipes[index];
    const key = join(directory, 'key.asc');
    const repositories = (recipe?.repositories ?? []).map((one) => moved(one, server.url, key));
    const install = [
      ...(recipe?.packages ?? []),
      ...(recipe?.groups ?? []).map((group) => `@${group}`),
    ];
    const cache = join(directory, 'cache', name);
    await mkdir(cache, { recursive: true });
    const lock = await lockOf(repositories, cache, { install });
    const names = lock.packages.map((entry) => entry.name);
    t.true(
      names.includes('library') && names.includes('bash') !== (name === 'opensuse-tumbleweed'),
    );
    t.is(names[0], 'library');
    const files = await fetchPackages(lock, { paths: { cache } });
    const keys = [await readFile(key, 'utf8')];
    let trusted = 0;
    for await (const result of readRpms([...files.values()], { keys, depth: 'all' })) {
      if (result.error !== undefined) throw result.error;
      t.notThrows(() => assertTrusted(result.package, 'require'));
      trusted++;
    }
    t.is(trusted, lock.packages.length);
  });
}
