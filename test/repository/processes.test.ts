import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { cp, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { isLong } from '../support/long.ts';
import { MirrorServer } from './mirror-server.ts';
import { lockOf, repository } from './open.ts';
import { buildPackages, createRepository, temporaryDirectory } from './rpm-repository.ts';

const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url).href);

/** A kiln of its own: opens, solves, fetches, and prints the lock. */
const PROGRAM = `
  import { openRepositories } from ${source('packages/repository/open.ts')};
  import { fetchPackages } from ${source('packages/repository/fetch-packages.ts')};
  import { solve } from ${source('packages/solver/solve.ts')};
  const [repository, cache, name] = process.argv.slice(1);
  const paths = { cache };
  const set = await openRepositories([JSON.parse(repository)], { paths, refresh: 'always' });
  const { lock } = await solve(set, { arch: 'x86_64', install: [name] });
  const files = await fetchPackages(lock, { paths });
  process.stdout.write(JSON.stringify(lock));`;

const BUNDLED = [
  '--import',
  new URL('../../scripts/testing/bundled-programs.ts', import.meta.url).href,
];

function start(url: string, cache: string, name: string): ChildProcess {
  const config = repository({ id: 'shared', baseurl: url, gpgcheck: false });
  const args = [
    ...BUNDLED,
    '--input-type=module',
    '-e',
    PROGRAM,
    JSON.stringify(config),
    cache,
    name,
  ];
  return spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
}

async function result(child: ChildProcess): Promise<string> {
  let output = '';
  let errors = '';
  child.stdout?.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    errors += chunk;
  });
  const [code] = await once(child, 'close');
  if (code !== 0) throw new Error(errors);
  return output;
}

test.serial('processes that share a cache fetch each file once, and agree', async (t) => {
  const directory = await temporaryDirectory(t);
  const root = join(directory, 'www');
  await buildPackages(root, [{ name: 'one', requires: ['two'] }, { name: 'two' }]);
  await createRepository(root);
  await using server = await MirrorServer.start(root);
  const cache = join(directory, 'cache');
  const children = Array.from({ length: 4 }, () => start(server.url, cache, 'one'));
  const locks = await Promise.all(children.map(result));
  t.is(new Set(locks).size, 1);
  const bodies = server.served().filter((path) => !path.endsWith('repomd.xml'));
  t.is(bodies.length, new Set(bodies).size, bodies.join(' '));
  t.is(bodies.filter((path) => path.endsWith('.rpm')).length, 2);
  t.deepEqual(await readdir(join(cache, 'partial')), []);
});

test.serial('after kill -9 in the middle of a download, the next run resumes it', async (t) => {
  const directory = await temporaryDirectory(t);
  const root = join(directory, 'www');
  const noise = randomBytes(600_000).toString('base64').replaceAll('\n', '');
  await buildPackages(root, [{ name: 'big', files: { '/usr/share/seed': 'x' } }]);
  // Not a real package any more, which only its reader would mind: long enough to be cut.
  const rpm = join(root, 'big-1-1.noarch.rpm');
  await createRepository(root);
  const content = Buffer.concat([await readFile(rpm), Buffer.from(noise)]);
  const cache = join(directory, 'cache');
  await mkdir(join(root, 'repo'));
  const lock = await lockOf([repository({ id: 'shared', directory: root })], cache, {
    install: ['big'],
  });
  await writeFile(rpm, content);
  const { stdout } = await execa('sha256sum', [rpm]);
  const sha256 = stdout.slice(0, 64);
  await using server = await MirrorServer.start(root);
  const [entry] = lock.packages;
  const changed = JSON.stringify({
    ...lock,
    repositories: [
      {
        id: 'shared',
        source: { kind: 'baseurl', urls: [server.url] },
        gpgcheck: false,
        gpgkey: [],
      },
    ],
    packages: [{ ...entry!, digest: `sha256:${sha256}`, size: content.length }],
  });
  const program = `
    import { fetchPackages } from ${source('packages/repository/fetch-packages.ts')};
    const files = await fetchPackages(JSON.parse(process.argv[1]), { paths: { cache: process.argv[2] } });
    process.stdout.write([...files.values()].join());`;
  const run = () =>
    spawn(process.execPath, ['--input-type=module', '-e', program, changed, cache], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });

  server.misbehave = (_, response) => {
    response.writeHead(200, { 'content-length': content.length });
    response.write(content.subarray(0, 500_000));
    return true;
  };
  const victim = run();
  const partial = join(cache, 'partial', `sha256-${sha256}`);
  while ((await stat(partial).catch(() => ({ size: 0 }))).size < 500_000) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  victim.kill('SIGKILL');
  await once(victim, 'close');
  const objects = await readdir(join(cache, 'objects'), { recursive: true }).catch(() => []);
  t.false(objects.some((name) => name.endsWith(sha256)));

  server.misbehave = () => false;
  const path = await result(run());
  t.is(server.requests.at(-1)?.headers.range, 'bytes=500000-');
  t.true((await readFile(path)).equals(content));
  t.deepEqual(await readdir(join(cache, 'partial')), []);
});

test.serial('kill -9 while metadata is read leaves nothing half made', async (t) => {
  const directory = await temporaryDirectory(t);
  const root = join(directory, 'www');
  await buildPackages(root, [{ name: 'one' }]);
  await createRepository(root);
  await using server = await MirrorServer.start(root);
  for (const moment of isLong ? [60, 150, 300, 500, 800] : [60, 150, 400]) {
    const cache = join(directory, `cache-${moment}`);
    const victim = start(server.url, cache, 'one');
    await new Promise((resolve) => setTimeout(resolve, moment));
    victim.kill('SIGKILL');
    await once(victim, 'close');
    t.regex(await result(start(server.url, cache, 'one')), /"nevra":"one-1-1\.noarch"/);
  }
});

test.serial('a full disk is reported as such', async (t) => {
  const directory = await temporaryDirectory(t);
  const root = join(directory, 'www');
  await buildPackages(root, [{ name: 'one' }]);
  await createRepository(root);
  await writeFile(join(root, 'one-1-1.noarch.rpm'), '');
  await using server = await MirrorServer.start(root);
  const small = join(directory, 'small');
  await mkdir(small);
  await execa('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small]);
  t.teardown(() => execa('umount', [small]).then(() => undefined));
  const lock = await lockOf(
    [repository({ id: 'shared', directory: root })],
    join(directory, 'cache'),
    {
      install: ['one'],
    },
  );
  const content = randomBytes(500_000);
  await cp('/dev/null', join(root, 'big.rpm'));
  await writeFile(join(root, 'big.rpm'), content);
  const { stdout } = await execa('sha256sum', [join(root, 'big.rpm')]);
  lock.repositories[0]!.source = { kind: 'baseurl', urls: [server.url] };
  Object.assign(lock.packages[0]!, {
    digest: `sha256:${stdout.slice(0, 64)}`,
    size: content.length,
    location: 'big.rpm',
  });
  const { fetchPackages } = await import('../../src/packages/repository/fetch-packages.ts');
  await t.throwsAsync(fetchPackages(lock, { paths: { cache: small } }), {
    code: 'E_CACHE_WRITE',
    message: /ENOSPC/,
  });
});
