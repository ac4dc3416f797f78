import test from 'ava';
import type { KilnError } from '../../src/errors.ts';
import { resolveRepository } from '../../src/packages/repository/configuration.ts';
import {
  parseDuration,
  repositorySchema,
} from '../../src/packages/repository/configuration-schema.ts';

const OPTIONS = { arch: 'x86_64', releasever: '43', baseDirectory: '/recipes' };

function problems(input: unknown): string[] {
  const result = repositorySchema.safeParse(input);
  return result.success
    ? []
    : result.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`);
}

test('a repository needs exactly one source', (t) => {
  t.regex(problems({ id: 'a' }).join(), /exactly one of .* none is given/);
  t.regex(
    problems({ id: 'a', directory: 'x', baseurl: 'http://x/' }).join(),
    /not baseurl and directory/,
  );
  t.deepEqual(problems({ id: 'a', directory: 'x' }), []);
});

test('dangerous and misspelt settings are refused with their place', (t) => {
  t.regex(problems({ id: '../a', directory: 'x' }).join(), /^id: /);
  t.regex(
    problems({ id: 'a', baseurl: ['http://x/', 'ftp://x/'] }).join(),
    /^baseurl\.1: expected a URL/,
  );
  t.regex(problems({ id: 'a', metalink: 'file:///x' }).join(), /^metalink: /);
  t.regex(
    problems({ id: 'a', directory: 'x', gpgkey: 'https://x/KEY' }).join(),
    /^gpgkey\.0: keys are trusted/,
  );
  t.regex(problems({ id: 'a', directory: 'x', gpgchek: false }).join(), /gpgchek/);
  t.regex(problems({ id: 'a', directory: 'x', metadata_expire: '5 years' }).join(), /duration/);
});

test('variables, relative paths and file: URLs are resolved', (t) => {
  const resolve = (input: unknown) => resolveRepository(repositorySchema.parse(input), OPTIONS);
  t.deepEqual(
    resolve({
      id: 'a',
      gpgcheck: false,
      metalink: `https://m/metalink?repo=fedora-$releasever&arch=\${basearch}`,
    }).source,
    { kind: 'metalink', url: 'https://m/metalink?repo=fedora-43&arch=x86_64' },
  );
  t.deepEqual(resolve({ id: 'a', directory: 'rpms/$arch' }).source, {
    kind: 'directory',
    path: '/recipes/rpms/x86_64',
  });
  t.deepEqual(resolve({ id: 'a', baseurl: 'file:///srv/a%20b' }).source, {
    kind: 'directory',
    path: '/srv/a b',
  });
  t.deepEqual(resolve({ id: 'a', directory: '/x', gpgkey: ['keys/a', 'file:///etc/b'] }).gpgkey, [
    '/recipes/keys/a',
    '/etc/b',
  ]);
  const old = resolveRepository(
    repositorySchema.parse({ id: 'a', gpgcheck: false, baseurl: 'http://x/$basearch' }),
    { ...OPTIONS, arch: 'i686' },
  );
  t.deepEqual(old.source, { kind: 'baseurl', urls: ['http://x/i386'] });
  const error = t.throws<KilnError>(() => resolve({ id: 'a', directory: '/x/$nonsense' }));
  t.is(error?.code, 'E_REPOSITORY_CONFIGURATION');
});

test('signatures are checked unless the repository is local or says otherwise', (t) => {
  const resolve = (input: unknown) => resolveRepository(repositorySchema.parse(input), OPTIONS);
  t.true(resolve({ id: 'a', baseurl: 'https://x/', gpgkey: '/k' }).gpgcheck);
  t.false(resolve({ id: 'a', directory: '/x' }).gpgcheck);
  t.true(resolve({ id: 'a', directory: '/x', gpgcheck: true, gpgkey: '/k' }).gpgcheck);
  const error = t.throws<KilnError>(() => resolve({ id: 'a', baseurl: 'https://x/' }));
  t.is(error?.code, 'E_REPOSITORY_KEYS');
});

test('durations are written as in dnf.conf', (t) => {
  t.deepEqual(
    ['90', '90s', '10m', '6h', '2d', '1w'].map(parseDuration),
    [90, 90, 600, 21_600, 172_800, 604_800],
  );
  t.deepEqual(['', 'm', '-1', '1.5h', '1y', '1h30m'].map(parseDuration), Array(6).fill(undefined));
});
