import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { encodeName } from '../../src/packages/rpm/filename.ts';
import type { queryJson } from '../../src/packages/rpm/inspect.ts';
import { KILN } from '../support/busybox-state.ts';
import { fixture, keyFile, kiln, packages, put, rpm, scratch } from './fixtures.ts';
import { buildRpm } from './rpm-builder.ts';

type Query = ReturnType<typeof queryJson>;

const NONE = '(none)';
const FIELD = '\u001f';
const END = '\u001e';

/** What rpm says of each package, by a query format whose fields end with FIELD. */
async function oracle(format: string): Promise<string[][]> {
  const out = await rpm('-qp', '--nosignature', '--qf', `${format}${END}`, ...packages);
  return out
    .split(END)
    .slice(0, -1)
    .map((record) => record.split(FIELD).slice(0, -1));
}

const query = (async () => {
  const { stdout, exitCode, stderr } = await kiln('rpm', 'query', '--json', ...packages);
  if (exitCode !== 0) throw new Error(stderr);
  return stdout.split('\n').map((line) => JSON.parse(line) as Query);
})();

test('a query prints one object for each file, in the given order', async (t) => {
  t.deepEqual(
    (await query).map(({ file }) => file),
    [...packages],
  );
});

test('the fields of every package are what rpm prints', async (t) => {
  const tags = ['NAME', 'EPOCH', 'VERSION', 'RELEASE', 'SUMMARY', 'LICENSE', 'SOURCERPM'];
  const more = ['BUILDTIME', 'PAYLOADCOMPRESSOR', 'ARCH', 'SOURCEPACKAGE', 'LONGSIZE'];
  const format = [...tags, ...more].map((tag) => `%{${tag}}${FIELD}`).join('');
  const expected = await oracle(format);
  const orNone = (value: string | number | null) => String(value ?? NONE);
  const actual = (await query).map((rpm) => {
    const source = rpm.arch === 'src';
    return [
      rpm.name,
      orNone(rpm.epoch),
      rpm.version,
      rpm.release,
      rpm.summary,
      rpm.license,
      orNone(rpm.sourceRpm),
      orNone(rpm.buildTime),
      // rpm leaves the tag out of what it does not compress.
      rpm.payloadCompressor === 'none' ? NONE : rpm.payloadCompressor,
      source ? 'source' : rpm.arch,
      source ? '1' : NONE,
      orNone(rpm.installedSize),
    ];
  });
  const comparable = expected.map((record) =>
    record.map((value, i) => (i === 9 && record[10] === '1' ? 'source' : value)),
  );
  t.deepEqual(actual, comparable);
});

for (const [kind, tag] of [
  ['requires', 'REQUIRE'],
  ['provides', 'PROVIDE'],
  ['conflicts', 'CONFLICT'],
  ['obsoletes', 'OBSOLETE'],
  ['recommends', 'RECOMMEND'],
  ['suggests', 'SUGGEST'],
  ['supplements', 'SUPPLEMENT'],
  ['enhances', 'ENHANCE'],
] as const) {
  test(`${kind} are written as rpm writes them`, async (t) => {
    const expected = await oracle(`[%{${tag}NEVRS}${FIELD}]`);
    const actual = (await query).map((rpm) => [...rpm[kind]]);
    t.deepEqual(actual, expected);
    t.true(actual.flat().length > 0 || kind === 'enhances');
  });
}

test('rich dependencies were among those compared', async (t) => {
  const rich = (await query).flatMap(({ requires }) => requires).filter((r) => r.startsWith('('));
  t.true(rich.length > 0);
});

test('the files of every package are what rpm lists', async (t) => {
  const columns = [
    ...['FILENAMES', 'FILEMODES:octal', 'FILEUSERNAME', 'FILEGROUPNAME', 'LONGFILESIZES'],
    ...['FILEMTIMES', 'FILEDIGESTS', 'FILELINKTOS', 'FILEFLAGS:fflags', 'FILECAPS'],
  ];
  const expected = await oracle(`[${columns.map((column) => `%{${column}}${FIELD}`).join('')}]`);
  const letters: Record<string, string> = {
    ...{ doc: 'd', config: 'c', specfile: 's', missingok: 'm', noreplace: 'n', ghost: 'g' },
    ...{ license: 'l', readme: 'r', artifact: 'a' },
  };
  const order = Object.values(letters).join('');
  const types = {
    ...{ file: '10', directory: '4', symlink: '12', char: '2', block: '6', fifo: '1' },
    socket: '14',
  };
  const actual = (await query).map(({ files }) =>
    files.flatMap((file) => [
      file.path,
      `${types[file.type]}${file.mode.slice(-4)}`,
      file.owner,
      file.group,
      String(file.size),
      String(file.mtime),
      file.digest?.split(':')[1] ?? '',
      file.linkTarget ?? '',
      file.flags
        .map((flag) => letters[flag] ?? '?')
        .sort((a, b) => order.indexOf(a) - order.indexOf(b))
        .join(''),
      file.caps ?? '',
    ]),
  );
  t.deepEqual(
    actual,
    expected.map((record) => record.map((value) => (value === NONE ? '' : value))),
  );
});

for (const [kind, tag] of [
  ['pretrans', 'PRETRANS'],
  ['prein', 'PREIN'],
  ['postin', 'POSTIN'],
  ['posttrans', 'POSTTRANS'],
  ['preun', 'PREUN'],
  ['postun', 'POSTUN'],
  ['verify', 'VERIFYSCRIPT'],
] as const) {
  test(`${kind} scriptlets and their interpreters are what rpm shows`, async (t) => {
    const expected = await oracle(`%{${tag}}${FIELD}[%{${tag}PROG} ]${FIELD}`);
    const actual = (await query).map(({ scriptlets }) => {
      const found = scriptlets.find((scriptlet) => scriptlet.kind === kind);
      return [
        found?.body ?? NONE,
        found === undefined ? `${NONE} ` : `${found.interpreter.join(' ')} `,
      ];
    });
    const comparable = expected.map(([body, program]) => [
      body,
      program === '' ? `${NONE} ` : program,
    ]);
    t.deepEqual(actual, comparable);
  });
}

test('triggers and their conditions are what rpm shows', async (t) => {
  const expected = await oracle(`[%{TRIGGERTYPE} %{TRIGGERCONDS}${FIELD}]`);
  const short = {
    triggerprein: 'prein',
    triggerin: 'in',
    triggerun: 'un',
    triggerpostun: 'postun',
  };
  const actual = (await query).map(({ triggers }) =>
    triggers.map(({ kind, conditions }) => `${short[kind]} ${conditions.join(', ')}`),
  );
  t.deepEqual(actual, expected);
  t.true(actual.flat().length > 0);
});

test('names that are not UTF-8 survive JSON, and become the bytes that rpm prints', async (t) => {
  const names = ['ff', 'e282', 'c3a4ff', 'eda080', 'f0908080', '6e0a6c'].map((hex) =>
    Buffer.concat([Buffer.from('/'), Buffer.from(hex, 'hex')]),
  );
  const files = names.map((path) => ({ path, mode: 0o100644, data: Buffer.from('x') }));
  const file = put(scratch(t), 'bytes.rpm', buildRpm({ files }));
  const { stdout } = await kiln('rpm', 'query', '--json', file);
  const ours = (JSON.parse(stdout) as Query).files.map(({ path }) => encodeName(path));
  const { stdout: theirs } = await execa('rpm', ['-qp', '--qf', '[%{FILENAMES}\\t]', file], {
    encoding: 'buffer',
    env: { LC_ALL: 'C' },
  });
  const joined = Buffer.concat(ours.flatMap((name) => [name, Buffer.from('\t')]));
  t.is(joined.toString('hex'), Buffer.from(theirs).toString('hex'));
});

test('a file that is missing, or not a package, is an error of its own only', async (t) => {
  const good = packages[0]!;
  const { stdout, exitCode } = await kiln('rpm', 'query', '--json', '/etc/passwd', good, '/nope');
  const [passwd, query, nope] = stdout.split('\n').map((line) => JSON.parse(line));
  t.is(exitCode, 1);
  t.is(passwd.error.code, 'E_RPM_FORMAT');
  t.is(query.file, good);
  t.regex(nope.error.message, /\/nope/);
  const short = put(scratch(t), 'short', Buffer.from('hi\n'));
  const told = await kiln('rpm', 'query', short);
  t.regex(told.stderr, /it is not an RPM package/);
  t.notRegex(told.stderr, /download it again/);
});

test('docs/rpm.md has every field', async (t) => {
  const page = await readFile(join(import.meta.dirname, '../../docs/rpm.md'), 'utf8');
  const documented = new Set([...page.matchAll(/`([A-Za-z]+)`/g)].map(([, name]) => name));
  const signed = packages.filter((file) => file.includes('/signed/'));
  const key = ['--keyring', keyFile('v4-keyring')];
  const lines = await Promise.all([
    kiln('rpm', 'query', '--json', ...packages),
    kiln('rpm', 'verify', '--json', ...key, ...signed),
  ]);
  const names = new Set<string>();
  const collect = (value: unknown): void => {
    if (Array.isArray(value)) value.forEach(collect);
    else if (typeof value === 'object' && value !== null) {
      for (const [name, inner] of Object.entries(value)) {
        names.add(name);
        if (['status', 'scope', 'verdict'].includes(name) && /^[a-z]+$/.test(String(inner))) {
          names.add(String(inner));
        }
        collect(inner);
      }
    }
  };
  for (const { stdout } of lines) collect(stdout.split('\n').map((line) => JSON.parse(line)));
  t.true(names.size > 50);
  t.deepEqual(
    [...names].filter((name) => !documented.has(name)),
    [],
  );
});

test('output that cannot be written is a failure', async (t) => {
  const script = '"$KILN" rpm query "$@" > /dev/full';
  const argv = ['-c', script, 'sh', ...packages];
  t.not((await execa('sh', argv, { env: { KILN }, reject: false })).exitCode, 0);
});

test('without any package, no table is printed', async (t) => {
  for (const options of [[], ['--files'], ['--deps'], ['--scripts']]) {
    const { stdout, stderr, exitCode } = await kiln('rpm', 'query', ...options, '/nope');
    t.deepEqual([exitCode, stdout], [1, '']);
    t.regex(stderr, /^kiln: \/nope: cannot be read \[E_\w+\]$/m);
  }
});

test('the table names each package', async (t) => {
  const { stdout } = await kiln('rpm', 'query', fixture('one-epoch'));
  t.regex(stdout, /^NAME +VERSION/);
  t.regex(stdout, /one-epoch +1:0\.1-1 +x86_64 .* zstd +none/);
});
