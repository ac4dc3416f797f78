import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { DOCS, pages, statusesOf } from '../../scripts/write/errors.ts';
import { EXIT_STATUSES } from '../../src/cli/options/exit-statuses.ts';
import { CODES_BY_PAGE, type ErrorCode, WARNINGS_BY_PAGE } from '../../src/error-codes.ts';

const top = join(import.meta.dirname, '../..');
const codes = Object.values(CODES_BY_PAGE).flatMap(Object.keys);

/** Where an error gets its code. A comparison or a list of codes is no such place. */
const GIVEN =
  /(?:(?:Error|Failure|failure|super)\(|\bcode:|\?\?|_FULL =|\[VIR_ERR\.\w+,)\s*'(E_[A-Z0-9_]+)'/g;

function givenIn(text: string): string[] {
  return [...text.matchAll(GIVEN)].map(([, code = '']) => code);
}

test('every code in the table is the code of some error, and is listed once', (t) => {
  const files = globSync(['src/**/*.ts', 'fixtures/**/*.ts'], { cwd: top });
  const sources = files.filter((file) => file !== 'src/error-codes.ts');
  t.true(sources.length > 400);
  const given = new Set(sources.flatMap((file) => givenIn(readFileSync(join(top, file), 'utf8'))));
  t.deepEqual(
    codes.filter((code) => !given.has(code)),
    [],
  );
  t.is(new Set(codes).size, codes.length);
});

test('the client’s error codes are in the table', (t) => {
  const files = globSync('src/client/*.c', { cwd: top });
  const text = files.map((file) => readFileSync(join(top, file), 'utf8')).join('\n');
  const given = [...text.matchAll(/\bfail\(("?\w+)/g)].map(([, first = '']) => first);
  t.true(given.length > 10);
  // NULL: what kilnd said has its own.
  const known = new Set([...codes.map((code) => `"${code}`), 'NULL', 'const']);
  t.deepEqual(
    given.filter((first) => !known.has(first)),
    [],
  );
});

test('comparing or listing a code does not count as using it', (t) => {
  t.deepEqual(givenIn("if (error.code === 'E_BIND') throw new KilnError('E_IO', 'x');"), ['E_IO']);
  t.deepEqual(givenIn("isKilnCode(error, 'E_BIND'); const all = ['E_EXEC'];"), []);
});

test('every code of a warning is used somewhere', (t) => {
  const files = globSync('src/**/*.ts', { cwd: top });
  const sources = files.filter((file) => file !== 'src/error-codes.ts');
  const text = sources.map((file) => readFileSync(join(top, file), 'utf8')).join('\n');
  const given = (code: string) =>
    [`code: '${code}'`, `add('${code}'`, `add(\n      '${code}'`, `[${code}]`].some((form) =>
      text.includes(form),
    );
  const warnings = Object.values(WARNINGS_BY_PAGE).flatMap(Object.keys);
  t.deepEqual(
    warnings.filter((code) => !given(code)),
    [],
  );
  t.is(new Set(warnings).size, warnings.length);
});

test('every page that an error or a warning refers to exists', (t) => {
  for (const page of [...Object.keys(CODES_BY_PAGE), ...Object.keys(WARNINGS_BY_PAGE)]) {
    t.true(existsSync(join(DOCS, page)), page);
  }
});

test('the exit status of every error code is in the table of statuses', (t) => {
  const known = (command: keyof typeof EXIT_STATUSES): (number | string)[] =>
    EXIT_STATUSES[command].map(([status]) => status);
  for (const code of codes) {
    const { kiln, build, mock } = statusesOf(code as ErrorCode);
    // ^C ends `kiln run` as signal 2 ends a command: 128+n.
    t.true(kiln === 130 || known('kiln run').includes(kiln), `${code}: ${kiln}`);
    t.true(known('kiln build').includes(build), `${code}: ${build}`);
    t.true(known('kiln-mock').includes(mock), `${code}: ${mock}`);
  }
});

test('the docs contain the tables', (t) => {
  for (const [name, text] of Object.entries(pages())) {
    t.is(readFileSync(join(DOCS, name), 'utf8'), text, 'run: node scripts/write/errors.ts');
  }
});
