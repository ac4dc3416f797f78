import { createHash } from 'node:crypto';
import { cp, mkdtemp, readdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import anyTest, { type ExecutionContext, type TestFn } from 'ava';
import { execa } from 'execa';
import type { KilnError } from '../../src/errors.ts';
import { fetchPackages } from '../../src/packages/repository/fetch-packages.ts';
import { openRepositories } from '../../src/packages/repository/open.ts';
import { MirrorServer } from './mirror-server.ts';
import { impatient, lockOf, nevras, repository } from './open.ts';
import { buildPackages, createRepository, temporaryDirectory } from './rpm-repository.ts';

interface Context {
  /** A repository with zstd metadata. */
  readonly source: string;
}
const test = anyTest as TestFn<Context>;

test.before(async (t) => {
  const source = await mkdtemp(join(tmpdir(), 'kiln-remote-'));
  await buildPackages(join(source, 'Packages/h'), [
    { name: 'hello', requires: ['world'] },
    { name: 'world', files: { '/usr/share/world': 'round' } },
  ]);
  await createRepository(source, '--general-compress-type=zstd');
  Object.assign(t.context, { source });
});

test.after.always((t) => rm(t.context.source, { recursive: true, force: true }));

const EXPECTED = ['hello-1-1.noarch', 'world-1-1.noarch'];

interface Scene extends AsyncDisposable {
  readonly server: MirrorServer;
  readonly cache: string;
  /** The folder the server shows; `good/` is the repository. */
  readonly root: string;
}

async function scene(t: ExecutionContext<Context>): Promise<Scene> {
  const directory = await temporaryDirectory(t);
  const root = join(directory, 'www');
  await cp(t.context.source, join(root, 'good'), { recursive: true });
  const server = await MirrorServer.start(root);
  return {
    server,
    cache: join(directory, 'cache'),
    root,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function sums(path: string): Promise<{ sha256: string; sha512: string; size: number }> {
  const content = await readFile(path);
  const hex = (algorithm: string) => createHash(algorithm).update(content).digest('hex');
  return { sha256: hex('sha256'), sha512: hex('sha512'), size: content.length };
}

/** A metalink as MirrorManager writes it. */
async function metalink(
  it: Scene,
  mirrors: Record<string, number>,
  alternate = '',
): Promise<string> {
  const { sha256, sha512, size } = await sums(join(it.root, 'good/repodata/repomd.xml'));
  const urls = Object.entries(mirrors).map(
    ([path, preference]) =>
      `<url protocol="http" type="http" location="DE" preference="${preference}">${it.server.url}${path}/repodata/repomd.xml</url>`,
  );
  return `<?xml version="1.0" encoding="utf-8"?>
<metalink version="3.0" xmlns="http://www.metalinker.org/" type="dynamic" pubdate="Tue, 24 Nov 2026 10:00:00 GMT" generator="mirrormanager" xmlns:mm0="http://fedorahosted.org/mirrormanager">
 <files>
  <file name="repomd.xml">
   <mm0:timestamp>1763000000</mm0:timestamp>
   <size>${size}</size>
   <verification>
    <hash type="md5">00000000000000000000000000000000</hash>
    <hash type="sha256">${sha256}</hash>
    <hash type="sha512">${sha512}</hash>
   </verification>
   ${alternate}
   <resources maxconnections="1">
    <url protocol="rsync" type="rsync" location="DE" preference="100">rsync://127.0.0.1/repodata/repomd.xml</url>
    ${urls.join('\n    ')}
   </resources>
  </file>
 </files>
</metalink>`;
}

function remote(fields: Partial<Parameters<typeof repository>[0]>) {
  return repository({ id: 'remote', gpgcheck: false, ...fields });
}

test.serial('a baseurl gives zstd metadata and packages, and each is fetched once', async (t) => {
  await using it = await scene(t);
  const config = remote({ baseurl: `${it.server.url}good` });
  const lock = await lockOf([config], it.cache, { install: ['hello'] });
  t.deepEqual(nevras(lock), EXPECTED);
  const files = await fetchPackages(lock, { paths: { cache: it.cache } });
  t.is(files.size, 2);
  const { exitCode } = await execa('rpm', ['-K', '--nosignature', ...files.values()]);
  t.is(exitCode, 0);
  const served = it.server.served().length;
  await lockOf([config], it.cache, { install: ['hello'] });
  await fetchPackages(lock, { paths: { cache: it.cache } });
  t.is(it.server.served().length, served);
  t.false(it.server.served().some((path) => path.includes('filelists')));
});

test.serial('with a lock, no metadata is fetched', async (t) => {
  await using it = await scene(t);
  const lock = await lockOf([remote({ baseurl: `${it.server.url}good` })], it.cache, {
    install: ['hello'],
  });
  const before = it.server.requests.length;
  await fetchPackages(lock, { paths: { cache: join(it.cache, 'other') } });
  const asked = it.server.requests.slice(before).map(({ path }) => path);
  t.is(asked.length, 2);
  t.true(asked.every((path) => path.endsWith('.rpm')));
});

test.serial(
  'preferred mirrors of a metalink come first, and outdated ones are skipped',
  async (t) => {
    await using it = await scene(t);
    await cp(join(it.root, 'good'), join(it.root, 'stale'), { recursive: true });
    const repomd = join(it.root, 'stale/repodata/repomd.xml');
    await writeFile(
      repomd,
      (await readFile(repomd, 'utf8')).replace('</repomd>', '<!-- old -->\n</repomd>'),
    );
    await writeFile(
      join(it.root, 'metalink'),
      await metalink(it, { gone: 100, stale: 99, good: 10 }),
    );
    const config = remote({ metalink: `${it.server.url}metalink?repo=x&arch=$basearch` });
    const lock = await lockOf([config], it.cache, { install: ['hello'] });
    t.deepEqual(nevras(lock), EXPECTED);
    const asked = it.server.requests
      .map(({ path }) => path)
      .filter((path) => path.endsWith('repomd.xml'));
    t.deepEqual(
      asked,
      ['/gone', '/stale', '/good'].map((path) => `${path}/repodata/repomd.xml`),
    );
    t.is((await fetchPackages(lock, { paths: { cache: it.cache } })).size, 2);
  },
);

test.serial('a metalink may allow the repomd.xml before the newest', async (t) => {
  await using it = await scene(t);
  const { sha256 } = await sums(join(it.root, 'good/repodata/repomd.xml'));
  const newest = `<verification><hash type="sha256">${'1'.repeat(64)}</hash></verification>`;
  const text = (await metalink(it, { good: 10 })).replace(
    /<verification>[\s\S]*?<\/verification>/,
    newest,
  );
  const alternate = `<mm0:alternates><mm0:alternate><mm0:timestamp>1</mm0:timestamp>
    <verification><hash type="sha256">${sha256}</hash></verification></mm0:alternate></mm0:alternates>`;
  const config = remote({ metalink: `${it.server.url}metalink` });
  await writeFile(join(it.root, 'metalink'), text);
  const error = await t.throwsAsync<KilnError>(lockOf([config], it.cache, { install: ['hello'] }));
  t.regex(error?.message ?? '', /not one that the metalink names/);
  await writeFile(join(it.root, 'metalink'), text.replace('<resources', `${alternate}<resources`));
  t.deepEqual(nevras(await lockOf([config], it.cache, { install: ['hello'] })), EXPECTED);
});

test.serial('a broken metalink is reported with the name of its repository', async (t) => {
  await using it = await scene(t);
  const config = remote({ metalink: `${it.server.url}metalink` });
  await writeFile(join(it.root, 'metalink'), '<html>no metalink');
  const error = await t.throwsAsync<KilnError>(lockOf([config], it.cache, { install: ['hello'] }));
  t.is(error?.code, 'E_REPOSITORY_METADATA');
  t.true(error?.message.startsWith(`repository ${config.id}: `), error?.message);
  t.is(error?.message.split(`repository ${config.id}`).length, 2, error?.message);
});

test.serial('a mirrorlist may have comments and a dead mirror', async (t) => {
  await using it = await scene(t);
  const list = `# repo = x\nhttp://127.0.0.1:1/\n\nrsync://example.invalid/x\n${it.server.url}good/\n`;
  await writeFile(join(it.root, 'mirrorlist'), list);
  const config = remote({ mirrorlist: `${it.server.url}mirrorlist` });
  const lock = await lockOf([config], it.cache, { install: ['hello'] });
  t.deepEqual(nevras(lock), EXPECTED);
  t.deepEqual(lock.repositories[0]?.source, {
    kind: 'mirrorlist',
    url: `${it.server.url}mirrorlist`,
  });
  await writeFile(join(it.root, 'mirrorlist'), '<html>Invalid release</html>');
  const error = await t.throwsAsync<KilnError>(
    lockOf([config], join(it.cache, 'new'), { install: ['hello'] }),
  );
  t.is(error?.code, 'E_REPOSITORY_METADATA');
  t.regex(error?.message ?? '', /names no http or https mirror/);
});

test.serial('after metadata_expire the server is asked again, and may answer 304', async (t) => {
  await using it = await scene(t);
  const config = remote({ baseurl: `${it.server.url}good`, metadata_expire: 0 });
  await lockOf([config], it.cache, { install: ['hello'] });
  const before = it.server.requests.length;
  await lockOf([config], it.cache, { install: ['hello'] });
  t.deepEqual(
    it.server.requests.slice(before).map(({ path, status }) => [path, status]),
    [['/good/repodata/repomd.xml', 304]],
  );

  await buildPackages(join(it.root, 'good/Packages/h'), [{ name: 'world', version: '2' }]);
  await createRepository(join(it.root, 'good'), '--general-compress-type=xz');
  const repomd = join(it.root, 'good/repodata/repomd.xml');
  await utimes(repomd, new Date(), new Date(Date.now() + 5000));
  t.deepEqual(nevras(await lockOf([config], it.cache, { install: ['hello'] })), [
    'hello-1-1.noarch',
    'world-2-1.noarch',
  ]);
});

test.serial('an unchanged metalink costs one request', async (t) => {
  await using it = await scene(t);
  await writeFile(join(it.root, 'metalink'), await metalink(it, { good: 10 }));
  const config = remote({ metalink: `${it.server.url}metalink`, metadata_expire: 0 });
  await lockOf([config], it.cache, { install: ['hello'] });
  const before = it.server.requests.length;
  await lockOf([config], it.cache, { install: ['hello'] });
  t.deepEqual(
    it.server.requests.slice(before).map(({ path }) => path),
    ['/metalink'],
  );
});

test.serial('offline, cached files are used, and missing ones are errors', async (t) => {
  await using it = await scene(t);
  const config = remote({ baseurl: `${it.server.url}good`, metadata_expire: 0 });
  const never = { refresh: 'never' as const };
  const error = await t.throwsAsync<KilnError>(
    lockOf([config], it.cache, { install: ['hello'] }, never),
  );
  t.is(error?.code, 'E_REPOSITORY_OFFLINE');
  await lockOf([config], it.cache, { install: ['hello'] });
  const before = it.server.requests.length;
  t.deepEqual(nevras(await lockOf([config], it.cache, { install: ['hello'] }, never)), EXPECTED);
  t.is(it.server.requests.length, before);
});

test.serial(
  'a repository published anew between repomd.xml and primary is read again',
  async (t) => {
    await using it = await scene(t);
    const config = remote({ baseurl: `${it.server.url}good` });
    const set = await openRepositories([config], {
      paths: { cache: it.cache },
      transfer: impatient,
    });
    const directory = join(it.root, 'good');
    await rm(join(directory, 'repodata'), { recursive: true });
    await buildPackages(join(directory, 'Packages/h'), [{ name: 'world', version: '3' }]);
    await createRepository(directory);
    const { solve } = await import('../../src/packages/solver/solve.ts');
    const { lock } = await solve(set, { arch: 'x86_64', install: ['hello'] });
    t.true(nevras(lock).includes('world-3-1.noarch'));
  },
);

/** Rewrites primary.xml and what repomd.xml says of it. */
async function changePrimary(it: Scene, change: (xml: string) => string): Promise<void> {
  const repodata = join(it.root, 'good/repodata');
  const [name = ''] = (await readdir(repodata)).filter((entry) => entry.includes('primary.xml'));
  const { stdout } = await execa('zstdcat', [name], { cwd: repodata });
  await writeFile(join(repodata, 'primary.xml'), change(stdout));
  await execa('modifyrepo_c', ['--remove', 'primary', repodata]);
  await execa('modifyrepo_c', ['--mdtype', 'primary', join(repodata, 'primary.xml'), repodata]);
  await rm(join(repodata, 'primary.xml'));
}

test.serial(
  'absolute URLs, a relative xml:base and blanks work, for packages and for metadata',
  async (t) => {
    await using it = await scene(t);
    await changePrimary(it, (xml) =>
      xml
        .replace(
          /<location href="Packages\/h\/hello-1-1/,
          '<location xml:base="Packages/" href="a b/hello 1',
        )
        .replace(/<location href="(Packages\/h\/world)/, `<location href="${it.server.url}good/$1`),
    );
    await cp(join(it.root, 'good/Packages/h'), join(it.root, 'good/Packages/a b'), {
      recursive: true,
    });
    await rename(
      join(it.root, 'good/Packages/a b/hello-1-1.noarch.rpm'),
      join(it.root, 'good/Packages/a b/hello 1.noarch.rpm'),
    );
    const index = join(it.root, 'good/repodata/repomd.xml');
    const text = await readFile(index, 'utf8');
    await writeFile(
      index,
      text.replaceAll('href="repodata/', `href="${it.server.url}good/repodata/`),
    );
    const config = remote({ baseurl: `${it.server.url}good` });
    const lock = await lockOf([config], it.cache, { install: ['hello'] });
    t.deepEqual(nevras(lock), EXPECTED);
    t.is((await fetchPackages(lock, { paths: { cache: it.cache }, transfer: impatient })).size, 2);
    t.true(it.server.served().some((path) => path.includes('a%20b/hello%201')));
  },
);

test.serial('metadata of a remote repository cannot name files of this host', async (t) => {
  await using it = await scene(t);
  await changePrimary(it, (xml) =>
    xml.replace('href="Packages/h/world', 'href="file:///etc/world'),
  );
  const config = remote({ baseurl: `${it.server.url}good` });
  const error = await t.throwsAsync<KilnError>(lockOf([config], it.cache, { install: ['world'] }));
  t.is(error?.code, 'E_REPOSITORY_METADATA');
  t.regex(
    error?.message ?? '',
    /world-1-1\.noarch of repository \w+ is at 'file:.*its repository cannot name files/,
  );
  const index = join(it.root, 'good/repodata/repomd.xml');
  const text = await readFile(index, 'utf8');
  await writeFile(index, text.replaceAll('href="repodata/', 'href="file:///etc/'));
  const other = await t.throwsAsync<KilnError>(
    lockOf([config], join(it.cache, '2'), { install: ['world'] }),
  );
  t.regex(other?.message ?? '', /its repository cannot name files/);
});

const BROKEN: Record<string, { spoil: (xml: string) => string; message: RegExp }> = {
  truncated: { spoil: (xml) => xml.slice(0, xml.length / 2), message: /repomd\.xml is broken/ },
  'no XML': { spoil: () => '\u0000\u0001garbage', message: /repomd\.xml is broken/ },
  empty: { spoil: () => '', message: /repomd\.xml is broken/ },
  'an error page': {
    spoil: () => '<html><body>Not here</body></html>',
    message: /its root is <html>/,
  },
  'entity bomb': {
    spoil: (xml) =>
      xml.replace('<repomd', '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><repomd'),
    message: /document type/,
  },
  'no primary': { spoil: (xml) => xml.replaceAll('"primary"', '"other"'), message: /no primary/ },
  'a path out of the repository': {
    spoil: (xml) => xml.replace(/href="repodata/, 'href="../../repodata'),
    message: /outside the repository/,
  },
  'an absolute path': {
    spoil: (xml) => xml.replace(/href="repodata/, 'href="/etc'),
    message: /outside the repository/,
  },
  'sha1 checksums': {
    spoil: (xml) => xml.replaceAll('"sha256"', '"sha1"'),
    message: /trusts sha256 to sha512 only/,
  },
  'a primary of a terabyte': {
    spoil: (xml) => xml.replace(/<size>\d+/, '<size>1099511627776'),
    message: /the limit is/,
  },
  'a million elements': {
    spoil: (xml) => xml.replace('</repomd>', `${'<data/>'.repeat(200_000)}</repomd>`),
    message: /too many elements/,
  },
};
for (const [title, { spoil, message }] of Object.entries(BROKEN)) {
  test.serial(`a broken repomd.xml is refused: ${title}`, async (t) => {
    await using it = await scene(t);
    const path = join(it.root, 'good/repodata/repomd.xml');
    await writeFile(path, spoil(await readFile(path, 'utf8')));
    const config = remote({ baseurl: `${it.server.url}good` });
    const error = await t.throwsAsync<KilnError>(
      lockOf([config], it.cache, { install: ['hello'] }),
    );
    t.is(error?.code, 'E_REPOSITORY_METADATA');
    t.regex(error?.message ?? '', message);
    t.regex(error?.message ?? '', /^repository remote: /);
    t.deepEqual(await readdir(join(it.cache, 'solv')).catch(() => []), []);
  });
}

test.serial('an endless repomd.xml is not read to its end', async (t) => {
  await using it = await scene(t);
  it.server.misbehave = (_, response) => {
    response.writeHead(200);
    const more = () => {
      while (!response.destroyed && response.write(Buffer.alloc(65_536, 32)));
      response.once('drain', more);
    };
    more();
    return true;
  };
  const config = remote({ baseurl: `${it.server.url}good` });
  const error = await t.throwsAsync<KilnError>(lockOf([config], it.cache, { install: ['hello'] }));
  t.regex(error?.message ?? '', /longer than the 4194304 bytes/);
});

test.serial('a metadata file that does not match repomd.xml is refused', async (t) => {
  await using it = await scene(t);
  const repodata = join(it.root, 'good/repodata');
  const primary = (await readdir(repodata)).find((name) => name.includes('primary')) ?? '';
  const content = await readFile(join(repodata, primary));
  content[content.length - 1] = (content.at(-1) ?? 0) ^ 1;
  await writeFile(join(repodata, primary), content);
  const config = remote({ baseurl: `${it.server.url}good` });
  const error = await t.throwsAsync<KilnError>(lockOf([config], it.cache, { install: ['hello'] }));
  t.is(error?.code, 'E_DOWNLOAD');
  t.regex(error?.message ?? '', /primary.*its sha256 is not the one/s);
});
