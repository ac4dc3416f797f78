import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { packageSets } from '../../fixtures/debian-rpms/sets.ts';
import type { KilnError } from '../../src/errors.ts';
import { fetchPackages } from '../../src/packages/repository/fetch-packages.ts';
import { shellWords } from '../../src/shell-words.ts';
import { askDnf } from '../solver/dnf.ts';
import { lockOf, nevras, repository } from './open.ts';
import { buildPackages, createRepository, temporaryDirectory } from './rpm-repository.ts';

async function localRepository(t: ExecutionContext, ...options: string[]) {
  const directory = await temporaryDirectory(t);
  const rpms = join(directory, 'my rpms');
  await buildPackages(rpms, [{ name: 'one', files: { '/usr/share/one': '1' } }, { name: 'two' }]);
  await createRepository(rpms, ...options);
  return {
    rpms,
    cache: join(directory, 'cache'),
    config: repository({ id: 'local', directory: rpms }),
  };
}

for (const type of ['bz2', 'gz', 'xz', 'zstd']) {
  test.serial(`metadata compressed by ${type} is read, and so are file lists`, async (t) => {
    const { config, cache, rpms } = await localRepository(t, `--general-compress-type=${type}`);
    t.true(
      (await readdir(join(rpms, 'repodata'))).some((name) =>
        name.endsWith(`.${type.replace('zstd', 'zst')}`),
      ),
    );
    const lock = await lockOf([config], cache, { install: ['/usr/share/one', 'two'] });
    t.deepEqual(nevras(lock), ['one-1-1.noarch', 'two-1-1.noarch']);
  });
}

test.serial('sha512 checksums of metadata and packages are accepted', async (t) => {
  const { config, cache, rpms } = await localRepository(t, '--checksum=sha512');
  const lock = await lockOf([config], cache, { install: ['two'] });
  const [entry] = lock.packages;
  const path = join(rpms, entry?.location ?? '');
  t.is(entry?.digest, `sha512:${(await execa('sha512sum', [path])).stdout.slice(0, 128)}`);
  t.is((await fetchPackages(lock, { paths: { cache } })).get(entry?.digest ?? ''), path);
});

test.serial('local packages stay in place, and a changed folder is noticed', async (t) => {
  const { config, cache, rpms } = await localRepository(t);
  const lock = await lockOf([config], cache, { install: ['one'] });
  const files = await fetchPackages(lock, { paths: { cache } });
  t.deepEqual([...files.values()], [join(rpms, 'one-1-1.noarch.rpm')]);
  t.false((await readdir(cache)).includes('objects'));
  await buildPackages(rpms, [{ name: 'one', version: '2' }]);
  await createRepository(rpms);
  t.deepEqual(nevras(await lockOf([config], cache, { install: ['one'] })), ['one-2-1.noarch']);
});

test.serial('a missing folder, and one without metadata, are errors', async (t) => {
  const { cache, rpms, config } = await localRepository(t);
  const missing = repository({ id: 'gone', directory: join(rpms, 'nowhere') });
  const error = await t.throwsAsync<KilnError>(lockOf([missing], cache, { install: ['one'] }));
  t.is(error?.code, 'E_REPOSITORY_MISSING');
  t.regex(error?.hint ?? '', /createrepo_c/);
  for (const set of ['extras', 'services', 'tools']) {
    const fixtures = repository({ id: 'gone', directory: join(rpms, 'debian-rpms', set) });
    const hinted = await t.throwsAsync<KilnError>(lockOf([fixtures], cache, { install: ['one'] }));
    const [, command = ''] = /`(.+)`/.exec(hinted?.hint ?? '') ?? [];
    const [script = '', , named] = shellWords(command);
    t.is(named, set, hinted?.hint);
    t.true(existsSync(script), script);
    t.true(packageSets.has(set));
  }
  for (const name of await readdir(join(rpms, 'repodata'))) {
    if (name.includes('primary')) await rm(join(rpms, 'repodata', name));
  }
  const other = await t.throwsAsync<KilnError>(lockOf([config], cache, { install: ['one'] }));
  t.is(other?.code, 'E_REPOSITORY_MISSING');
});

/** Replaces primary by `content`; repomd.xml says of it what is true unless `lies` are given. */
async function replacePrimary(
  rpms: string,
  content: Buffer,
  compressed: Buffer,
  suffix: string,
  lies: Record<string, string> = {},
) {
  const sha = (data: Buffer) => createHash('sha256').update(data).digest('hex');
  const name = `repodata/primary.xml.${suffix}`;
  await writeFile(join(rpms, name), compressed);
  const fields = {
    checksum: `<checksum type="sha256">${sha(compressed)}</checksum>`,
    open: `<open-checksum type="sha256">${sha(content)}</open-checksum>`,
    size: `<size>${compressed.length}</size>`,
    openSize: `<open-size>${content.length}</open-size>`,
    ...lies,
  };
  await writeFile(
    join(rpms, 'repodata/repomd.xml'),
    `<repomd xmlns="http://linux.duke.edu/metadata/repo"><revision>1</revision><data type="primary">
    ${Object.values(fields).join('')}<location href="${name}"/></data></repomd>`,
  );
}

const XML = (packages: string) =>
  Buffer.from(
    `<?xml version="1.0"?><metadata xmlns="http://linux.duke.edu/metadata/common" xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="1">${packages}</metadata>`,
  );

const PACKAGE = (
  fields: { digest?: string; href?: string; size?: string } = {},
) => `<package type="rpm">
  <name>one</name><arch>noarch</arch><version epoch="0" ver="1" rel="1"/>
  <checksum type="${fields.digest ?? 'sha256'}" pkgid="YES">${'ab'.repeat({ sha1: 20, md5: 16 }[fields.digest ?? ''] ?? 32)}</checksum>
  <size package="${fields.size ?? '100'}" installed="1" archive="1"/>
  <location href="${fields.href ?? 'one.rpm'}"/><format><rpm:license>MIT</rpm:license></format></package>`;

/** Compressed by xz's own program. */
const xz = async (content: Buffer) =>
  Buffer.from((await execa({ input: content, encoding: 'buffer' })('xz', ['-c'])).stdout);

const zeros = Buffer.alloc(64 << 20, ' ');
const BROKEN: Record<string, { make: (rpms: string) => Promise<void>; message: RegExp }> = {
  'a primary that is cut off': {
    make: (rpms) => {
      const whole = XML(PACKAGE());
      const cut = whole.subarray(0, whole.length - 40);
      return replacePrimary(rpms, cut, gzipSync(cut), 'gz');
    },
    message: /primary\.xml\.gz is broken/,
  },
  'a gzip stream that is cut off': {
    make: (rpms) => {
      const content = XML(PACKAGE());
      return replacePrimary(rpms, content, gzipSync(content).subarray(0, -12), 'gz');
    },
    message: /primary\.xml\.gz is broken/,
  },
  'an xz stream that is cut off': {
    make: async (rpms) => {
      const content = XML(PACKAGE());
      await replacePrimary(rpms, content, (await xz(content)).subarray(0, -12), 'xz');
    },
    message: /primary\.xml\.xz is broken: its xz content is damaged/,
  },
  'no xz at all': {
    make: (rpms) => replacePrimary(rpms, XML(''), Buffer.from('<html>404</html>'), 'xz'),
    message: /primary\.xml\.xz is broken/,
  },
  'an xz bomb that says how long it is': {
    make: async (rpms) =>
      replacePrimary(rpms, zeros, await xz(zeros), 'xz', {
        openSize: '<open-size>1000</open-size>',
      }),
    message: /longer than 1000 bytes decompressed/,
  },
  'no gzip at all': {
    make: (rpms) => replacePrimary(rpms, XML(''), Buffer.from('<html>404</html>'), 'gz'),
    message: /primary\.xml\.gz is broken/,
  },
  'another primary than repomd.xml says': {
    make: (rpms) =>
      replacePrimary(rpms, XML(PACKAGE()), gzipSync(XML(PACKAGE())), 'gz', {
        checksum: `<checksum type="sha256">${'0'.repeat(64)}</checksum>`,
      }),
    message: /its sha256 \(compressed\) is not the one in repomd\.xml/,
  },
  'another content than repomd.xml says': {
    make: (rpms) =>
      replacePrimary(rpms, XML(PACKAGE()), gzipSync(XML(PACKAGE())), 'gz', {
        open: `<open-checksum type="sha256">${'0'.repeat(64)}</open-checksum>`,
      }),
    message: /its sha256 \(decompressed\) is not the one in repomd\.xml/,
  },
  'a bomb that says how long it is': {
    make: (rpms) =>
      replacePrimary(rpms, zeros, zstdCompressSync(zeros), 'zst', {
        openSize: '<open-size>1000</open-size>',
      }),
    message: /longer than 1000 bytes decompressed/,
  },
  'a bomb that libsolv would have to eat': {
    make: (rpms) => replacePrimary(rpms, zeros, gzipSync(zeros), 'gz'),
    message: /primary\.xml\.gz is broken/,
  },
  'billion laughs': {
    make: (rpms) => {
      const levels = Array.from({ length: 12 }, (_, index) => {
        const inner = index === 0 ? 'ha' : `&l${index - 1};`.repeat(10);
        return `<!ENTITY l${index} "${inner}">`;
      });
      const xml = Buffer.from(
        `<?xml version="1.0"?><!DOCTYPE x [${levels.join('')}]>${XML(PACKAGE().replace('one', '&l11;')).toString().slice(21)}`,
      );
      return replacePrimary(rpms, xml, gzipSync(xml), 'gz');
    },
    message: /primary\.xml\.gz is broken/,
  },
  'a package outside the repository': {
    make: (rpms) => {
      const xml = XML(PACKAGE({ href: '../../../etc/passwd' }));
      return replacePrimary(rpms, xml, gzipSync(xml), 'gz');
    },
    message: /one-1-1\.noarch of repository local is at '.*passwd': that is outside the repository/,
  },
  'a package with a weak checksum': {
    make: (rpms) => {
      const xml = XML(PACKAGE({ digest: 'sha1' }));
      return replacePrimary(rpms, xml, gzipSync(xml), 'gz');
    },
    message: /one-1-1\.noarch of repository local: .*checksum type 'sha1'/,
  },
  'a location of another scheme': {
    make: (rpms) => {
      const xml = XML(PACKAGE({ href: 'ftp://example.org/one.rpm' }));
      return replacePrimary(rpms, xml, gzipSync(xml), 'gz');
    },
    message: /one-1-1\.noarch of repository local is at 'ftp:.*knows http:, https: and file: only/,
  },
  'a package larger than any': {
    make: (rpms) => {
      const xml = XML(PACKAGE({ size: '9007199254740993' }));
      return replacePrimary(rpms, xml, gzipSync(xml), 'gz');
    },
    message: /it has \d+ bytes/,
  },
};
for (const [title, { make, message }] of Object.entries(BROKEN)) {
  test.serial(`refused: ${title}`, async (t) => {
    const directory = await temporaryDirectory(t);
    const rpms = join(directory, 'rpms');
    const cache = join(directory, 'cache');
    await mkdir(join(rpms, 'repodata'), { recursive: true });
    await make(rpms);
    const config = repository({ id: 'local', directory: rpms });
    const error = await t.throwsAsync<KilnError>(lockOf([config], cache, { install: ['one'] }));
    t.is(error?.code, 'E_REPOSITORY_METADATA', error?.message);
    t.regex(error?.message ?? '', message);
    const left = await readdir(join(cache, 'solv')).catch(() => []);
    t.deepEqual(
      left.filter((name) => name.endsWith('.tmp')),
      [],
    );
  });
}

test.serial(
  'metadata that dnf accepts is read: no size, blanks, a relative xml:base, files elsewhere',
  async (t) => {
    const { config, cache, rpms } = await localRepository(t);
    const index = join(rpms, 'repodata/repomd.xml');
    await writeFile(index, (await readFile(index, 'utf8')).replaceAll(/<size>\d+<\/size>/g, ''));
    await mkdir(join(rpms, 'below/a b'), { recursive: true });
    await rename(join(rpms, 'one-1-1.noarch.rpm'), join(rpms, 'below/a b/one 1.rpm'));
    await rename(join(rpms, 'two-1-1.noarch.rpm'), join(rpms, '../two.rpm'));
    const elsewhere = pathToFileURL(join(rpms, '../two.rpm')).href;
    await changePrimary(rpms, (xml) =>
      xml
        .replace(
          '<location href="one-1-1.noarch.rpm"',
          '<location xml:base="below/" href="a b/one 1.rpm"',
        )
        .replace('href="two-1-1.noarch.rpm"', `href="${elsewhere}"`),
    );
    const install = ['one', 'two'];
    t.deepEqual(
      [nevras(await lockOf([config], cache, { install }))],
      await askDnf([{ directories: [rpms], install }]),
    );
    const lock = await lockOf([config], cache, { install });
    const files = await fetchPackages(lock, { paths: { cache } });
    t.deepEqual(
      [...files.values()].sort(),
      [join(rpms, '../two.rpm'), join(rpms, 'below/a b/one 1.rpm')].sort(),
    );
  },
);

/** Changes the text of primary.xml, with what repomd.xml says of it; sizes are left out. */
async function changePrimary(rpms: string, change: (xml: string) => string): Promise<void> {
  const repodata = join(rpms, 'repodata');
  const name = (await readdir(repodata)).find((entry) => entry.includes('primary.xml')) ?? '';
  const { stdout } = await execa('zstdcat', ['-f', name], {
    cwd: repodata,
    stripFinalNewline: false,
  });
  const xml = Buffer.from(change(stdout));
  const compressed = gzipSync(xml);
  const lies = { size: '', openSize: '' };
  await replacePrimary(rpms, xml, compressed, 'gz', lies);
}

test.serial('converted metadata that was damaged is made again', async (t) => {
  const { config, cache } = await localRepository(t);
  await lockOf([config], cache, { install: ['one'] });
  const [name = ''] = (await readdir(join(cache, 'solv'))).filter((entry) =>
    entry.endsWith('.solv'),
  );
  const path = join(cache, 'solv', name);
  const content = await readFile(path);
  for (const damage of [content.subarray(0, content.length / 2), Buffer.from('no solv file')]) {
    await writeFile(path, damage);
    // Another question each time, or the earlier answer would do.
    const exclude = [`nothing-${damage.length}`];
    const lock = await lockOf([config], cache, { install: ['one'], exclude });
    t.deepEqual(nevras(lock), ['one-1-1.noarch']);
    t.is((await readFile(path)).length, content.length);
  }
});

test.serial(
  'two repositories of one name, and a missing key, are reported before any download',
  async (t) => {
    const { cache, rpms } = await localRepository(t);
    const twice = [1, 2].map(() => repository({ id: 'same', directory: rpms }));
    const error = await t.throwsAsync<KilnError>(lockOf(twice, cache, { install: ['one'] }));
    t.is(error?.code, 'E_REPOSITORY_CONFIGURATION');
    const gpgkey = '/usr/share/distribution-gpg-keys/nobody/RPM-GPG-KEY-nobody';
    const signed = repository({ id: 'signed', baseurl: 'http://127.0.0.1:1/', gpgkey });
    const missing = await t.throwsAsync<KilnError>(lockOf([signed], cache, { install: ['one'] }));
    t.is(missing?.code, 'E_KEY_MISSING');
    t.regex(missing?.message ?? '', /RPM-GPG-KEY-nobody is missing/);
    t.regex(missing?.hint ?? '', /distribution-gpg-keys/);
  },
);
