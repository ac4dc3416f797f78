import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { DOCS, ERRORS_PAGE, errorsPage } from '../../scripts/write-errors.ts';
import { CODES_BY_PAGE } from '../../src/error-codes.ts';

const top = join(import.meta.dirname, '../..');
const codes = Object.values(CODES_BY_PAGE).flatMap(Object.keys);

/** Where an error gets its code. A comparison or a list of codes is no such place. */
const GIVEN =
  /(?:(?:Error|Failure|failure|super)\(|\bcode:|\?\?|_FULL =|\[VIR_ERR\.\w+,)\s*'(E_[A-Z0-9_]+)'/g;

function givenIn(text: string): string[] {
  return [...text.matchAll(GIVEN)].map(([, code = '']) => code);
}

test('every code in the table is the code of some error, and is there once', (t) => {
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

test('a code that is only compared or listed is not given', (t) => {
  t.deepEqual(givenIn("if (error.code === 'E_BIND') throw new KilnError('E_IO', 'x');"), ['E_IO']);
  t.deepEqual(givenIn("isKilnCode(error, 'E_BIND'); const all = ['E_EXEC'];"), []);
});

test('every page that helps with an error exists', (t) => {
  for (const page of Object.keys(CODES_BY_PAGE)) t.true(existsSync(join(DOCS, page)), page);
});

test('docs/errors.md has the table', (t) => {
  t.is(readFileSync(ERRORS_PAGE, 'utf8'), errorsPage(), 'run: node scripts/write-errors.ts');
});
